"""Goes on from what is whole, when an object that a head names is missing or damaged.

The newest checkpoint of which all is there becomes current again; an answer that is lost is said to
be lost. What can't be done without, a pack of calls or a run's input, holds the run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from coatcheck.wire import ErrorCode
from coatcheck_sidecar.core.delta import BadDelta, Chain
from coatcheck_sidecar.core.head import Head, Kept, decode_pack, encode_head
from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.core.model import NO_BODY, OutcomeKind, Status
from coatcheck_sidecar.core.objects import BadObject, Locked, check
from coatcheck_sidecar.core.pages import Paged
from coatcheck_sidecar.core.record import (
    BadRecord,
    CallOutcome,
    Commanded,
    Held,
    Record,
    Released,
    bodies_of,
)
from coatcheck_sidecar.core.retention import chain_of
from coatcheck_sidecar.core.rewind import set_back
from coatcheck_sidecar.core.runlog import RunLog, restore
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.restore import Damaged, checkpoint_of, opened_bodies, read_objects
from coatcheck_sidecar.engine.shipper import MARKED, NONCE_BYTES, Doors, Shipper, marker_name
from coatcheck_sidecar.ports import Store, StoreRefused


@dataclass(frozen=True, slots=True)
class Good:
    """What of a run is whole."""

    log: RunLog
    """Without the answers that are lost; its checkpoint is the newest whose state is there."""
    kept: Kept | None
    """That checkpoint; `None` if the run has none yet."""


async def state_of(store: Store, kept: Kept, *, chain: Chain, bytes_max: int) -> bytes:
    """The state of a checkpoint; `chain` is its head's. Raises `BadObject`, `BadDelta`."""
    wanted = chain_of(kept, chain)
    refs = [ref for ref in (wanted.base, wanted.mid) if ref is not None]
    objects = {ref.name: check(ref, data) for ref, data in await read_objects(store, refs)}
    return checkpoint_of(wanted, objects, bytes_max=bytes_max).data


async def good_of(store: Store, head: Head, *, tag: str, bytes_max: int) -> Good | None:
    """What is whole of a run that is damaged; `None` if it can't go on. Raises `StoreError`."""
    whole: dict[str, bytes] = {}
    for ref, data in await read_objects(store, head.named_objects()):
        try:
            whole[ref.name] = check(ref, data)
        except Locked:  # with its key it is what it was: nothing of it is left behind
            return None
        except BadObject:
            continue
    try:
        log = _log(head, whole, tag=tag)
    except (BadObject, BadRecord, KeyError):  # a pack
        return None
    if not _forget_answers(log, whole):
        return None
    for kept in reversed(head.kept):
        try:
            state = await state_of(store, kept, chain=head.chain, bytes_max=bytes_max)
        except Locked:
            return None
        except (BadObject, BadDelta):
            continue
        log.chain = chain_of(kept, head.chain)
        log.kept = tuple(each for each in head.kept if each.seq <= kept.seq)
        log.checkpoint = Paged(state)
        return Good(log, kept)
    return None if head.step else Good(log, None)


def _log(head: Head, whole: dict[str, bytes], *, tag: str) -> RunLog:
    names = {pack.ref.name for pack in head.packs}
    packs = [decode_pack(pack.ref.name, whole[pack.ref.name]) for pack in head.packs]
    sealed = {ref.name for ref in (head.chain.base, head.chain.mid) if ref is not None}
    bodies = {name: data for name, data in whole.items() if name not in names | sealed}
    return restore(head, tag=tag, packs=packs, bodies=opened_bodies(bodies))


def _forget_answers(log: RunLog, whole: Mapping[str, bytes]) -> bool:
    """Say of calls whose answer is lost that it is; false if something else is lost."""
    for record in list(log.state.records.values()):
        refs = [body.ref for body in bodies_of(record) if body.ref is not None]
        if all(ref.name in whole for ref in refs):
            continue
        if not isinstance(record.event, CallOutcome):
            return False
        event = replace(record.event, outcome=OutcomeKind.NOT_RETAINED, body=NO_BODY)
        log.state.amend(record, event)
        log.unpack()  # a pack may name it
    return True


async def repair(doors: Doors, damage: Damaged, *, by: str, now_ms: int) -> bool:
    """Write a head that names only what is whole; false if the run can't go on so, or is over.

    Nobody owns the run then. Raises `Refusal` (fenced) if somebody else was quicker, `StoreError`.
    """
    head, why, bytes_max = damage.head, str(damage), doors.settings.state_bytes_max
    if head.status.is_final:
        return False
    good = await good_of(doors.store, head, tag=damage.tag, bytes_max=bytes_max)
    if good is None:
        return False
    log, kept = good.log, good.kept
    log.state.epoch += 1
    if kept is not None and kept.seq != log.state.checkpoint_seq:
        set_back(log, kept, state=log.checkpoint_bytes, at_ms=now_ms)
    log.append(Commanded(what="repair", by=by, why=why), at_ms=now_ms)
    if head.status is Status.OWNED:
        released = Released(reason="repaired", crashes=log.state.crashes)
        log.append(released, at_ms=now_ms)
    await Shipper(log, doors).ship_all()
    if head.status in MARKED:
        await doors.store.delete(marker_name(head))
    doors.observer.note("repaired", run=head.run, step=log.state.step, error=why)
    return True


async def hold(doors: Doors, damage: Damaged, *, now_ms: int) -> Refusal:
    """Nothing more is done with a run whose only copy of something is damaged."""
    head = damage.head
    if not head.status.is_final and head.status is not Status.HELD:
        at = head.seq + 1
        reason = f"damaged: {damage}"
        held = Record(at, head.epoch + 1, now_ms, Held(reason=reason))
        head = replace(
            head,
            epoch=head.epoch + 1,
            seq=at,
            nonce=doors.clock.random_bytes(NONCE_BYTES),
            status=Status.HELD,
            reason=reason,
            records=(*head.records, held),
        )
        try:
            await doors.store.swap(head_name(head.run), encode_head(head), expected=damage.tag)
        except StoreRefused:
            doors.observer.note("look_failed", error=f"{head.run} moved on")
    return Refusal(ErrorCode.DAMAGED, f"run {head.run} is held: {damage}", run=head.run)
