"""Makes a head anew, for a run whose head is damaged or gone, of a copy that a sealed object holds.

Each sealed object carries the head that first named it. The newest whose objects are all there is
taken. What the run did after it is not known, so the run is held, and blind: a guarded call without
a record is in doubt. What stood there is put aside, so that nothing is lost by this.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Final

from coatcheck.wire import ErrorCode
from coatcheck_sidecar.core.delta import BadDelta, Chain
from coatcheck_sidecar.core.head import Head, Kept, decode_head, decode_sealed
from coatcheck_sidecar.core.layout import head_name, made_at, objects_prefix
from coatcheck_sidecar.core.model import ObjectRef
from coatcheck_sidecar.core.objects import FORMAT, BadObject, Kind, Locked, check, reference
from coatcheck_sidecar.core.record import BadRecord, Checkpoint, Commanded, Held
from coatcheck_sidecar.core.rewind import set_back
from coatcheck_sidecar.core.runlog import RunLog
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.restore import fold, read_objects
from coatcheck_sidecar.engine.shipper import Doors, Shipper
from coatcheck_sidecar.engine.verify import listed
from coatcheck_sidecar.ports import Store

EPOCHS_UNSEEN: Final = 1_000
"""A run has not so many owners between two objects."""
STEPS_UNSEEN: Final = 1_000
"""Nor so many steps behind its last object: a head carries only so many deltas."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What came of it."""

    run: str
    step: int
    """Of the checkpoint that is current now."""
    aside: str
    """The object in which the damaged head is now; empty if there was none."""


async def rebuild(doors: Doors, run: str, *, by: str, now_ms: int) -> Rebuilt:
    """Do it; raises `Refusal` (not_found, conflict, damaged), `StoreError`."""
    store, place = doors.store, head_name(run)
    stored = await store.get(place)
    if stored is not None:
        _refuse_whole(run, stored.data)
    names = [entry.name for entry in await listed(store, objects_prefix(run))]
    made = {name: at for name in names if (at := made_at(name)) is not None}
    if stored is None and not made:
        raise Refusal(ErrorCode.NOT_FOUND, f"there is no run {run} in {store.url}", run=run)
    log = await _newest(store, made, bytes_max=doors.settings.state_bytes_max)
    if log is None:
        why = f"run {run}: no object of it has a copy of its head that leads to all of it"
        raise Refusal(ErrorCode.DAMAGED, why, run=run)
    aside = ""
    if stored is not None:
        aside = f"runs/{run}/damaged-head-{hashlib.sha256(stored.data).hexdigest()[:16]}"
        await store.put(aside, stored.data)
    state = log.state
    unseen = max(seq for _, seq in made.values()) - state.seq
    state.epoch = max(state.epoch, *(epoch for epoch, _ in made.values())) + EPOCHS_UNSEEN
    log.tag = None if stored is None else stored.tag
    log.horizon = state.seq + 1  # so it is blind
    high = state.step + max(0, unseen) + STEPS_UNSEEN
    state.checkpoint = replace(state.checkpoint, step_high=high)
    set_back(log, log.kept[-1], state=log.checkpoint_bytes, at_ms=now_ms)
    log.append(Commanded(what="rebuild", by=by), at_ms=now_ms)
    log.append(Held(reason=f"rebuilt from step {state.step}: what came after it is lost"),
               at_ms=now_ms)  # fmt: skip
    await Shipper(log, doors, store_format=FORMAT).ship_all()
    return Rebuilt(run, state.step, aside)


def _refuse_whole(run: str, data: bytes) -> None:
    """Raises `Refusal` unless these bytes are no head of the run, and no key makes them one."""
    why = "is whole"
    try:
        if decode_head(head_name(run), data).run != run:
            return
    except Locked as error:
        why = f"does not open here: {error}"
    except BadObject:
        return
    raise Refusal(ErrorCode.CONFLICT, f"the head of run {run} {why}", run=run)


async def _newest(
    store: Store, made: dict[str, tuple[int, int]], *, bytes_max: int
) -> RunLog | None:
    for name in sorted(made, key=lambda name: made[name], reverse=True):
        stored = await store.get(name)
        try:
            head = None if stored is None else _head_in(name, stored.data)
            if head is not None:
                objects = {
                    ref.name: check(ref, data)
                    for ref, data in await read_objects(store, head.named_objects())
                }
                return fold(head, objects, tag="", bytes_max=bytes_max)
        except (BadObject, BadDelta, BadRecord):
            continue
    return None


def _head_in(name: str, data: bytes) -> Head | None:
    """The head that first named this object, with it; `None` if it is not a sealed one."""
    kind = next((k for k in (Kind.BASE, Kind.MID) if data[4:5] == k.value), None)
    if kind is None:
        return None
    head = decode_head(name, decode_sealed(name, data, kind=kind)[0])
    ref = reference(name, data)
    base: ObjectRef = ref if kind is Kind.BASE else _known(name, head.chain.base)
    mid = ref if kind is Kind.MID else None
    newest = next(r for r in head.records if isinstance(r.event, Checkpoint))
    kept = Kept(newest.seq, head.step, head.state_schema, head.code_version, base, mid)
    return replace(head, chain=Chain(base, mid), kept=(*head.kept, kept))


def _known(name: str, base: ObjectRef | None) -> ObjectRef:
    if base is None:
        raise BadObject(f"{name}: a mid whose head names no base")
    return base
