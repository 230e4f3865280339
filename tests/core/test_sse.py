"""Events come out alike however the bytes were cut, and nothing of them is lost."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.sse import Event, Events, TooLong, event_of, read_event

STREAM = (
    b": hello\n\n"
    b"id: 1\nretry: 500\ndata:\n\n"
    b"event: message\r\nid: 2\r\ndata: {\r\ndata: }\r\n\r\n"
    b"data: a\r\rid:3\ndata:  b\nretry: soon\nid: x\0y\nodd\n\n"
)
EVENTS = [
    (None, None, None),
    ("", "1", 500),
    ("{\n}", "2", None),
    ("a", None, None),
    (" b", "3", None),
]


def _read(*pieces: bytes) -> list[Event]:
    events = Events(event_bytes_max=100)
    return [event for piece in pieces for event in events.feed(piece)]


def _said(events: list[Event]) -> list[tuple[str | None, str | None, int | None]]:
    """An LF that was cut from its CR is an event that says nothing."""
    return [(event.data, event.id, event.retry_ms) for event in events]


def test_a_stream_in_one_piece() -> None:
    found = _read(STREAM)
    assert _said(found) == EVENTS
    assert b"".join(event.raw for event in found) == STREAM


@given(st.lists(st.integers(0, len(STREAM)), max_size=6).map(sorted))
def test_however_it_is_cut(cuts: list[int]) -> None:
    ends = [0, *cuts, len(STREAM)]
    found = _read(*(STREAM[a:b] for a, b in pairwise(ends)))
    assert b"".join(event.raw for event in found) == STREAM
    assert _said(found) == EVENTS


def test_byte_by_byte() -> None:
    found = _read(*(bytes([byte]) for byte in STREAM))
    assert b"".join(event.raw for event in found) == STREAM
    assert _said(found) == EVENTS


def test_an_event_that_never_ends() -> None:
    events = Events(event_bytes_max=10)
    assert events.feed(b"data: 1234") == []
    with pytest.raises(TooLong):
        events.feed(b"5")


def test_the_rest_of_a_stream_is_no_event() -> None:
    assert _read(b"data: a\n\ndata: b\n") == [Event(b"data: a\n\n", "a")]


def test_a_byte_order_mark_is_no_part_of_a_name() -> None:
    assert read_event(b"\xef\xbb\xbfdata: a\n\n").data == "a"


@pytest.mark.parametrize("message", [b'{"a": 1}', b'{\n"a":\r\n1}', '{"ü": "\u2028"}'.encode()])
def test_a_message_as_an_event_says_the_same(message: bytes) -> None:
    found = _read(event_of(message))
    assert len(found) == 1
    assert found[0].data is not None
    assert found[0].data.split() == message.decode().split()
