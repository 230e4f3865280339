"""An HTTP answer as it is kept in the log, and how it is given again.

The body is kept as it came, encoded or not, with the places where its pieces ended: between events
of a stream that is read (`text/event-stream`), else where the network cut it. A tool's `redact`
pointers are blanked before; what can't be looked into is then not kept at all.
"""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from coatcheck_sidecar.core.fingerprint import blanked
from coatcheck_sidecar.core.relay import Headers, header
from coatcheck_sidecar.core.sse import BLANK

VERSION: Final = 1
"""Of an answer's head in the log."""
EVENT_END: Final = BLANK
LIKE_JSON: Final = re.compile(rb"\s*[{\[]")
"""A body that begins so is meant to be read, whatever it is called."""
DATA: Final = re.compile(rb"(?:^|(?<=[\r\n])|\xef\xbb\xbf)data[:\r\n]")
"""A line of an event that its reader is given; without one there is no event (HTML, 9.2.6)."""
ALWAYS: Final = frozenset({"content-encoding"})
"""Without it nobody can read the body."""
CUTS_MAX: Final = 10_000
"""Pieces remembered of one answer; what is beyond comes as one."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of an answer; `cuts` are offsets in its body where a piece ended."""

    status: int
    headers: Headers = ()
    cuts: tuple[int, ...] = ()


def encode_head(head: Head) -> bytes:
    """For the log."""
    before, steps = 0, []
    for cut in head.cuts[:CUTS_MAX]:
        steps.append(cut - before)
        before = cut
    packed: bytes = msgpack.packb([VERSION, head.status, head.headers, steps])
    return packed


def decode_head(data: bytes) -> Head:
    """From the log; raises `ValueError` for what is none."""
    try:
        version, status, headers, steps = msgpack.unpackb(data)
        at, cuts = 0, []
        for step in steps:
            at += step
            cuts.append(at)
        found = Head(int(status), tuple((str(n), str(v)) for n, v in headers), tuple(cuts))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ValueError(f"a recorded head that can't be read: {error}") from error
    if version != VERSION:
        raise ValueError(f"a recorded head of version {version}, known is {VERSION}")
    return found


def kept_headers(headers: Headers, allowed: AbstractSet[str]) -> Headers:
    """Of an answer's headers those that are recorded."""
    return tuple((n, v) for n, v in headers if n.lower() in allowed or n.lower() in ALWAYS)


def is_event_stream(headers: Headers) -> bool:
    """The body is a stream of events that can be read."""
    kind = header(headers, "content-type").partition(";")[0].strip().lower()
    return kind == "text/event-stream" and not is_encoded(headers)


def is_encoded(headers: Headers) -> bool:
    """The body is compressed."""
    return header(headers, "content-encoding").strip().lower() not in ("", "identity")


def event_cuts(body: bytes) -> tuple[int, ...]:
    """Where events end."""
    return tuple(found.end() for found in EVENT_END.finditer(body))


def releasable(held: bytes | bytearray, *, is_inside: bool = False) -> int:
    """How much of a stream's end may go out, if its last event with data must stay.

    Comments, keep-alives and blank lines behind it are none: they stay as well. `is_inside`: the
    beginning of the first event went out already.
    """
    starts = [0, *(found.end() for found in EVENT_END.finditer(held))]
    last, end = 0, len(held)
    for start in reversed(starts):
        has_data = DATA.search(held, start, end) is not None
        if has_data or (is_inside and start == 0):
            return start
        if not last and held[start:end].strip():
            last = start
        end = start
    return last


def pieces(body: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    """A body in the pieces it came in."""
    at = 0
    for cut in (*cuts, len(body)):
        if at < cut <= len(body):
            yield body[at:cut]
            at = cut


def redacted(body: bytes, headers: Headers, *, pointers: Sequence[str]) -> bytes | None:
    """`body` with what the JSON pointers name blanked; `None` if that can't be done.

    In a stream of events they are pointers into the data of each.
    """
    if not pointers or not body:
        return body
    if is_encoded(headers):
        return None
    if is_event_stream(headers):
        return _redacted_events(body, pointers)
    found = _blanked_json(body, pointers)
    is_meant = "json" in header(headers, "content-type").lower() or LIKE_JSON.match(body)
    return body if found is None and not is_meant else found


def _redacted_events(body: bytes, pointers: Sequence[str]) -> bytes | None:
    out = []
    for event in pieces(body, event_cuts(body)):
        lines = event.splitlines()
        data = b"\n".join(
            line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")
        )
        found = _blanked_json(data, pointers)
        if found is None and b"{" in event:
            return None  # the beginning of one that was cut, most often
        others = [line for line in lines if line and not line.startswith(b"data:")]
        changed = b"\n".join([*others, b"data: %s" % found, b"", b""]) if found else event
        out.append(changed)
    return b"".join(out)


def _blanked_json(data: bytes, pointers: Sequence[str]) -> bytes | None:
    """JSON with what the pointers name blanked; `None` if it is none."""
    try:
        value = json.loads(data)
        for path in pointers:
            value = blanked(value, path)
        return _dumps(value)
    except (ValueError, RecursionError):
        return None


def _dumps(value: Any) -> bytes:
    """In ASCII, in which a lone surrogate of an upstream has a form too."""
    return json.dumps(value, default=_as_text, separators=(",", ":")).encode()


def _as_text(value: object) -> str:
    """What JSON has no form for, bytes above all."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def from_value(body: bytes | None) -> tuple[Head, bytes]:
    """The answer that an operator or a probe gave, as a msgpack value: JSON, or nothing."""
    value = None if body is None else msgpack.unpackb(body)
    if value is None:
        return Head(204), b""
    return Head(200, (("Content-Type", "application/json"),)), _dumps(value)
