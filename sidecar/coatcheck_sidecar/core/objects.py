"""Objects of a store as bytes: their envelope, and references to them.

Every object describes itself. Its first 56 bytes:

    0   4  magic "CCK1"
    4   1  kind: H head, B base, M mid, P pack, O body of a record, V part of a blob, R ready
           marker, A heartbeat, C command
    5   1  format version that wrote it
    6   1  oldest format version that can read it
    7   1  codec of the payload: 0 none, 1 zstd, 2 zstd against the base
    8  16  key id, zeros: not encrypted
    24 32  SHA-256 over the 24 bytes before it and the payload

The rest is the payload. `docs/format.md` has examples.
"""

import hashlib
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, TypeVar

import msgpack

from coatcheck_sidecar.core.envelope import DAMAGED, why_unread
from coatcheck_sidecar.core.model import ObjectRef
from coatcheck_sidecar.core.record import DIGEST_BYTES

T = TypeVar("T")

MAGIC: Final = b"CCK1"
FORMAT: Final = 2
"""The newest format that this release writes and reads; it reads all older ones."""
FORMAT_BEFORE: Final = 1
"""The oldest that it still writes: heads that name no older checkpoints. All other objects are as
they were, and any reader's."""
NO_KEY: Final = bytes(16)
HEADER_BYTES: Final = 24
PAYLOAD_AT: Final = HEADER_BYTES + DIGEST_BYTES


class Kind(Enum):
    """What an object is."""

    HEAD = b"H"
    BASE = b"B"
    MID = b"M"
    PACK = b"P"
    BODY = b"O"
    PART = b"V"
    MARKER = b"R"
    HEARTBEAT = b"A"
    COMMAND = b"C"


class Codec(Enum):
    """How a payload is to be read."""

    NONE = 0
    ZSTD = 1
    ZSTD_AGAINST_BASE = 2


CODECS: Final = {Kind.BASE: Codec.ZSTD, Kind.MID: Codec.ZSTD_AGAINST_BASE}
"""How this format writes a kind of object; all others uncompressed."""


class BadObject(ValueError):  # noqa: N818 - named for what was read
    """An object is damaged, not ours, or from the future; the message names it."""


class Locked(BadObject):
    """An object may well be whole, and does not open here: its key is missing, or the release."""


class FromFuture(Locked):
    """An object is whole, and of a newer format than this release reads."""


def seal(kind: Kind, payload: bytes, *, number: int = FORMAT_BEFORE) -> bytes:
    """An object's bytes, in the format `number`, which takes a reader of it."""
    codec = CODECS.get(kind, Codec.NONE)
    header = MAGIC + kind.value + bytes((number, number, codec.value)) + NO_KEY
    return b"".join((header, _digest(header, payload), payload))


def unseal(name: str, data: bytes, *, kind: Kind) -> tuple[bytes, Codec]:
    """The payload of the object `name` and its codec; raises `BadObject`."""
    _check_open(name, data)
    header, digest = data[:HEADER_BYTES], data[HEADER_BYTES:PAYLOAD_AT]
    payload = data[PAYLOAD_AT:]
    if header[:4] != MAGIC:
        raise BadObject(f"{name}: not an object of coatcheck (no magic)")
    if len(digest) < DIGEST_BYTES or digest != _digest(header, payload):
        raise BadObject(f"{name}: damaged, its digest does not fit its {len(data)} bytes")
    return payload, _codec(name, header, kind=kind)


def payload_of(ref: ObjectRef, data: bytes | None, *, kind: Kind) -> memoryview:
    """The payload of what was read for `ref`, hashed once and not copied; raises `BadObject`."""
    whole = check(ref, data)
    _codec(ref.name, whole[:HEADER_BYTES], kind=kind)
    return memoryview(whole)[PAYLOAD_AT:]


def _codec(name: str, header: bytes, *, kind: Kind) -> Codec:
    """How the payload behind this header is to be read; raises `BadObject` if it is not for us."""
    if header[4:5] != kind.value:
        raise BadObject(f"{name}: of kind {header[4:5]!r}, expected {kind.value!r}")
    if header[6] > FORMAT:
        raise FromFuture(
            f"{name}: written by format {header[5]}, which takes a reader of {header[6]}; "
            f"this release reads up to {FORMAT}: upgrade it"
        )
    if header[8:24] != NO_KEY:
        raise Locked(f"{name}: encrypted with key {header[8:24].hex()}, and there is no key")
    codec = CODECS.get(kind, Codec.NONE)
    if header[7] != codec.value:
        raise BadObject(f"{name}: of codec {header[7]}, expected {codec.value}")
    return codec


def _check_open(name: str, data: bytes) -> None:
    """Raise `BadObject` for what is still encrypted: that says more than a digest that is wrong."""
    if why := why_unread(data):
        raise (BadObject if why.startswith(DAMAGED) else Locked)(f"{name}: {why}")


def decode_object(name: str, data: bytes, *, kind: Kind, read: Callable[[Any], T]) -> T:
    """What `read` makes of an object's msgpack payload; raises `BadObject`, naming the object."""
    payload, _ = unseal(name, data, kind=kind)
    try:
        return read(msgpack.unpackb(payload))
    except (KeyError, TypeError, ValueError) as error:
        raise BadObject(f"{name}: not a {kind.name.lower()}: {error}") from error


def _digest(header: bytes, payload: bytes) -> bytes:
    digest = hashlib.sha256(header)
    digest.update(payload)
    return digest.digest()


def reference(name: str, data: bytes) -> ObjectRef:
    """What a head says of an object: its name, the digest of all its bytes, their number."""
    return ObjectRef(name, hashlib.sha256(data).digest(), len(data))


def check(ref: ObjectRef, data: bytes | None) -> bytes:
    """The bytes read for `ref`, if they are what the head named; raises `BadObject`."""
    if data is None:
        raise BadObject(f"{ref.name}: missing")
    _check_open(ref.name, data)
    if len(data) != ref.length or hashlib.sha256(data).digest() != ref.digest:
        raise BadObject(f"{ref.name}: damaged, {len(data)} bytes do not fit the head's digest")
    return data
