"""The page sum: what it tells apart, and that it follows a change without a look at the rest."""

from hashlib import blake2b

import pytest
from hypothesis import given

from coatcheck_sidecar.core import pages
from coatcheck_sidecar.core.pages import PAGE_BYTES, SUM_MODULUS, Paged, page_sum, touched_pages
from tests.core.patches import Change, changes, small_pages

STATE = bytes(range(256)) * 40
"""Two pages and a half."""


def test_the_sum_is_as_the_format_says() -> None:
    digests = [
        blake2b(page, digest_size=8, salt=number.to_bytes(16, "little")).digest()
        for number, page in enumerate((STATE[:4096], STATE[4096:8192], STATE[8192:]))
    ]
    total = sum(int.from_bytes(digest, "little") for digest in digests)
    assert page_sum(STATE) == total % SUM_MODULUS
    assert (page_sum(b""), PAGE_BYTES, SUM_MODULUS) == (0, 4096, 2**64)


@pytest.mark.parametrize(
    "other",
    [
        b"",
        STATE[:-1],
        STATE + b"\0",
        STATE + bytes(PAGE_BYTES),
        STATE[:PAGE_BYTES],
        STATE[PAGE_BYTES:],
        b"\1" + STATE[1:],
        STATE[:-1] + b"\0",
        bytes(len(STATE)),
    ],
)
def test_states_that_differ_differ_in_their_sums(other: bytes) -> None:
    assert page_sum(other) != page_sum(STATE)


def test_pages_that_changed_places_are_seen() -> None:
    first, second = b"a" * PAGE_BYTES, b"b" * PAGE_BYTES
    sums = {page_sum(first + second), page_sum(second + first), page_sum(first + first)}
    assert len(sums) == 3


@pytest.mark.parametrize(
    ("lengths", "ranges", "touched"),
    [
        ((100, 100), [], []),
        ((100, 100), [(50, 0)], []),
        ((100, 100), [(15, 1)], [range(1)]),
        ((100, 100), [(15, 2)], [range(2)]),
        ((100, 100), [(1, 1), (3, 1), (16, 16)], [range(1), range(1, 2)]),
        ((100, 100), [(90, 10)], [range(5, 7)]),
        ((96, 97), [(96, 1)], [range(6, 7)]),
        ((96, 112), [], [range(6, 7)]),
        ((97, 112), [], [range(6, 7)]),
        ((96, 10), [(0, 1)], [range(1), range(1, 6)]),
        ((10, 96), [(40, 2)], [range(6)]),
        ((0, 33), [(0, 33)], [range(3)]),
        ((33, 0), [], [range(3)]),
    ],
)
def test_the_pages_that_a_change_touches(
    lengths: tuple[int, int], ranges: list[tuple[int, int]], touched: list[range]
) -> None:
    with small_pages():
        assert touched_pages(ranges, lengths=lengths) == touched


@given(changes())
def test_a_sum_that_follows_changes_is_the_sum_of_the_whole(change: Change) -> None:
    with small_pages():
        old = Paged(change.old)
        new = old.become(change.new, change.ranges)
        assert new.has_sum
        assert new.page_sum == page_sum(change.new)


def test_a_sum_is_made_once_and_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    state = Paged(STATE)
    before, total = state.has_sum, state.page_sum
    assert (before, state.has_sum) == (False, True)
    monkeypatch.setattr(pages, "blake2b", None)
    assert state.page_sum == total
    assert state.become(STATE, ()).page_sum == total
