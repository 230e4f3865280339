"""Brings a run back in two round trips: its head, then all that the head names, at once."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core.blob import parts_of
from coatcheck_sidecar.core.blob_records import Blob
from coatcheck_sidecar.core.delta import BadDelta, Chain, decode_delta
from coatcheck_sidecar.core.head import Head, decode_head, decode_pack, decode_sealed
from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.core.model import ObjectRef
from coatcheck_sidecar.core.objects import BadObject, FromFuture, Kind, check, unseal
from coatcheck_sidecar.core.pages import Paged
from coatcheck_sidecar.core.patch_delta import next_state
from coatcheck_sidecar.core.record import BadRecord, Claimed, Record
from coatcheck_sidecar.core.runlog import RunLog, restore
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.ports import Store

READS_MAX: Final = 16
"""Objects of one restore read at once."""
LOOKS_MAX: Final = 5
"""Heads read in one restore, when objects vanish since the run's owner goes on meanwhile."""


class Damaged(Exception):  # noqa: N818 - names what it is
    """An object that the head names is missing or damaged, and the head did not move."""

    def __init__(self, message: str, *, head: Head, tag: str) -> None:
        """The message names the object."""
        super().__init__(message)
        self.head = head
        self.tag = tag


@dataclass(frozen=True, slots=True)
class Restored:
    """A run as the store has it."""

    head: Head
    log: RunLog


async def read_head(store: Store, run: str) -> tuple[Head, str] | None:
    """The head and its tag; raises `StoreError`, `Refusal` (damaged)."""
    stored = await store.get(head_name(run))
    if stored is None:
        return None
    try:
        head = decode_head(head_name(run), stored.data)
    except FromFuture as error:
        raise Refusal(ErrorCode.UNAVAILABLE, str(error), retry=Retry.LATER, run=run) from error
    except BadObject as error:
        raise damaged(run, str(error)) from error
    if head.run != run:
        raise damaged(run, f"{head_name(run)} is the head of run {head.run}")
    return head, stored.tag


def address_of(head: Head) -> str:
    """What the agent of its owner gave for redirects."""
    claims = [record.event for record in head.records if isinstance(record.event, Claimed)]
    return claims[-1].address if claims else ""


def damaged(run: str, what: str) -> Refusal:
    """The answer to a client: what of the run is damaged."""
    return Refusal(ErrorCode.DAMAGED, f"run {run}: {what}", run=run)


async def read_run(
    store: Store, run: str, *, bytes_max: int, found: tuple[Head, str] | None = None
) -> Restored | None:
    """The run's log with its checkpoint; raises `Damaged`, `StoreError`, `Refusal`.

    `found` is its head, if that was just read.
    """
    found = found or await read_head(store, run)
    looks = 0
    while found is not None:
        head, tag = found
        looks += 1
        try:
            return Restored(head, await _read_named(store, head, tag=tag, bytes_max=bytes_max))
        except (BadObject, BadDelta, BadRecord) as error:
            found = await read_head(store, run)
            is_same = found is not None and found[0].nonce == head.nonce
            if is_same or looks >= LOOKS_MAX:
                raise Damaged(str(error), head=head, tag=tag) from error
    return None


async def _read_named(store: Store, head: Head, *, tag: str, bytes_max: int) -> RunLog:
    read = await read_objects(store, head.named_objects())
    objects = {ref.name: check(ref, data) for ref, data in read}
    return fold(head, objects, tag=tag, bytes_max=bytes_max)


async def read_objects(
    store: Store, refs: Iterable[ObjectRef]
) -> list[tuple[ObjectRef, bytes | None]]:
    """The bytes of each, unchecked; `None` for one that is not there. Raises `StoreError`."""
    gate = asyncio.Semaphore(READS_MAX)

    async def read(ref: ObjectRef) -> tuple[ObjectRef, bytes | None]:
        async with gate:
            stored = await store.get(ref.name)
        return ref, None if stored is None else stored.data

    return await asyncio.gather(*(read(ref) for ref in refs))


async def parts_in(store: Store, head: Head, *, packed: Iterable[Record]) -> list[ObjectRef]:
    """The parts of all blobs that a run has; raises `BadObject`, `StoreError`."""
    live = {*head.calls}
    found: list[ObjectRef] = []
    for record in (*head.records, *(r for r in packed if r.seq in live)):
        if not isinstance(record.event, Blob):
            continue
        data, ref = record.event.parts.data, record.event.parts.ref
        if data is None and ref is not None:
            ((_, body),) = await read_objects(store, [ref])
            data = unseal(ref.name, check(ref, body), kind=Kind.BODY)[0]
        found += parts_of(record.event, data)
    return found


def fold(head: Head, objects: dict[str, bytes], *, tag: str, bytes_max: int) -> RunLog:
    """The log with its checkpoint; raises `BadObject`, `BadDelta`, `BadRecord`.

    `objects` are all that the head names, and used up.
    """
    packs = [decode_pack(pack.ref.name, objects.pop(pack.ref.name)) for pack in head.packs]
    state = checkpoint_of(head.chain, objects, bytes_max=bytes_max)
    log = restore(head, tag=tag, packs=packs, bodies=opened_bodies(objects))
    log.checkpoint = state
    return log


def opened_bodies(objects: Mapping[str, bytes]) -> dict[str, bytes]:
    """What is in these objects; raises `BadObject`."""
    return {name: unseal(name, data, kind=Kind.BODY)[0] for name, data in objects.items()}


def checkpoint_of(chain: Chain, objects: dict[str, bytes], *, bytes_max: int) -> Paged:
    """The state at the end of the chain; takes base and mid out of `objects`."""
    state = b""
    for ref, kind in ((chain.base, Kind.BASE), (chain.mid, Kind.MID)):
        if ref is not None:
            _, data = decode_sealed(ref.name, objects.pop(ref.name), kind=kind)
            state = decode_delta(state, data, bytes_max=bytes_max)
    last = Paged(state)
    for delta in chain.deltas:
        last = next_state(last, delta.data, bytes_max=bytes_max)
    return last


def hold_against(head: Head, rows: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """What the journal has beyond the head, and what it has of a log that went on elsewhere.

    Beyond: exactly where the head ends, in its epoch. Elsewhere: behind a gap, or of an earlier
    epoch from the record on by which the head's owner claimed. The rest is in the head.
    """
    claims = [record.seq for record in head.records if isinstance(record.event, Claimed)]
    claimed_at = max(claims, default=0)
    tail: list[Record] = []
    elsewhere: list[Record] = []
    for record in rows:
        if record.epoch == head.epoch and record.seq == head.seq + len(tail) + 1:
            tail.append(record)
        elif record.seq > head.seq or (record.epoch < head.epoch and record.seq >= claimed_at):
            elsewhere.append(record)
    return tail, elsewhere
