"""Deletes what no head names any more. May run anywhere, at any time, as often as one likes."""

from dataclasses import dataclass
from typing import Final

from coatcheck_sidecar.core.collection import dead, named
from coatcheck_sidecar.core.head import decode_pack
from coatcheck_sidecar.core.layout import objects_prefix
from coatcheck_sidecar.core.objects import BadObject, check
from coatcheck_sidecar.core.record import Record
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.lines import each
from coatcheck_sidecar.engine.restore import parts_in, read_head, read_objects
from coatcheck_sidecar.engine.verify import listed
from coatcheck_sidecar.ports import Store

GRACE_S: Final = 3_600.0
"""An object is left alone for so long after it was written: somebody who claims nothing may have
read the head that named it."""
DELETES_MAX: Final = 8
"""At once."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What became of a run's objects."""

    run: str
    objects: int
    """That there were, the head apart."""
    deleted: int
    bytes: int
    """Of those that were deleted, or would be."""
    left: str = ""
    """Why nothing was deleted, if there is a reason."""


async def collect(
    store: Store, run: str, *, grace_s: float = GRACE_S, is_dry: bool = False
) -> Collected:
    """Delete the dead objects of a run, or only count them. Raises `StoreError`.

    The objects are listed before the head is read, so that none is missed which it names by then.
    """
    entries = await listed(store, objects_prefix(run))
    try:
        found = await read_head(store, run)
        if found is None:
            why = (
                "it has no head: it is being made, or was; `coatcheck delete` removes what is left"
            )
            return Collected(run, len(entries), 0, 0, why if entries else "")
        head = found[0]
        packed: list[Record] = []
        for ref, data in await read_objects(store, [pack.ref for pack in head.packs]):
            packed += decode_pack(ref.name, check(ref, data))[0]
        parts = await parts_in(store, head, packed=packed)
    except (BadObject, Refusal) as error:
        return Collected(run, len(entries), 0, 0, str(error))
    alive = named(head, packed) | {ref.name for ref in parts}
    names = set(dead(head, alive, listed=(entry.name for entry in entries)))
    before_ms = await store.now_ms() - grace_s * 1000
    gone = [e for e in entries if e.name in names and e.modified_ms <= before_ms]
    if not is_dry:
        await each([entry.name for entry in gone], store.delete, at_once=DELETES_MAX)
    return Collected(run, len(entries), len(gone), sum(entry.length for entry in gone))
