"""Holds all that the store has of a run against its digests: what is damaged, what is left over.

It reads, and writes nothing. What is found damaged is looked at again if the head has moved: an
owner that goes on drops objects that a moment before were named.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from coatcheck_sidecar.core.delta import BadDelta, Chain
from coatcheck_sidecar.core.head import Head, decode_head, decode_pack
from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.core.model import ObjectRef
from coatcheck_sidecar.core.objects import BadObject, check
from coatcheck_sidecar.core.record import BadRecord
from coatcheck_sidecar.engine.fallback import good_of
from coatcheck_sidecar.engine.lines import each
from coatcheck_sidecar.engine.restore import LOOKS_MAX, fold, parts_in, read_objects
from coatcheck_sidecar.ports import Listed, Store

PARTS_READ_MAX: Final = 4
"""Of blobs at once: each has 2 MiB."""
PAGE: Final = 1_000
"""Names in one answer of a store."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An object that is not what was written."""

    name: str
    part: str
    """`head`, `base`, `mid`, `pack`, `body`, `part` of a blob; `log`: all are whole, and together
    make no log."""
    why: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the store has of a run."""

    run: str
    status: str = ""
    """Empty without a head that can be read."""
    step: int = 0
    """The last one with a checkpoint."""
    objects: int = 0
    """Read, the head among them."""
    bytes: int = 0
    unnamed: int = 0
    """Objects in the run's folder that its head does not name: superseded, or on their way."""
    faults: tuple[Fault, ...] = ()
    goes_on: str = ""
    """Of a damaged run: what an opening of it does."""


async def verify_run(store: Store, run: str, *, bytes_max: int) -> Verdict | None:
    """Read a run whole; `None` if there is nothing of it. Raises `StoreError`."""
    verdict = None
    for _ in range(LOOKS_MAX):
        stored = await store.get(head_name(run))
        names = {entry.name for entry in await listed(store, f"runs/{run}/")}
        if stored is None and not names:
            return None
        data = None if stored is None else stored.data
        verdict = await _judge(store, run, data=data, names=names, bytes_max=bytes_max)
        again = await store.get(head_name(run)) if verdict.faults else stored
        if (None if again is None else again.data) == data:
            break
    return verdict


async def _judge(
    store: Store, run: str, *, data: bytes | None, names: set[str], bytes_max: int
) -> Verdict:
    place = head_name(run)
    if data is None:
        why = f"{place}: missing; the run was being made, or has lost it"
        return Verdict(run, unnamed=len(names), faults=(Fault(place, "head", why),))
    try:
        head = _head(run, data)
    except BadObject as error:
        fault = Fault(place, "head", str(error))
        return Verdict(run, unnamed=len(names - {place}), faults=(fault,))
    kept = [ref for k in head.kept for ref in (k.base, k.mid) if ref is not None]
    refs = {ref.name: ref for ref in (*head.named_objects(), *kept)}
    read = await read_objects(store, refs.values())
    faults, objects = [], {}
    for ref, found in read:
        try:
            objects[ref.name] = check(ref, found)
        except BadObject as error:
            faults.append(Fault(ref.name, _part(head, ref.name), str(error)))
    wanted = {ref.name for ref in head.named_objects()}
    if wanted <= objects.keys():
        try:
            fold(head, {name: objects[name] for name in wanted}, tag="", bytes_max=bytes_max)
        except (BadObject, BadDelta, BadRecord) as error:
            faults.append(Fault(place, "log", str(error)))
    parts = await _parts(store, head, whole=objects)
    found_parts = await each(parts, lambda ref: _held(store, ref), at_once=PARTS_READ_MAX)
    faults += [fault for fault in found_parts if fault is not None]
    part_names = {ref.name for ref in parts}
    return Verdict(
        run,
        status=head.status.value,
        step=head.step,
        objects=1 + len(read) + len(parts),
        bytes=len(data)
        + sum(len(found) for _, found in read if found is not None)
        + sum(ref.length for ref in parts),
        unnamed=len(names - {place} - refs.keys() - part_names),
        faults=tuple(faults),
        goes_on=await _goes_on(store, head, bytes_max=bytes_max) if faults else "",
    )


async def _parts(store: Store, head: Head, *, whole: dict[str, bytes]) -> list[ObjectRef]:
    """Of all blobs whose list of parts can be read: a fault of it is told of already."""
    packs = [pack.ref.name for pack in head.packs if pack.ref.name in whole]
    packed = [record for name in packs for record in decode_pack(name, whole[name])[0]]
    with suppress(BadObject):
        return await parts_in(store, head, packed=packed)
    return []


async def _held(store: Store, ref: ObjectRef) -> Fault | None:
    """Read and let go: a blob may be bigger than what there is of memory."""
    stored = await store.get(ref.name)
    try:
        check(ref, None if stored is None else stored.data)
    except BadObject as error:
        return Fault(ref.name, "part", str(error))
    return None


async def _goes_on(store: Store, head: Head, *, bytes_max: int) -> str:
    if head.status.is_final:
        return "it is over"
    good = await good_of(store, head, tag="", bytes_max=bytes_max)
    if good is None:
        return "it is held"
    step = good.kept.step if good.kept is not None else 0
    return f"it goes on from its checkpoint of step {step}"


def _head(run: str, data: bytes) -> Head:
    head = decode_head(head_name(run), data)
    if head.run != run:
        raise BadObject(f"{head_name(run)}: it is the head of run {head.run}")
    return head


def _part(head: Head, name: str) -> str:
    chains = [head.chain, *(Chain(kept.base, kept.mid) for kept in head.kept)]
    if any(chain.base is not None and chain.base.name == name for chain in chains):
        return "base"
    if any(chain.mid is not None and chain.mid.name == name for chain in chains):
        return "mid"
    return "pack" if any(pack.ref.name == name for pack in head.packs) else "body"


async def listed(store: Store, prefix: str) -> list[Listed]:
    """All that begins so, however much it is."""
    entries: list[Listed] = []
    while True:
        page = await store.list(prefix, after=entries[-1].name if entries else "", limit=PAGE)
        entries += page
        if len(page) < PAGE:
            return entries
