"""The bytes of an object, for people: each value on a line with its offset and meaning."""

import struct
from collections.abc import Iterator
from typing import Final

from coatcheck_sidecar.core.objects import MAGIC, Kind

ENVELOPE: Final = (
    (4, "magic"), (1, "kind"), (1, "format that wrote it"), (1, "oldest format that reads it"),
    (1, "codec"), (16, "key id: not encrypted"), (32, "SHA-256 of 24 bytes before, and payload"),
)  # fmt: skip
ROW_BYTES: Final = 16


def dump(data: bytes) -> str:
    """Each value of an object on a line: offset, bytes, meaning."""
    lines: list[str] = []
    at = 0
    is_object = data.startswith(MAGIC)
    for size, meaning in ENVELOPE if is_object else ():
        lines += _rows(at, data[at : at + size], meaning)
        at += size
    if data[4:5] == Kind.HEAD.value or not is_object:
        for start, end, meaning in _values(data, at, depth=0):
            lines += _rows(start, data[start:end], meaning)
    else:
        lines += _rows(at, data[at:], "payload")
    return "\n".join(lines)


def _rows(at: int, data: bytes, meaning: str) -> Iterator[str]:
    for start in range(0, len(data), ROW_BYTES):
        row = data[start : start + ROW_BYTES].hex(" ")
        yield f"{at + start:04x}  {row:47}  {meaning if start == 0 else ''}".rstrip()


def _values(data: bytes, at: int, *, depth: int) -> Iterator[tuple[int, int, str]]:
    """(start, end, meaning) of each msgpack value from `at` on; containers before their items."""
    size, meaning, items = _value(data, at)
    yield at, at + size, "  " * depth + meaning
    end = at + size
    for _ in range(items):
        for part in _values(data, end, depth=depth + 1):
            yield part
            end = part[1]


WIDTHS: Final = {0xC4: "B", 0xC5: ">H", 0xD9: "B", 0xDA: ">H", 0xCC: "B", 0xCD: ">H", 0xCE: ">I",
                 0xCF: ">Q", 0xDC: ">H", 0xDE: ">H"}  # fmt: skip
PLAIN: Final = {0xC0: "nil", 0xC2: "false", 0xC3: "true"}


def _value(data: bytes, at: int) -> tuple[int, str, int]:
    """(bytes of it alone, meaning, items that follow) of one msgpack value."""
    first = data[at]
    if first <= 0x7F:
        return 1, str(first), 0
    if first in PLAIN:
        return 1, PLAIN[first], 0
    if first in WIDTHS:
        width = struct.calcsize(WIDTHS[first])
        number = int(struct.unpack_from(WIDTHS[first], data, at + 1)[0])
        start = at + 1 + width
    else:
        number, start = first & (0x1F if 0xA0 <= first <= 0xBF else 0x0F), at + 1
    if first <= 0x8F or first == 0xDE:
        return start - at, f"map of {number}", 2 * number
    if first <= 0x9F or first == 0xDC:
        return start - at, f"array of {number}", number
    if first in (0xC4, 0xC5):
        return start - at + number, f"{number} bytes", 0
    if first in (0xCC, 0xCD, 0xCE, 0xCF):
        return start - at, str(number), 0
    return start - at + number, f'"{data[start : start + number].decode()}"', 0
