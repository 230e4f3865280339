"""Server-sent events, taken apart without being rebuilt: bytes in, whole events out.

Form: WHATWG HTML, section 9.2.6. An event keeps its bytes as they came, blank line included, so
that passing it on changes nothing.
"""

import re
from dataclasses import dataclass
from typing import Final

BLANK: Final = re.compile(rb"(?>\r\n|\n|\r)(?:\r\n|\n|\r)")
"""Two line ends in a row end an event. One that is cut between CR and LF leaves the LF to the next
event, where it is an empty line before the first field and says nothing."""
LINE: Final = re.compile(r"\r\n|\n|\r")
BLANK_BYTES_MAX: Final = 4


class TooLong(ValueError):  # noqa: N818 - says what is the matter
    """An event went past the limit."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `data` is `None` where it has no such field: a comment, a keep-alive."""

    raw: bytes
    data: str | None = None
    id: str | None = None
    retry_ms: int | None = None


class Events:
    """A stream's bytes, fed in any pieces, to its events."""

    def __init__(self, *, event_bytes_max: int) -> None:
        """`event_bytes_max` bounds what is kept of an event that has not ended."""
        self._event_bytes_max = event_bytes_max
        self._kept = bytearray()
        self._seen = 0

    def feed(self, piece: bytes) -> list[Event]:
        """The events that this piece ends; raises `TooLong`."""
        self._kept += piece
        found: list[Event] = []
        while (end := self._end()) is not None:
            found.append(read_event(bytes(self._kept[:end])))
            del self._kept[:end]
            self._seen = 0
        if len(self._kept) > self._event_bytes_max:
            raise TooLong(f"an event of more than {self._event_bytes_max} bytes")
        return found

    def _end(self) -> int | None:
        """Where the first event ends, of which nothing before `_seen` needs a second look."""
        found = BLANK.search(self._kept, self._seen)
        self._seen = max(0, len(self._kept) - BLANK_BYTES_MAX + 1)
        return found.end() if found else None


def read_event(raw: bytes) -> Event:
    """Read one whole event. What is not UTF-8 is replaced, as a browser does."""
    data: list[str] = []
    event_id = retry_ms = None
    for line in LINE.split(raw.decode("utf-8", "replace").removeprefix("\ufeff")):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                data.append(value)
            case "id" if "\0" not in value:
                event_id = value
            case "retry" if value.isascii() and value.isdigit():
                retry_ms = int(value)
            case _:
                pass
    return Event(raw, "\n".join(data) if data else None, event_id, retry_ms)


def event_of(message: bytes) -> bytes:
    """One event that carries a JSON message, which has no raw line ends of its own.

    JSON may be spread over lines; each goes into a field of its own, which means the same.
    """
    lines = LINE.split(message.decode())
    return "".join(("event: message\n", *(f"data: {line}\n" for line in lines), "\n")).encode()
