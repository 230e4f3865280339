"""What a patch makes of a state: against the vectors for other languages, and out of bounds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.wire import PAGE_BYTES, WireError, make_patch
from coatcheck_sidecar.core.patch import apply_patch

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "wire.json").read_text())
OLD = bytes(range(256)) * 16 * 20


def plain(value: Any) -> Any:
    return bytes.fromhex(value["$bytes"]) if isinstance(value, dict) else value


@pytest.mark.parametrize("vector", VECTORS["patches"], ids=lambda vector: vector["name"])
def test_patches_are_as_in_the_vectors(vector: dict[str, Any]) -> None:
    old, data = plain(vector["old"]), plain(vector["data"])
    made = apply_patch(old, vector["length"], vector["ranges"], data)
    assert made == plain(vector["new"])


def edits() -> Iterator[Any]:
    yield st.lists(st.tuples(st.integers(0, len(OLD)), st.binary(max_size=9)), max_size=6)
    yield st.integers(PAGE_BYTES * 10, len(OLD) + 5000)


@given(*edits())
def test_a_patch_makes_the_new_state(changes: list[tuple[int, bytes]], length: int) -> None:
    new = bytearray((OLD + bytes(5000))[:length])
    for at, data in changes:
        new[at : at + len(data)] = data
    patch = make_patch(OLD, bytes(new))
    if patch is not None:
        ranges = msgpack.unpackb(msgpack.packb(patch.ranges))
        assert apply_patch(OLD, patch.length, ranges, patch.data) == bytes(new)


@pytest.mark.parametrize(
    ("length", "ranges", "data", "why"),
    [
        (-1, [], b"", "length -1"),
        (True, [], b"", "length True"),
        ("9", [], b"", "length '9'"),
        (101, [], b"", "0 to 100 are legal"),
        (9, None, b"", "not an array"),
        (9, {}, b"", "not an array"),
        (9, [3], b"", "is 3, not"),
        (9, [[1]], b"", r"is \[1\], not"),
        (9, [[1, -1]], b"", "not .offset, length"),
        (9, [[-1, 1]], b"x", "not .offset, length"),
        (9, [[0.0, 1]], b"x", "not .offset, length"),
        (9, [[0, 5], [4, 1]], b"123456", "at 4, after a range that ends at 5"),
        (9, [[8, 2]], b"12", "to 10 in a state of 9"),
        (9, [[2**63, 2**63]], b"12", "in a state of 9"),
        (9, [[0, 3]], b"12", "take 3 bytes, its data has 2"),
        (9, [[0, 1]], b"12", "take 1 bytes, its data has 2"),
    ],
)
def test_a_patch_out_of_bounds_is_named(length: Any, ranges: Any, data: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        apply_patch(b"abc", length, ranges, data, length_max=100)
