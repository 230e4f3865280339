"""Answers as they are kept: heads, pieces, events, what is blanked."""

import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.recorded import (
    CUTS_MAX,
    Head,
    decode_head,
    encode_head,
    event_cuts,
    from_value,
    is_event_stream,
    kept_headers,
    pieces,
    redacted,
    releasable,
)

SSE = (("Content-Type", "text/event-stream; charset=utf-8"),)
JSON = (("content-type", "application/json"),)
GZIP = (("Content-Encoding", "gzip"),)

heads = st.builds(
    Head,
    st.integers(100, 599),
    st.lists(st.tuples(st.text(), st.text())).map(tuple),
    st.lists(st.integers(0, 2**40)).map(lambda cuts: tuple(sorted(cuts))),
)


@given(heads)
def test_heads_come_back_as_they_were(head: Head) -> None:
    assert decode_head(encode_head(head)) == head


def test_so_many_pieces_are_remembered() -> None:
    head = Head(200, (), tuple(range(CUTS_MAX + 5)))
    assert decode_head(encode_head(head)).cuts == head.cuts[:CUTS_MAX]


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x80", msgpack.packb([2, 200, [], []]), msgpack.packb([1, "x", 3, 4])]
)
def test_heads_that_are_none(data: bytes) -> None:
    with pytest.raises(ValueError, match="recorded head"):
        decode_head(data)


def test_headers_are_kept_by_name() -> None:
    headers = (("Content-Type", "a"), ("Set-Cookie", "b"), ("content-encoding", "gzip"))
    kept = kept_headers(headers, {"content-type"})
    assert kept == (("Content-Type", "a"), ("content-encoding", "gzip"))


def test_streams_that_can_be_read() -> None:
    assert is_event_stream(SSE)
    assert is_event_stream((*SSE, ("Content-Encoding", "identity")))
    assert not is_event_stream((*SSE, *GZIP))
    assert not is_event_stream(JSON)


def test_where_events_end() -> None:
    body = b"data: a\n\ndata: b\r\n\r\ndata: c\r\rdata: d"
    assert list(pieces(body, event_cuts(body))) == [
        b"data: a\n\n",
        b"data: b\r\n\r\n",
        b"data: c\r\r",
        b"data: d",
    ]
    assert list(pieces(b"", ())) == []
    assert list(pieces(b"ab", (1, 1, 7))) == [b"a", b"b"]


@pytest.mark.parametrize(
    ("held", "free"),
    [
        (b"", 0),
        (b"data: a", 0),
        (b"data: a\n\n", 0),
        (b"data: a\n\ndata: b\n\n", 9),
        (b"data: a\n\ndata:", 9),
        (b"data: a\n\n\n", 0),
        (b"data: a\n\ndata: b\n\ndata: c\n\n", 18),
    ],
)
def test_the_last_event_stays(held: bytes, free: int) -> None:
    assert releasable(held) == free


def test_what_is_blanked_keeps_its_type() -> None:
    value = {"a": "s", "b": 1, "c": True, "d": [1], "e": {"f": "s"}, "g": None, "h": [{"i": "s"}]}
    pointers = ("/a", "/b", "/c", "/d", "/e", "/g", "/h/0/i", "/none/x", "/h/7/i", "/h/x", "/a/b")
    found = redacted(json.dumps(value).encode(), JSON, pointers=pointers)
    blank = {"a": "", "b": 0, "c": False, "d": [], "e": {}, "g": None, "h": [{"i": ""}]}
    assert json.loads(found or b"") == blank


def test_events_are_blanked_one_by_one() -> None:
    body = (
        b': ping\n\nevent: x\ndata: {"k":"s",\ndata: "n":1}\nid: 7\n\n'
        b'data: [DONE]\n\ndata: {"k":"t"}'
    )
    found = redacted(body, SSE, pointers=("/k",))
    assert found == (
        b': ping\n\nevent: x\nid: 7\ndata: {"k":"","n":1}\n\ndata: [DONE]\n\ndata: {"k":""}\n\n'
    )


@pytest.mark.parametrize(
    ("body", "headers", "kept"),
    [
        (b"", JSON, b""),
        (b"{", JSON, None),
        (b"no json", (("Content-Type", "text/plain"),), b"no json"),
        (b'{"k":1}', (), b'{"k":0}'),
        (b"anything", (*JSON, *GZIP), None),
    ],
)
def test_what_cannot_be_looked_into_is_not_kept(
    body: bytes, headers: tuple[tuple[str, str], ...], kept: bytes | None
) -> None:
    assert redacted(body, headers, pointers=("/k",)) == kept
    assert redacted(body, headers, pointers=()) == body


def test_somebodys_word_is_an_answer_too() -> None:
    assert from_value(None) == (Head(204), b"")
    assert from_value(msgpack.packb(None)) == (Head(204), b"")
    head, body = from_value(msgpack.packb({"id": 7}))
    assert (head, body) == (Head(200, (("Content-Type", "application/json"),)), b'{"id":7}')
