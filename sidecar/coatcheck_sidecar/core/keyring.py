"""The keys that a store's objects are encrypted with, as a file says them."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from coatcheck_sidecar.core.envelope import KEY_BYTES

PLAIN: Final = "plain"
"""In place of a key: objects as they are. First: written so; behind a key: read so."""
KEYS_MAX: Final = 64
"""More than anybody rotates in the life of a run: the file is another one."""
_KEY_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,15}", re.ASCII)
_FORM: Final = "must be `id: key`, the key 32 bytes in base64 (openssl rand -base64 32)"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """What reads, and which of it writes."""

    keys: Mapping[str, bytes] = field(repr=False)
    """By id, 32 bytes each."""
    writer: str
    """The id of the key that new objects are encrypted with, or `PLAIN`."""
    reads_plain: bool
    """Objects that are not encrypted are taken."""


def parse_key_ring(text: str) -> KeyRing:
    """One line a key, `id: base64`, the first is the one that writes; `plain` may stand for one.

    Blank lines and those that begin with # are left out, so it may be YAML. Raises `ValueError`,
    which names the line and no part of it.
    """
    ring: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        key_id, colon, encoded = (part.strip() for part in entry.partition(":"))
        if key_id in ring:
            raise ValueError(f"line {number}: there is such an id above")
        if key_id == PLAIN:
            if colon:
                raise ValueError(f"line {number}: `plain` has no key")
            ring[key_id] = b""
            continue
        ring[key_id] = _key(encoded, number=number)
        if _KEY_ID.fullmatch(key_id) is None:
            raise ValueError(
                f"line {number}: an id has 1 to 16 of A-Z a-z 0-9 . _ - and begins with a letter "
                "or digit"
            )
    if not ring.keys() - {PLAIN}:
        raise ValueError("it holds no key")
    if len(ring) > KEYS_MAX:
        raise ValueError(f"it holds {len(ring)} keys; at most {KEYS_MAX}")
    keys = {key_id: key for key_id, key in ring.items() if key}
    return KeyRing(keys, writer=next(iter(ring)), reads_plain=PLAIN in ring)


def _key(encoded: str, *, number: int) -> bytes:
    try:
        key = base64.b64decode(encoded.strip("'\""), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"line {number}: {_FORM}") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"line {number}: {_FORM}")
    return key
