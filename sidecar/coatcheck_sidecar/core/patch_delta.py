"""Deltas made of what a client's patch changed, in the time that the change takes.

A delta of the whole state costs a look at the whole state: 1 ms at 800 KB, for a message of 4 KiB.
A patch delta costs 0.1 ms, whatever the state. It is a msgpack array of four, whose first byte is
none that a zstd frame begins with:

    [length, [[offset, length], ...], page sum, frame]

`frame` is a delta as in `core.delta`, of what the ranges hold now against what they held before;
the page sum is of the whole state, so that a chain put together wrongly is seen here too.
"""

from dataclasses import dataclass
from typing import Final

import msgpack

from coatcheck.wire import PATCH_RANGES_MAX, WireError
from coatcheck_sidecar.core.delta import BadDelta, decode_delta, encode_delta
from coatcheck_sidecar.core.pages import PAGE_BYTES, SUM_MODULUS, Paged, Ranges, touched_pages
from coatcheck_sidecar.core.patch import apply_patch, check_ranges

FIRST_BYTE: Final = 0x94
"""A msgpack array of four; a zstd frame begins with 0x28."""
TOUCHED_SHARE_MAX: Final = 1 / 8
"""Pages that a patch delta may touch, of all: at more, a whole one takes little longer, and finds
what moved from elsewhere."""
STATE_BYTES_MIN: Final = 65_536
"""Below this a whole delta is as quick."""


@dataclass(frozen=True, slots=True)
class NewState:
    """A state to commit; if it was made of the bytes `old` by a patch, `ranges` are its ranges."""

    data: bytes
    old: bytes | None = None
    ranges: Ranges = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """What a commit adds to the log, and the state that it makes."""

    delta: bytes
    state: Paged


def draft(previous: Paged, state: NewState) -> Draft:
    """`state` against `previous`: as a patch delta where that is quick, else as a whole one."""
    if not _is_patch(previous, state):
        return Draft(encode_delta(previous.data, state.data), Paged(state.data))
    new = previous.become(state.data, state.ranges)
    frame = encode_delta(_joined(previous.data, state.ranges), _joined(new.data, state.ranges))
    return Draft(msgpack.packb((len(new.data), state.ranges, new.page_sum, frame)), new)


def draft_bytes(previous: Paged, state: NewState) -> int:
    """How much `draft` has to look at: what it takes in time."""
    if not _is_patch(previous, state):
        return len(previous.data) + len(state.data)
    touched = 2 * _touched_bytes(previous, state)
    return touched if previous.has_sum else touched + len(previous.data)


def _is_patch(previous: Paged, state: NewState) -> bool:
    # Another state may have been committed since the patch was applied: then it says nothing.
    if state.old is not previous.data or len(state.data) < STATE_BYTES_MIN:
        return False
    if len(state.ranges) > PATCH_RANGES_MAX:
        return False
    return _touched_bytes(previous, state) <= len(state.data) * TOUCHED_SHARE_MAX


def _touched_bytes(previous: Paged, state: NewState) -> int:
    touched = touched_pages(state.ranges, lengths=(len(previous.data), len(state.data)))
    return PAGE_BYTES * sum(map(len, touched))


def _joined(state: bytes, ranges: Ranges) -> bytes:
    return b"".join([state[at : at + size] for at, size in ranges])


def next_state(previous: Paged, delta: bytes, *, bytes_max: int) -> Paged:
    """The state that a delta of either kind makes of `previous`.

    Raises `BadDelta`, also for a state over `bytes_max`.
    """
    if delta[:1] != bytes((FIRST_BYTE,)):
        return Paged(decode_delta(previous.data, delta, bytes_max=bytes_max))
    length, ranges, total, frame = _fields(delta)
    try:
        size = check_ranges(length, ranges, length_max=bytes_max)
        changed = decode_delta(_joined(previous.data, ranges), frame, bytes_max=size)
        data = apply_patch(previous.data, length, ranges, changed, length_max=bytes_max)
    except WireError as error:
        raise BadDelta(str(error)) from error
    state = previous.become(data, ranges)
    if state.page_sum != total:
        raise BadDelta("does not fit the state before it: the page sum is another")
    return state


def _fields(delta: bytes) -> tuple[int, Ranges, int, bytes]:
    """The fields of a patch delta; their types are checked, the ranges are not."""
    try:
        # Bounded, since the reader makes room for as many items as an array says that it has.
        length, ranges, total, frame = msgpack.unpackb(
            delta,
            use_list=False,
            max_array_len=PATCH_RANGES_MAX,
            max_map_len=0,
            max_str_len=0,
            max_ext_len=0,
        )
    except (ValueError, TypeError) as error:
        raise BadDelta(f"not a patch delta: {error}") from error
    if type(total) is not int or not 0 <= total < SUM_MODULUS or type(frame) is not bytes:
        raise BadDelta("not a patch delta: its page sum or its frame is none")
    return length, ranges, total, frame
