"""Call records that are set aside from a head, in packs: which ones, and which packs are merged."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from coatcheck_sidecar.core.blob_records import Blob
from coatcheck_sidecar.core.head import PackRef, Tombstone
from coatcheck_sidecar.core.record import CallEvent, Record, encode_record
from coatcheck_sidecar.core.undo_records import Undo

TAIL_BYTES_MAX: Final = 16_384
"""Call records and tombstones that a head carries before they are set aside in a pack."""
PACKS_MAX: Final = 8
"""A restore reads each, so they stay few."""
TIER: Final = 2
"""A pack is merged with what follows once that has grown to half of it: a record is written again
as often as its pack doubles."""


def is_packable(record: Record) -> bool:
    """It may lie in a pack; all others stay in the head."""
    return isinstance(record.event, CallEvent | Undo | Blob)


def covered(packs: Sequence[PackRef]) -> int:
    """Call records up to this sequence number are in packs."""
    return packs[-1].last if packs else 0


def is_packed(record: Record, up_to: int) -> bool:
    """It lies in a pack; `up_to` is what they cover."""
    return record.seq <= up_to and is_packable(record)


def tail_bytes(
    tail: Iterable[Record], tombstones: Sequence[Tombstone], *, encoded: Mapping[int, bytes]
) -> int:
    """About what of these a pack would take out of a head; `encoded` has some of them already."""
    size = sum(len(stone.key) + len(stone.tool) + 48 for stone in tombstones)
    for record in tail:
        if is_packable(record):
            size += len(encoded.get(record.seq) or encode_record(record, inline=False))
    return size


def live(packs: Sequence[PackRef], places: Sequence[int], *, since: int = 0) -> tuple[PackRef, ...]:
    """Packs that still hold a tombstone, or a record that counts: at `places`, or from `since` on.

    With 0 for `since` there are none of the latter.
    """
    found, low = [], 0
    for pack in packs:
        is_recent = 0 < since <= pack.last
        if pack.tombstones or is_recent or any(low < place <= pack.last for place in places):
            found.append(pack)
        low = pack.last
    return tuple(found)


def merge_from(packs: Sequence[PackRef], added_bytes: int) -> int:
    """From which one on the packs become one with what is added, `added_bytes` big."""
    first, size = len(packs), added_bytes
    while first and (first >= PACKS_MAX or packs[first - 1].ref.length <= TIER * size):
        first -= 1
        size += packs[first].ref.length
    return first
