"""Answers as they are kept: nothing lost, nothing shown that must not be."""

import contextlib
import json
import re
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.recorded import (
    CUTS_MAX,
    VERSION,
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

JSON = (("Content-Type", "application/json; charset=utf-8"),)
EVENTS = (("Content-Type", "text/event-stream; charset=utf-8"),)
GZIP = ("Content-Encoding", "gzip")
NUMBER = ("/card/number",)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.integers(100, 599),
    st.lists(st.tuples(TEXT, TEXT), max_size=4).map(tuple),
    st.lists(st.integers(0, 2**33), max_size=20).map(lambda cuts: tuple(sorted(cuts))),
)
def test_a_head_comes_back_as_it_was(
    status: int, headers: tuple[tuple[str, str], ...], cuts: tuple[int, ...]
) -> None:
    head = Head(status, headers, cuts)
    assert decode_head(encode_head(head)) == head


def test_the_form_of_a_head_stays() -> None:
    head = Head(200, (("A", "b"),), (5, 9))
    assert msgpack.unpackb(encode_head(head)) == [1, 200, [["A", "b"]], [5, 4]]


def test_cuts_past_the_limit_are_one_piece() -> None:
    head = decode_head(encode_head(Head(200, (), tuple(range(1, CUTS_MAX + 3)))))
    assert head.cuts == tuple(range(1, CUTS_MAX + 1))
    body = b"x" * (CUTS_MAX + 9)
    assert list(pieces(body, head.cuts))[-1] == b"x" * 9


def test_a_head_of_another_version_is_named() -> None:
    with pytest.raises(ValueError, match=f"version {VERSION + 1}, known is {VERSION}"):
        decode_head(msgpack.packb([VERSION + 1, 200, [], []]))


BAD_HEADS: list[Any] = [None, 1, {}, [], [1], [1, 200, [], [], 0], [1, "x", [], []]]
BAD_HEADS += [[1, 200, [["n"]], []], [1, 200, [1], []], [1, 200, [], ["a"]], [1, 200, [], 7]]


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x94\x01", *map(msgpack.packb, BAD_HEADS)])
def test_what_is_no_head_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match="can't be read"):
        decode_head(raw)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_head_or_a_value_error(raw: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(decode_head(raw), Head)


def test_headers_by_list_and_what_the_body_needs() -> None:
    headers = (*JSON, ("ETag", "1"), ("Set-Cookie", "s"), GZIP)
    assert kept_headers(headers, {"etag"}) == (("ETag", "1"), GZIP)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (EVENTS, True),
        ((("content-type", " Text/Event-Stream "),), True),
        (JSON, False),
        ((), False),
        ((*EVENTS, GZIP), False),
        ((*EVENTS, ("Content-Encoding", "Identity")), True),
    ],
)
def test_streams_that_can_be_read(headers: tuple[tuple[str, str], ...], expected: bool) -> None:
    assert is_event_stream(headers) is expected


STREAM = st.lists(
    st.sampled_from([b"data: 1", b": ping", b"\n", b"\r\n", b"\r", b"\n\n"]), max_size=14
).map(b"".join)


@given(STREAM)
def test_a_piece_of_a_stream_is_one_event_at_most(body: bytes) -> None:
    found = list(pieces(body, event_cuts(body)))
    assert b"".join(found) == body
    for at, piece in enumerate(found):
        # Line by line, as HTML, section 9.2.6, reads a stream: a blank line ends an event.
        blank = [not line for line in re.split(rb"\r\n|\n|\r", piece)[:-1]]
        first = blank.index(False) if False in blank else len(blank)
        assert True not in blank[first:-1]
        assert at == len(found) - 1 or blank[-1]


@given(st.binary(max_size=30), st.lists(st.integers(-2, 40), max_size=8))
def test_pieces_are_the_body_whatever_the_cuts_say(body: bytes, cuts: list[int]) -> None:
    found = list(pieces(body, cuts))
    assert b"".join(found) == body
    assert all(found)


def test_pieces_end_where_they_ended() -> None:
    assert list(pieces(b"abcdef", (2, 3, 6))) == [b"ab", b"c", b"def"]
    assert list(pieces(b"", (2,))) == []


@pytest.mark.parametrize(
    ("held", "free"),
    [
        (b"", 0),
        (b"data: 1", 0),
        (b"data: 1\n\n", 0),
        (b"data: 1\n\n\n", 0),
        (b"data: 1\n\ndata", 0),
        (b"data: 1\n\ndata:", 9),
        (b"data: 1\n\n: ping\n\n", 0),
        (b"data: 1\n\n: ping\n\n\n: ping", 0),
        (b"data: 1\n\n: data: no\n\nretry: 5\n\nid: 7\n\n", 0),
        (b"data: 1\n\nevent: done\n\n", 0),
        (b"data: 1\n\n: ping\n\ndata\n\n", 17),
        (b"data: 1\n\n: ping\nid: 7\ndata: 2\n\n", 9),
        (b"data: 1\r\r: ping\r\r", 0),
        (b": ping\n\n: ping\n\n", 8),
        (b"\xef\xbb\xbfdata: 1\n\n: ping\n\n", 0),
        (b"data: 1\n\ndata: 2\n\n", 9),
        (b"data: 1\r\n\r\ndata: 2\r\n\r\n", 11),
        (b"data: 1\r\n\r\ndata: 2\r\n\r\nd", 11),
    ],
)
def test_the_last_event_stays(held: bytes, free: int) -> None:
    assert releasable(held) == free
    assert releasable(bytearray(held)) == free


