"""Patch deltas: when they are made, that they give each state back, and nothing else, ever."""

from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.wire import PATCH_RANGES_MAX
from coatcheck_sidecar.core import patch_delta
from coatcheck_sidecar.core.delta import BadDelta, encode_delta
from coatcheck_sidecar.core.pages import PAGE_BYTES, Paged, page_sum
from coatcheck_sidecar.core.patch_delta import (
    FIRST_BYTE,
    STATE_BYTES_MIN,
    TOUCHED_SHARE_MAX,
    NewState,
    draft,
    draft_bytes,
    next_state,
)
from tests.core.patches import Change, changes, small_pages
from tests.core.test_delta import noise

MAX = 1 << 24
OLD = noise(1, 100_000)
MORE = noise(2, 5_000)
LIMIT = STATE_BYTES_MIN
SHARE_PAGES = int(STATE_BYTES_MIN * 2 * TOUCHED_SHARE_MAX / PAGE_BYTES)


def is_patch(delta: bytes) -> bool:
    return delta[0] == FIRST_BYTE


def patched(old: bytes, at: int, data: bytes) -> NewState:
    """`old` with `data` at one place."""
    return NewState(old[:at] + data + old[at + len(data) :], old, [(at, len(data))])


# When


@pytest.mark.parametrize(
    ("old", "at", "size", "expected"),
    [
        (OLD, len(OLD), 5_000, True),
        (OLD, 0, 1, True),
        (OLD, 0, 50_000, False),
        (bytes(LIMIT), 0, 1, True),
        (bytes(LIMIT - 1), 0, 1, False),
        (bytes(LIMIT - 1), LIMIT - 1, 1, True),
        (bytes(LIMIT * 2), 0, SHARE_PAGES * PAGE_BYTES, True),
        (bytes(LIMIT * 2), 0, SHARE_PAGES * PAGE_BYTES + 1, False),
        (b"", 0, 100_000, False),
    ],
)
def test_a_small_change_of_a_big_state_is_a_patch_delta(
    old: bytes, at: int, size: int, expected: bool
) -> None:
    state = patched(old, at, noise(3, size))
    made = draft(Paged(old), state)
    assert is_patch(made.delta) is expected
    assert made.state.data == state.data
    assert made.state.has_sum is expected
    assert next_state(Paged(old), made.delta, bytes_max=MAX).data == state.data


def test_what_vanishes_is_touched_too() -> None:
    for length, expected in ((95_000, True), (70_000, False)):
        made = draft(Paged(OLD), NewState(OLD[:length], OLD, []))
        assert is_patch(made.delta) is expected
        assert next_state(Paged(OLD), made.delta, bytes_max=MAX).data == OLD[:length]


def test_a_patch_of_a_state_that_is_no_longer_the_last_is_not_used() -> None:
    """Two commits at once: the second was patched before the first was appended."""
    state = patched(OLD, len(OLD), MORE)
    for previous in (b"another", noise(5, len(OLD))):
        made = draft(Paged(previous), state)
        assert not is_patch(made.delta)
        assert next_state(Paged(previous), made.delta, bytes_max=MAX).data == state.data
    assert not is_patch(draft(Paged(OLD), NewState(state.data)).delta)


def test_more_ranges_than_a_reader_takes_go_whole() -> None:
    for more, expected in ((0, True), (1, False)):
        ranges = [(at * 2, 1) for at in range(PATCH_RANGES_MAX + more)]
        assert is_patch(draft(Paged(OLD), NewState(OLD, OLD, ranges)).delta) is expected


def test_what_a_draft_has_to_look_at() -> None:
    old, state = Paged(OLD), patched(OLD, PAGE_BYTES, b"x" * 10)
    assert draft_bytes(old, NewState(state.data)) == 200_000
    assert draft_bytes(old, state) == 100_000 + 2 * PAGE_BYTES
    assert old.page_sum == page_sum(OLD)
    assert draft_bytes(old, state) == 2 * PAGE_BYTES


# Back and forth


@given(changes())
def test_each_state_comes_back(change: Change) -> None:
    with small_pages():
        made = draft(Paged(change.old), NewState(change.new, change.old, change.ranges))
        assert is_patch(made.delta) or not change.new
        for previous in (Paged(change.old), Paged(change.old, page_sum(change.old))):
            state = next_state(previous, made.delta, bytes_max=len(change.new))
            assert state.data == change.new
            assert state.page_sum == made.state.page_sum == page_sum(change.new)


def test_a_chain_of_both_kinds() -> None:
    mine = theirs = Paged(OLD)
    kinds = set()
    for number in range(12):
        old, data = mine.data, noise(number, 3_000)
        state = patched(old, len(old) if number % 3 else 0, data)
        made = draft(mine, NewState(state.data) if number % 4 == 0 else state)
        kinds.add(is_patch(made.delta))
        mine = made.state
        theirs = next_state(theirs, made.delta, bytes_max=MAX)
        assert theirs.data == state.data
    assert kinds == {True, False}
    assert theirs.page_sum == page_sum(mine.data)


def test_a_patch_delta_costs_what_was_changed() -> None:
    made = draft(Paged(OLD), patched(OLD, len(OLD), MORE))
    assert len(made.delta) < len(MORE) + 60
    twice = OLD[:PAGE_BYTES] + b"!" + OLD[PAGE_BYTES + 1 :]
    made = draft(Paged(OLD), NewState(twice, OLD, [(PAGE_BYTES, PAGE_BYTES)]))
    assert len(made.delta) < 80


