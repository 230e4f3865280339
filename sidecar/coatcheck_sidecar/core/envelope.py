"""An object encrypted as it leaves the pod: the object whole, in an envelope with the key's id.

    0   4  magic "CCK1"
    4   1  kind: E
    5   1  format of the envelope
    6   1  oldest format that can read it
    7   1  cipher: 1 AES-256-GCM under a key of the object's own, by HKDF-Expand (RFC 5869)
    8  16  id of the ring's key, zeros behind it
    24 32  SHA-256 over the 24 bytes before it and all behind it: damage is seen without the key
    56 16  salt
    72 12  nonce
    84     ciphertext, and the 16 bytes of its tag

Associated data are the first 24 bytes and the object's name: no object passes for another. Each
object has a key of its own, since under one key random nonces may meet after some 2^32 objects
(NIST SP 800-38D, 8.3), which a fleet that writes 1,000 a second reaches in 50 days.
"""

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CIPHER: Final = 1
HEADER_BYTES: Final = 24
DIGEST_BYTES: Final = 32
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
RANDOM_BYTES: Final = SALT_BYTES + NONCE_BYTES
"""What each object takes of chance."""
KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 16
OVERHEAD_BYTES: Final = HEADER_BYTES + DIGEST_BYTES + RANDOM_BYTES + TAG_BYTES
SEALED: Final = b"CCK1E"
UNREAD: Final = b"CCK1X"
"""Stands for an object that could not be opened, and says why. Never written to a store."""
START: Final = SEALED + bytes((1, 1, CIPHER))
INFO: Final = b"coatcheck object 1"
"""What the derived keys are for, as HKDF wants it told."""
WHY_LENGTH_MAX: Final = 400
"""Of a reason as it is shown; longer than any of ours."""
DAMAGED: Final = "damaged"
"""How the reason begins that no key would mend."""
MEND: Final = "put it (back) into the file that COATCHECK_ENCRYPTION_KEYS names"


class BadEnvelope(ValueError):  # noqa: N818 - named for what was read
    """It can't be opened; the message is the rest of a sentence about the object."""


def seal_envelope(data: bytes, *, name: str, key_id: str, key: bytes, random: bytes) -> bytes:
    """The envelope of the object `name`; `random` is `RANDOM_BYTES` that never come again."""
    salt, nonce = random[:SALT_BYTES], random[SALT_BYTES:RANDOM_BYTES]
    header = START + key_id.encode("ascii").ljust(KEY_ID_BYTES, b"\0")
    sealed = _cipher(key, salt).encrypt(nonce, data, header + name.encode())
    return b"".join((header, _digest(header, salt + nonce, sealed), salt, nonce, sealed))


def key_id_of(data: bytes) -> str | None:
    """The id of the key that an object was encrypted with, `None` if it was not."""
    if not data.startswith(SEALED):
        return None
    return data[len(START) : HEADER_BYTES].rstrip(b"\0").decode("ascii", "backslashreplace")


def open_envelope(data: bytes, *, name: str, key: bytes) -> bytes:
    """The object `name`; raises `BadEnvelope`."""
    from cryptography.exceptions import InvalidTag  # only where there are keys

    header, rest = data[:HEADER_BYTES], data[HEADER_BYTES + DIGEST_BYTES :]
    digest = data[HEADER_BYTES : HEADER_BYTES + DIGEST_BYTES]
    salt, nonce, sealed = rest[:SALT_BYTES], rest[SALT_BYTES:RANDOM_BYTES], rest[RANDOM_BYTES:]
    if len(data) < OVERHEAD_BYTES or digest != _digest(header, salt + nonce, sealed):
        raise BadEnvelope(f"{DAMAGED}, its digest does not fit its {len(data)} bytes")
    if header[:8] != START:
        raise BadEnvelope("encrypted as this release can't read it: upgrade it")
    try:
        return _cipher(key, salt).decrypt(nonce, sealed, header + name.encode())
    except InvalidTag as error:
        raise BadEnvelope(
            f"it does not open with key {key_id_of(data)}: it was written under another name or "
            "changed, or the ring has another key under this id"
        ) from error


def unread(why: str) -> bytes:
    """What a reader is handed in place of an object that can't be opened."""
    return UNREAD + why.encode()


def why_unread(data: bytes) -> str | None:
    """Why an object can't be read, if it is still in its envelope or stands for such a one."""
    if data.startswith(UNREAD):
        why = data[len(UNREAD) :].decode("ascii", "backslashreplace")[:WHY_LENGTH_MAX]
    elif data.startswith(SEALED):
        why = f"encrypted with key {key_id_of(data)}, which is not here; {MEND}"
    else:
        return None
    return "".join(c if c.isprintable() else "?" for c in why)


def _cipher(key: bytes, salt: bytes) -> "AESGCM":
    """AES-256-GCM under the object's own key."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    return AESGCM(HKDFExpand(SHA256(), length=KEY_BYTES, info=INFO + salt).derive(key))


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()