def test_the_rest_of_an_event_is_one() -> None:
    for held, free in ((b"y\n\n: ping\n\n", 0), (b"y\n\n: ping\n\ndata: 2\n\n", 11)):
        assert releasable(held, is_inside=True) == free


@given(STREAM, st.lists(st.integers(0, 60), max_size=6))
def test_what_is_held_back_at_the_end_is_an_event(body: bytes, cuts: list[int]) -> None:
    sent, held = b"", b""
    for piece in pieces(body, sorted(cuts)):
        held += piece
        free = releasable(held)
        sent, held = sent + held[:free], held[free:]
    assert sent + held == body
    assert held.strip() or not sent.strip()


def blanked(body: bytes, headers: Any = JSON, pointers: tuple[str, ...] = NUMBER) -> Any:
    found = redacted(body, headers, pointers=pointers)
    return found if found is None else json.loads(found)


def test_what_pointers_name_is_blank() -> None:
    body = json.dumps({"card": {"number": "4242", "brand": "ü"}, "ids": [7, 8]}).encode()
    expected = {"card": {"number": "", "brand": "ü"}, "ids": [7, 0]}
    assert blanked(body, pointers=("/card/number", "/ids/1", "/nothing")) == expected
    assert blanked(body, headers=(), pointers=("",)) == {}
    assert blanked(b'{"card":{"number":null}}') == {"card": {"number": None}}


def test_without_pointers_nothing_is_touched() -> None:
    for body in (b'{"card" : 1}', b"\xff", b""):
        assert redacted(body, JSON, pointers=()) is body
    assert redacted(b"", JSON, pointers=NUMBER) == b""


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"card":{"number":"4242"}}', (*JSON, GZIP)),
        (b'{"card":{"number":"4242', JSON),
        (b'{"card":{"number":"4242', ()),
        (b'{"card":{"number":"4242"}}\n{}', (("Content-Type", "application/x-ndjson"),)),
        (b"\x1e{}", (("Content-Type", "application/json-seq"),)),
        (b"[" * 100_000, JSON),
        (b' [{"number":1},', (("Content-Type", "text/plain"),)),
        (b'data: {"card":{"number":"42', EVENTS),
        (b'data: {}\n\n\xef\xbb\xbfdata: {"card":{"number":"42"}}\n\n', EVENTS),
    ],
)
def test_what_cannot_be_looked_into_is_not_kept(body: bytes, headers: Any) -> None:
    assert redacted(body, headers, pointers=NUMBER) is None


def test_what_is_no_json_has_nothing_to_name() -> None:
    page = b"<html>gone {x}</html>"
    assert redacted(page, (("Content-Type", "text/html"),), pointers=NUMBER) == page


def test_a_nesting_that_can_just_be_read_is_no_error() -> None:
    for depth in range(900, 1_000):
        redacted(b"[" * depth + b"]" * depth, JSON, pointers=NUMBER)


def test_in_a_stream_each_event_is_blanked() -> None:
    body = (
        b": ping\n\n"
        b'event: card\r\ndata: {"card":\r\ndata:{"number":"4242"}}\r\nid: 7\r\n\r\n'
        b"data: [DONE]\n\n"
    )
    assert redacted(body, EVENTS, pointers=NUMBER) == (
        b': ping\n\nevent: card\nid: 7\ndata: {"card":{"number":""}}\n\ndata: [DONE]\n\n'
    )


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    ),
    st.text(max_size=8),
)
def test_no_secret_is_left_and_all_else_stays(rest: Any, secret: str) -> None:
    value = {"rest": rest, "card": {"number": secret}}
    expected = {"rest": rest, "card": {"number": ""}}
    data = json.dumps(value).encode()
    assert blanked(data) == expected
    event = redacted(b"data: %s\n\n" % data, EVENTS, pointers=NUMBER)
    assert event is not None
    assert json.loads(event.removeprefix(b"data: ")) == expected


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ({"id": "é"}, b'{"id":"\\u00e9"}'),
        ([1, "a"], b'[1,"a"]'),
        (0, b"0"),
        (False, b"false"),
        ("", b'""'),
        (b"\xff\x00", b'"/wA="'),
        (msgpack.Timestamp(1, 0), b'"Timestamp(seconds=1, nanoseconds=0)"'),
    ],
)
def test_a_result_that_was_decided_is_given_as_json(value: object, body: bytes) -> None:
    head, given_body = from_value(msgpack.packb(value))
    assert head == Head(200, (("Content-Type", "application/json"),))
    assert given_body == body


@pytest.mark.parametrize("data", [None, msgpack.packb(None)])
def test_no_result_is_no_content(data: bytes | None) -> None:
    assert from_value(data) == (Head(204), b"")
