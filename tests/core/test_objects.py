from dataclasses import replace

import pytest

from coatcheck_sidecar.core import objects
from coatcheck_sidecar.core.envelope import SEALED, unread
from coatcheck_sidecar.core.objects import (
    BadObject,
    Kind,
    Locked,
    check,
    payload_of,
    reference,
    seal,
    unseal,
)

# The envelope


def enveloped(header: bytes, payload: bytes = b"") -> bytes:
    return header + objects._digest(header, payload) + payload


KEY = bytes(16)
ENVELOPES: list[tuple[bytes, str]] = [
    (b"", r"no magic"),
    (b"CCK2O\1\1\0" + KEY, r"no magic"),
    (b"CCK1H\1\1\0" + KEY, r"of kind b'H', expected b'O'"),
    (b"CCK1?\1\1\0" + KEY, r"of kind b'\?', expected b'O'"),
    (b"CCK1O\5\3\0" + KEY, r"written by format 5, which takes a reader of 3; .*upgrade it"),
    (b"CCK1O\1\1\1" + KEY, r"of codec 1, expected 0"),
    (b"CCK1O\1\1\x09" + KEY, r"of codec 9, expected 0"),
    (b"CCK1O\1\1\0" + b"k" * 16, r"encrypted with key 6b6b6b6b.*, and there is no key"),
]


@pytest.mark.parametrize(("header", "says"), ENVELOPES)
def test_an_object_that_is_not_for_this_reader_says_why(header: bytes, says: str) -> None:
    with pytest.raises(BadObject, match=f"^o: .*{says}"):
        unseal("o", enveloped(header, b"payload"), kind=Kind.BODY)


def test_what_a_newer_release_writes_for_this_one_is_read() -> None:
    assert unseal("o", enveloped(b"CCK1O\5\1\0" + KEY, b"p"), kind=Kind.BODY)[0] == b"p"


# References


def test_bytes_must_be_those_that_the_head_named() -> None:
    data = seal(Kind.BODY, b"payload")
    ref = reference("o", data)
    assert check(ref, data) == data
    for other in (None, b"", data[:-1], data + b"\0", data[:-1] + b"\0"):
        with pytest.raises(BadObject, match=r"^o: (missing|damaged)"):
            check(ref, other)
    with pytest.raises(BadObject, match=r"^o: damaged"):
        check(replace(ref, length=0), data)


def test_what_a_reference_leads_to_is_hashed_once_and_not_copied() -> None:
    data = seal(Kind.PART, b"payload")
    assert bytes(payload_of(reference("o", data), data, kind=Kind.PART)) == b"payload"
    with pytest.raises(BadObject, match=r"^o: of kind b'V', expected b'O'"):
        payload_of(reference("o", data), data, kind=Kind.BODY)
    with pytest.raises(BadObject, match=r"^o: damaged"):
        payload_of(reference("o", data), data[:-1] + b"?", kind=Kind.PART)


def test_what_a_key_would_open_is_not_taken_for_damage() -> None:
    ref = reference("o", b"whatever was named")
    with pytest.raises(Locked, match=r"^o: encrypted with key old, which is not here"):
        check(ref, SEALED + bytes((1, 1, 1)) + b"old".ljust(16, b"\0"))
    with pytest.raises(Locked, match=r"^o: it does not open"):
        check(ref, unread("it does not open with key old"))
    with pytest.raises(BadObject, match=r"^o: damaged, its digest") as caught:
        check(ref, unread("damaged, its digest does not fit its 9 bytes"))
    assert not isinstance(caught.value, Locked)
