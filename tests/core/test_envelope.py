"""Encrypted objects: known answers, made by other code; round trips; and all that must not open."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.envelope import (
    OVERHEAD_BYTES,
    RANDOM_BYTES,
    SEALED,
    UNREAD,
    WHY_LENGTH_MAX,
    BadEnvelope,
    key_id_of,
    open_envelope,
    seal_envelope,
    unread,
    why_unread,
)
from coatcheck_sidecar.core.objects import MAGIC, BadObject, Kind, check, reference, unseal

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "envelopes.json").read_text())
KEY = bytes(range(32))
RANDOM = bytes(range(100, 100 + RANDOM_BYTES))
NAME = "runs/r1/head"
names = st.text("abc/-.", min_size=1, max_size=20)
ids = st.text("abcXYZ019._-", min_size=1, max_size=16)


def sealed(data: bytes = b"hello", *, name: str = NAME, key_id: str = "k") -> bytes:
    return seal_envelope(data, name=name, key_id=key_id, key=KEY, random=RANDOM)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["key_id"]))
def test_known_answers(vector: dict[str, str]) -> None:
    """Made by Node's crypto, with HKDF-Expand written out as one HMAC."""
    key, data = bytes.fromhex(vector["key"]), bytes.fromhex(vector["object"])
    envelope = bytes.fromhex(vector["envelope"])
    random = bytes.fromhex(vector["random"])
    name, key_id = vector["name"], vector["key_id"]
    assert seal_envelope(data, name=name, key_id=key_id, key=key, random=random) == envelope
    assert open_envelope(envelope, name=name, key=key) == data
    assert key_id_of(envelope) == key_id
    assert len(envelope) == len(data) + OVERHEAD_BYTES


@given(st.binary(max_size=200), names, ids, st.binary(min_size=32, max_size=32))
def test_what_is_sealed_opens_under_its_name_alone(
    data: bytes, name: str, key_id: str, key: bytes
) -> None:
    envelope = seal_envelope(data, name=name, key_id=key_id, key=key, random=RANDOM)
    assert key_id_of(envelope) == key_id
    assert open_envelope(envelope, name=name, key=key) == data
    for other_name, other_key in ((name + "x", key), (name, bytes(32 * [key[0] ^ 1]))):
        with pytest.raises(BadEnvelope, match=r"does not open with key .*: it was written under"):
            open_envelope(envelope, name=other_name, key=other_key)


@given(st.integers(0, OVERHEAD_BYTES + 4), st.integers(1, 255))
def test_a_changed_byte_never_opens(place: int, change: int) -> None:
    envelope = bytearray(sealed())
    envelope[place] ^= change
    with pytest.raises(BadEnvelope):
        open_envelope(bytes(envelope), name=NAME, key=KEY)


@given(st.integers(0, OVERHEAD_BYTES + 4))
def test_a_cut_envelope_never_opens(length: int) -> None:
    with pytest.raises(BadEnvelope, match=f"its digest does not fit its {length} bytes"):
        open_envelope(sealed()[:length], name=NAME, key=KEY)


@pytest.mark.parametrize("place", [*range(5, 24), 60, 75, 90])
def test_a_change_with_its_digest_made_anew_never_opens(place: int) -> None:
    """Whoever writes to the bucket can reckon the digest; they can't make the tag."""
    from hashlib import sha256

    envelope = bytearray(sealed())
    envelope[place] ^= 1
    envelope[24:56] = sha256(envelope[:24] + envelope[56:]).digest()
    told = "this release can't read it: upgrade" if place < 8 else "does not open with key"
    with pytest.raises(BadEnvelope, match=told):
        open_envelope(bytes(envelope), name=NAME, key=KEY)


def test_a_key_id_of_damage_is_shown_as_text() -> None:
    assert key_id_of(SEALED) == ""
    assert key_id_of(SEALED + b"\1\1\1\xff\n") == "\\xff\n"
    assert key_id_of(b"CCK1H") is None
    assert key_id_of(b"") is None


def test_readers_without_keys_name_the_key_and_the_mend() -> None:
    ref = reference(NAME, b"hello")
    told = r"runs/r1/head: encrypted with key k, which is not here; put it .*ENCRYPTION_KEYS"
    with pytest.raises(BadObject, match=told):
        unseal(NAME, sealed(), kind=Kind.HEAD)
    with pytest.raises(BadObject, match=told):
        check(ref, sealed())


def test_what_could_not_be_opened_says_why_to_every_reader() -> None:
    with pytest.raises(BadObject, match=r"^runs/r1/head: it does not open$"):
        unseal(NAME, unread("it does not open"), kind=Kind.HEAD)


@given(st.binary(max_size=3 * WHY_LENGTH_MAX))
def test_a_reason_shows_no_control_characters_and_ends(data: bytes) -> None:
    why = why_unread(UNREAD + data)
    assert why is not None
    assert why.isprintable()
    assert len(why) <= WHY_LENGTH_MAX


def test_the_marks_are_of_the_same_family() -> None:
    assert SEALED[:4] == UNREAD[:4] == MAGIC
    assert {SEALED[4:], UNREAD[4:]}.isdisjoint(kind.value for kind in Kind)
