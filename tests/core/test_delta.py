import hashlib
import sys
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coatcheck_sidecar.core.delta import (
    HEAD_DELTAS_BYTES_MAX,
    LONG_DISTANCE_BYTES_MIN,
    PREFIX_BYTES_MIN,
    BadDelta,
    Chain,
    Delta,
    decode_delta,
    encode_delta,
    needs_new_base,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX = 1 << 24


def noise(seed: int, size: int) -> bytes:
    """Bytes that nothing compresses."""
    blocks = (hashlib.sha256(f"{seed}/{n}".encode()).digest() for n in range(size // 32 + 1))
    return b"".join(blocks)[:size]


@st.composite
def edits(draw: st.DrawFn) -> list[bytes]:
    """States, each an edit of the one before: cut, insert, append, repeat, empty, start over."""
    states = [draw(st.binary(max_size=200))]
    for _ in range(draw(st.integers(1, 8))):
        old = states[-1]
        at = draw(st.integers(0, len(old)))
        to = draw(st.integers(at, len(old)))
        new = draw(st.binary(max_size=100))
        states.append(
            draw(
                st.sampled_from(
                    (old[:at] + new + old[to:], old + new, old[to:] + old[:at], old * 3, b"", new)
                )
            )
        )
    return states


@given(edits())
def test_a_chain_of_edits_gives_each_state_back(states: list[bytes]) -> None:
    previous = rebuilt = b""
    for state in states:
        rebuilt = decode_delta(rebuilt, encode_delta(previous, state), bytes_max=MAX)
        assert rebuilt == state
        previous = state


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
@example(b"x" * 8, b"x" * 8, b"y" * 8)
@example(b"12345678", b"12345678", b"")
def test_a_wrong_state_before_never_gives_a_wrong_state_after(
    previous: bytes, state: bytes, wrong: bytes
) -> None:
    data = encode_delta(previous, state)
    try:
        assert decode_delta(wrong, data, bytes_max=MAX) == state
    except BadDelta:
        assert wrong != previous


def test_a_delta_of_the_wrong_chain_is_seen() -> None:
    first, second = noise(1, 5_000), noise(2, 5_000)
    with pytest.raises(BadDelta, match="does not fit the state before it"):
        decode_delta(second, encode_delta(first, first + b"more"), bytes_max=MAX)


@pytest.mark.parametrize("size", range(PREFIX_BYTES_MIN + 2))
def test_states_too_short_for_a_prefix_are_states_like_any(size: int) -> None:
    previous = b"\x80" * size
    data = encode_delta(previous, b"state")
    assert decode_delta(previous, data, bytes_max=MAX) == b"state"


@pytest.mark.parametrize("size", [LONG_DISTANCE_BYTES_MIN // 2 - 4, LONG_DISTANCE_BYTES_MIN * 8])
def test_a_delta_costs_what_was_added_wherever_the_rest_moved_to(size: int) -> None:
    old = noise(1, size)
    new = old[size // 2 :] + noise(2, 100) + old[: size // 2]
    data = encode_delta(old, new)
    assert len(data) < 300
    assert decode_delta(old, data, bytes_max=MAX) == new


def test_damage_is_seen_wherever_it_is() -> None:
    old, new = noise(1, 300), noise(1, 300) + b"one more message"
    data = encode_delta(old, new)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x11
        for piece in (bytes(damaged), data[:at]):
            with suppress(BadDelta):
                assert decode_delta(old, piece, bytes_max=MAX) == new


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for piece in (data, b"\x28\xb5\x2f\xfd" + data):
        with suppress(BadDelta):
            decode_delta(b"previous state", piece, bytes_max=MAX)


def test_a_state_over_the_limit_is_refused_before_it_is_made() -> None:
    data = encode_delta(b"", bytes(10_001))
    assert len(decode_delta(b"", data, bytes_max=10_001)) == 10_001
    with pytest.raises(BadDelta, match="a state of 10001 bytes is over the limit of 10000"):
        decode_delta(b"", data, bytes_max=10_000)


def test_a_frame_that_hides_its_length_is_refused() -> None:
    press = zstd.ZstdCompressor()
    data = press.compress(bytes(100)) + press.flush()
    with pytest.raises(BadDelta, match="does not say how long"):
        decode_delta(b"", data, bytes_max=MAX)


@pytest.mark.parametrize("more", [b"\0", encode_delta(b"", bytes(1_000_000))])
def test_nothing_may_follow_the_frame(more: bytes) -> None:
    with pytest.raises(BadDelta, match="not one whole frame"):
        decode_delta(b"", encode_delta(b"", b"state") + more, bytes_max=100)


def test_half_a_frame_is_no_frame() -> None:
    with pytest.raises(BadDelta, match="not one whole frame"):
        decode_delta(b"", encode_delta(b"", b"state")[:-1], bytes_max=100)


# Chains


def test_a_chain_is_sealed_once_its_deltas_are_too_much_for_a_head() -> None:
    half = Delta(1, bytes(HEAD_DELTAS_BYTES_MAX // 2))
    assert not Chain().must_seal
    assert not Chain(deltas=(half, half)).must_seal
    assert Chain(deltas=(half, half, Delta(2, b"1"))).must_seal


def test_a_mid_past_half_of_its_base_gives_way_to_a_new_base() -> None:
    assert not needs_new_base(1000, 500)
    assert needs_new_base(1000, 501)
