"""Holds all that the store has of a run against its digests: what is damaged, what is left over.

It reads, and writes nothing. What is found damaged is looked at again if the head has moved: an
owner that goes on drops objects that a moment before were named.
"""

from dataclasses import dataclass
from typing import Final

from coatcheck_sidecar.core.delta import BadDelta
from coatcheck_sidecar.core.head import BadObject, Head, check, decode_head
from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.core.record import BadRecord
from coatcheck_sidecar.engine.restore import LOOKS_MAX, fold, read_objects
from coatcheck_sidecar.ports import Listed, Store

PAGE: Final = 1_000
"""Names in one answer of a store."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An object that is not what was written."""

    name: str
    part: str
    """`head`, `base`, `mid`, `pack` or `body`; `log`: all are whole, and together make no log."""
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
    read = await read_objects(store, head.named_objects())
    faults, objects = [], {}
    for ref, found in read:
        try:
            objects[ref.name] = check(ref, found)
        except BadObject as error:
            faults.append(Fault(ref.name, _part(head, ref.name), str(error)))
    if not faults:
        try:
            fold(head, dict(objects), tag="", bytes_max=bytes_max)
        except (BadObject, BadDelta, BadRecord) as error:
            faults.append(Fault(place, "log", str(error)))
    return Verdict(
        run,
        status=head.status.value,
        step=head.step,
        objects=1 + len(read),
        bytes=len(data) + sum(len(found) for _, found in read if found is not None),
        unnamed=len(names - {place} - {ref.name for ref, _ in read}),
        faults=tuple(faults),
    )


def _head(run: str, data: bytes) -> Head:
    head = decode_head(head_name(run), data)
    if head.run != run:
        raise BadObject(f"{head_name(run)}: it is the head of run {head.run}")
    return head


def _part(head: Head, name: str) -> str:
    chain = {"base": head.chain.base, "mid": head.chain.mid}
    found = next((part for part, ref in chain.items() if ref is not None and ref.name == name), "")
    return found or ("pack" if any(pack.ref.name == name for pack in head.packs) else "body")


async def listed(store: Store, prefix: str) -> list[Listed]:
    """All that begins so, however much it is."""
    entries: list[Listed] = []
    while True:
        page = await store.list(prefix, after=entries[-1].name if entries else "", limit=PAGE)
        entries += page
        if len(page) < PAGE:
            return entries
