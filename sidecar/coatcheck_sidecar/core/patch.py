"""The other half of `coatcheck.wire.make_patch`: the state that a patch makes of its base."""

from typing import Any

from coatcheck.wire import STATE_BYTES_MAX, WireError


def check_ranges(length: int, ranges: Any, *, length_max: int = STATE_BYTES_MAX) -> int:
    """The bytes that a patch's ranges take. Raises `WireError` for any bound that is not kept.

    `length` and `ranges` may come straight from a frame; their shape is checked too.
    """
    if not _is_size(length) or length > length_max:
        raise WireError(f"a patch says length {length!r:.40}; 0 to {length_max} are legal")
    if not isinstance(ranges, list | tuple):
        raise WireError("the ranges of a patch are not an array")
    end = total = 0
    for item in ranges:
        if not isinstance(item, list | tuple) or len(item) != 2 or not all(map(_is_size, item)):
            raise WireError(f"a range of a patch is {item!r:.40}, not [offset, length]")
        at, size = item
        if at < end:
            raise WireError(f"a patch writes at {at}, after a range that ends at {end}")
        if at + size > length:
            raise WireError(f"a patch writes to {at + size} in a state of {length} bytes")
        end, total = at + size, total + size
    return total


def apply_patch(  # noqa: PLR0917 - in the order of the patch
    old: bytes, length: int, ranges: Any, data: bytes, *, length_max: int = STATE_BYTES_MAX
) -> bytes:
    """The state that a patch makes of `old`, in one pass. Raises `WireError` as `check_ranges`."""
    total = check_ranges(length, ranges, length_max=length_max)
    if total != len(data):
        raise WireError(f"the ranges of a patch take {total} bytes, its data has {len(data)}")
    kept, new = memoryview(old)[:length], memoryview(data)
    pieces: list[memoryview | bytes] = []
    end = used = 0
    for at, size in (*ranges, (length, 0)):
        pieces.append(kept[end:at])
        if at > len(kept):
            pieces.append(bytes(at - max(end, len(kept))))
        pieces.append(new[used : used + size])
        end, used = at + size, used + size
    return b"".join(pieces)


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 0
