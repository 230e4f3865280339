import msgpack
import pytest

from coatcheck_sidecar.core.blob import NAME, blob_of, parts_of, range_of
from coatcheck_sidecar.core.model import ObjectRef
from coatcheck_sidecar.core.objects import BadObject

PARTS = [ObjectRef(f"runs/r/o/{n}", bytes([n]) * 32, n) for n in range(3)]


def test_a_blob_names_its_parts_in_their_order() -> None:
    blob = blob_of("ab" * 32, 12, parts=PARTS)
    assert (blob.digest, blob.length) == (b"\xab" * 32, 12)
    assert parts_of(blob, blob.parts.data) == PARTS
    assert parts_of(blob_of("00" * 32, 0, parts=[]), msgpack.packb([])) == []
    assert NAME.fullmatch("ab" * 32)
    assert not NAME.fullmatch("AB" * 32)


@pytest.mark.parametrize(
    "data", [None, b"\xc1", b"\x80", msgpack.packb([["a", b"", 1]]), b"\x91\x01"]
)
def test_a_list_that_can_not_be_read_is_damage(data: bytes | None) -> None:
    with pytest.raises(BadObject, match="the list of the parts of blob abab"):
        parts_of(blob_of("ab" * 32, 12, parts=PARTS), data)


@pytest.mark.parametrize(
    ("said", "length", "found"),
    [(None, 5, (0, 5)), ("bytes 0-4/5", 5, (0, 5)), ("bytes 7-9/20", 3, (7, 20))],
)
def test_where_a_request_goes_on(said: str | None, length: int, found: tuple[int, int]) -> None:
    assert range_of(said, length=length) == found


@pytest.mark.parametrize(
    "said", ["bytes 0-4", "bytes */5", "lines 0-4/5", "bytes 0-3/5", "bytes 3-7/7", "bytes -1-3/9"]
)
def test_a_range_that_does_not_fit_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match="Content-Range"):
        range_of(said, length=5)
