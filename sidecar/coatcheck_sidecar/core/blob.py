"""Big values that a run keeps beside its state: named by their digest, put in parts."""

import re
from collections.abc import Sequence
from typing import Final

import msgpack

from coatcheck_sidecar.core.blob_records import Blob
from coatcheck_sidecar.core.model import Body, ObjectRef
from coatcheck_sidecar.core.objects import BadObject
from coatcheck_sidecar.core.plain import take_all
from coatcheck_sidecar.core.record import pack_ref, unpack_ref

PART_BYTES: Final = 2_097_152
"""Four of them on their way are 8 MiB, some times over: as they came, sealed, and being sent."""
BLOBS_MAX: Final = 256
"""Of one run at once: each is a record of its log."""
NAME: Final = re.compile("[0-9a-f]{64}")
"""SHA-256 in hexadecimal."""
RANGE: Final = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")
"""RFC 9110, section 14.4, with all three numbers."""


def blob_of(name: str, length: int, *, parts: Sequence[ObjectRef]) -> Blob:
    """The record of a blob that is in the store."""
    data = msgpack.packb([pack_ref(ref) for ref in parts])
    return Blob(digest=bytes.fromhex(name), length=length, parts=Body(data))


def parts_of(blob: Blob, data: bytes | None) -> list[ObjectRef]:
    """Its parts in their order; `data` is the record's body, read back. Raises `BadObject`."""
    name = blob.digest.hex()
    if data is None:
        raise BadObject(f"the list of the parts of blob {name} is missing")
    try:
        return [unpack_ref(raw) for raw in take_all(msgpack.unpackb(data), list)]
    except ValueError as error:
        raise BadObject(f"the list of the parts of blob {name} is damaged: {error}") from error


def range_of(said: str | None, *, length: int) -> tuple[int, int]:
    """(offset, length of the whole) of a request with `length` bytes; raises `ValueError`."""
    if said is None:
        return 0, length
    found = RANGE.fullmatch(said)
    if found is None:
        raise ValueError(f"Content-Range is {said!r:.80}, not bytes FIRST-LAST/LENGTH")
    first, last, whole = map(int, found.groups())
    if last - first + 1 != length or last >= whole:
        raise ValueError(f"Content-Range says {said}, and {length} bytes come")
    return first, whole