# What does not fit


@given(changes(), st.data())
def test_a_wrong_state_before_never_gives_a_wrong_state_after(
    change: Change, data: st.DataObject
) -> None:
    wrong = bytearray(change.old or b"\0")
    at = data.draw(st.integers(0, len(wrong) - 1))
    wrong[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.sampled_from((len(wrong), at)))
    with small_pages():
        made = draft(Paged(change.old), NewState(change.new, change.old, change.ranges))
        for previous in (bytes(wrong[:cut]), change.old + b"\0"):
            with suppress(BadDelta):
                state = next_state(Paged(previous), made.delta, bytes_max=MAX)
                assert state.data == change.new


def test_a_delta_of_the_wrong_chain_is_seen() -> None:
    delta = draft(Paged(OLD), patched(OLD, len(OLD), MORE)).delta
    for wrong in (
        b"!" + OLD[1:],
        noise(9, len(OLD)),
        OLD[:-1],
        OLD[PAGE_BYTES:] + OLD[:PAGE_BYTES],
    ):
        with pytest.raises(BadDelta, match="the page sum is another"):
            next_state(Paged(wrong), delta, bytes_max=MAX)


def test_damage_is_seen_wherever_it_is() -> None:
    state = NewState(b"!" + OLD[1:] + b"one more", OLD, [(0, 1), (len(OLD), 8)])
    delta = draft(Paged(OLD), state).delta
    previous = Paged(OLD, page_sum(OLD))
    assert is_patch(delta)
    for at in range(len(delta)):
        pieces = [delta[:at], delta + delta[: at + 1]]
        for bit in range(8):
            damaged = bytearray(delta)
            damaged[at] ^= 1 << bit
            pieces.append(bytes(damaged))
        for piece in pieces:
            with suppress(BadDelta):
                assert next_state(previous, piece, bytes_max=MAX).data == state.data


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for piece in (data, bytes((FIRST_BYTE,)) + data):
        with suppress(BadDelta):
            next_state(Paged(b"previous state"), piece, bytes_max=MAX)


FRAME = encode_delta(b"", b"x")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ((9, [], -1, FRAME), "its page sum or its frame is none"),
        ((9, [], True, FRAME), "its page sum or its frame is none"),
        ((9, [], None, FRAME), "its page sum or its frame is none"),
        ((9, [], 0, None), "its page sum or its frame is none"),
        ((9, [], 0, []), "its page sum or its frame is none"),
        ((9, [], 0, "x"), "not a patch delta"),
        ((9, {}, 0, FRAME), "not an array"),
        ((9, {0: 1}, 0, FRAME), "not a patch delta"),
        ((9, [], 0, msgpack.Timestamp(1)), "not a patch delta"),
        ((9, [[0, 1]] * (PATCH_RANGES_MAX + 1), 0, FRAME), "not a patch delta"),
        ((101, [[0, 1]], 0, FRAME), "length 101; 0 to 100 are legal"),
        ((-1, [], 0, FRAME), "length -1"),
        ((2**64 - 1, [[2**64 - 2, 1]], 0, FRAME), "0 to 100 are legal"),
        ((9, [[0, 2**63]], 0, FRAME), "in a state of 9"),
        ((9, [[4, 2], [5, 1]], 0, FRAME), "after a range that ends at 6"),
        ((9, [[0, -1]], 0, FRAME), "not .offset, length"),
        ((9, [[0, 2]], 0, FRAME), "take 2 bytes, its data has 1"),
        ((9, [], 0, FRAME), "a state of 1 bytes is over the limit of 0"),
        ((9, [[0, 9]], 0, encode_delta(b"", bytes(10))), "of 10 bytes is over the limit of 9"),
        ((9, [[0, 1]], 0, b""), "not a delta"),
        ((9, [[0, 1]], 0, FRAME + b"\0"), "not one whole frame"),
        ((9, [[0, 1]], 0, msgpack.packb((1, [[0, 1]], 0, FRAME))), "not a delta"),
        ((9, [[0, 1]], 0, FRAME), "the page sum is another"),
    ],
)
def test_a_delta_out_of_bounds_is_named(fields: Any, said: str) -> None:
    delta = msgpack.packb(fields)
    assert is_patch(delta)
    with pytest.raises(BadDelta, match=said):
        next_state(Paged(b"123456789"), delta, bytes_max=100)


@pytest.mark.parametrize("head", [b"\xdd\xff\xff\xff\xff", b"\xdd\x00\x00\x04\x01", b"\x94" * 600])
def test_arrays_that_say_they_are_long_or_deep_are_not_made(head: bytes) -> None:
    with pytest.raises(BadDelta, match="not a patch delta"):
        next_state(Paged(b""), b"\x94\x09" + head + bytes(2_000), bytes_max=100)


def test_a_state_over_the_limit_is_refused_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delta = draft(Paged(OLD), patched(OLD, len(OLD), MORE)).delta
    assert len(next_state(Paged(OLD), delta, bytes_max=105_000).data) == 105_000
    monkeypatch.setattr(patch_delta, "decode_delta", None)
    with pytest.raises(BadDelta, match="length 105000; 0 to 104999 are legal"):
        next_state(Paged(OLD), delta, bytes_max=104_999)
