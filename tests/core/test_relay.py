"""Which targets pass, which headers go along, and what was said to us in them."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.relay import (
    TARGET_CHARS_MAX,
    BadRequest,
    Place,
    Target,
    check_path,
    end_to_end,
    header,
    is_retry,
    join,
    retry_after_s,
    sift,
    split_target,
    wait_s,
    without,
)

TOKEN = "0123456789abcdef" * 2
NOW_MS = 784_111_777_000
"""1994-11-06T08:49:37Z, the example of RFC 9110."""


@pytest.mark.parametrize(
    ("raw", "rest", "query"),
    [
        ("", "", ""),
        ("/", "/", ""),
        ("/v1/charges", "/v1/charges", ""),
        ("/v1/charges?a=1&b=/../x", "/v1/charges", "a=1&b=/../x"),
        ("?a=?", "", "a=?"),
        ("/a//b///", "/a//b///", ""),
        ("/%7Ename/%E2%82%AC", "/%7Ename/%E2%82%AC", ""),
        ("/.well-known/x", "/.well-known/x", ""),
        ("/...", "/...", ""),
        ("/a.b/c..d", "/a.b/c..d", ""),
        ("/a;v=1/b", "/a;v=1/b", ""),
        ("/%2Fetc", "/%2Fetc", ""),
    ],
)
def test_what_passes_is_passed_on_as_it_came(raw: str, rest: str, query: str) -> None:
    assert split_target(f"/{TOKEN}/mail{raw}") == Target(TOKEN, "mail", rest, query)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "*",
        "http://example.com/",
        "example.com:443",
        "/",
        f"/{TOKEN}",
        f"/{TOKEN}/",
        f"/{TOKEN[1:]}/mail",
        f"/{TOKEN}0/mail",
        f"/{TOKEN.upper()}/mail",
        f"//{TOKEN}/mail",
        f"/{TOKEN}/.mail",
        f"/{TOKEN}/ma%69l",
        f"/{TOKEN}/{'m' * 65}",
        f"/{TOKEN}/mail/a b",
        f"/{TOKEN}/mail/a#b",
        f"/{TOKEN}/mail/a\n",
        f"/{TOKEN}/mail/a\r\nHost: x",
        f"/{TOKEN}/mail/\0",
        f"/{TOKEN}/mail/ä",
        f"/{TOKEN}/mail/{'x' * TARGET_CHARS_MAX}",
    ],
)
def test_what_is_no_route_is_refused(raw: str) -> None:
    with pytest.raises(BadRequest):
        split_target(raw)


def test_the_longest_target() -> None:
    route = f"/{TOKEN}/mail/"
    rest = "x" * (TARGET_CHARS_MAX - len(route))
    assert split_target(route + rest).rest == f"/{rest}"
    with pytest.raises(BadRequest, match="8001 of 8000"):
        split_target(route + "x" * (TARGET_CHARS_MAX - len(route) + 1))


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/a/../b", "dot segment"),
        ("/..", "dot segment"),
        ("/.", "dot segment"),
        ("/./x", "dot segment"),
        ("/a/%2e%2E/b", "dot segment"),
        ("/a/.%2e", "dot segment"),
        ("/a%2F..%2Fb", "dot segment"),
        ("/..;/b", "dot segment"),
        ("/%2e%3bx/b", "dot segment"),
        ("/a\\b", "backslash"),
        ("/a%5Cb", "backslash"),
        ("/a%5c..%5cb", "backslash"),
        ("/a%00b", "NUL"),
        ("/a%0Ab", "line end"),
        ("/a%0db", "line end"),
        ("/a%", "begins no escape"),
        ("/a%4", "begins no escape"),
        ("/a%zz", "begins no escape"),
    ],
)
def test_what_an_upstream_could_read_otherwise_is_refused(path: str, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        check_path(path)
    with pytest.raises(BadRequest, match=why):
        split_target(f"/{TOKEN}/mail{path}")


PIECES = st.sampled_from(["a", ".", "..", "%2e", "%2E", "%2f", "/", "//", ";", "%3b", "%", "%41"])


@given(st.lists(PIECES, max_size=10).map(lambda parts: "/" + "".join(parts)))
def test_no_way_of_writing_dots_leads_out(path: str) -> None:
    try:
        check_path(path)
    except BadRequest:
        return
    plain = path.replace("%2f", "/").replace("%2e", ".").replace("%2E", ".").replace("%3b", ";")
    assert not {part.split(";")[0] for part in plain.split("/")} & {".", ".."}


@given(st.text(max_size=60))
def test_any_text_is_a_target_or_a_bad_request(text: str) -> None:
    for raw in (text, f"/{TOKEN}/mail/{text}"):
        try:
            found = split_target(raw)
        except BadRequest:
            continue
        tail = f"?{found.query}" if "?" in raw else ""
        assert f"/{found.token}/{found.tool}{found.rest}{tail}" == raw


@pytest.mark.parametrize(
    ("upstream", "rest", "query", "url"),
    [
        ("https://api.example", "", "", "https://api.example/"),
        ("https://api.example/", "/", "", "https://api.example/"),
        ("https://api.example/v1/", "/x", "a=1", "https://api.example/v1/x?a=1"),
        ("https://api.example/v1", "", "a=1", "https://api.example/v1?a=1"),
        ("HTTP://Api.Example:8080", "//x", "", "http://Api.Example:8080//x"),
        ("https://user:pw@api.example", "/x", "", "https://api.example/x"),
    ],
)
def test_a_route_stays_below_its_tools_url(upstream: str, rest: str, query: str, url: str) -> None:
    assert join(upstream, rest, query=query).url == url


def test_a_place_keeps_its_parts() -> None:
    assert join("https://h:1/v1", "/x", query="q") == Place("https", "h:1", "/v1/x", "q")


def test_headers_of_the_connection_and_ours_stay_here() -> None:
    sifted = sift(
        [
            ("Host", "127.0.0.1:7070"),
            ("Content-Length", "3"),
            ("Transfer-Encoding", "chunked"),
            ("TE", "trailers"),
            ("Expect", "100-continue"),
            ("Proxy-Authorization", "Basic x"),
            ("Connection", "close, X-Own"),
            ("connection", "x-other"),
            ("x-own", "1"),
            ("X-Other", "2"),
            ("Coatcheck-Key", "k"),
            ("coatcheck-whatever", "w"),
            ("Authorization", "Bearer t"),
            ("Cookie", "a"),
            ("cookie", "b"),
            ("Idempotency-Key", "m"),
            ("X-Stainless-Retry-Count", "1"),
        ]
    )
    assert sifted.passed == (
        ("Authorization", "Bearer t"),
        ("Cookie", "a"),
        ("cookie", "b"),
        ("Idempotency-Key", "m"),
        ("X-Stainless-Retry-Count", "1"),
    )
    said = {"coatcheck-key": "k", "idempotency-key": "m", "x-stainless-retry-count": "1"}
    assert sifted.said == said


@pytest.mark.parametrize("name", ["Coatcheck-Key", "Coatcheck-Step", "Idempotency-Key"])
def test_a_name_for_a_call_comes_once(name: str) -> None:
    assert sift([(name, "a"), (name.lower(), "a")]).said == {name.lower(): "a"}
    with pytest.raises(BadRequest, match="given twice"):
        sift([(name, "a"), (name.lower(), "b")])


def test_of_other_headers_the_first_counts() -> None:
    assert sift([("Prefer", "wait=1"), ("prefer", "wait=2")]).said == {"prefer": "wait=1"}


def test_an_upstream_speaks_neither_of_its_connection_nor_in_our_name() -> None:
    answer = [
        ("Connection", "Keep-Alive, X-Hop"),
        ("Keep-Alive", "timeout=5"),
        ("x-hop", "1"),
        ("Transfer-Encoding", "chunked"),
        ("Coatcheck-Decision", "replayed"),
        ("Content-Length", "3"),
        ("Set-Cookie", "a"),
        ("Set-Cookie", "b"),
    ]
    kept = (("Content-Length", "3"), ("Set-Cookie", "a"), ("Set-Cookie", "b"))
    assert end_to_end(answer) == kept


def test_headers_by_name() -> None:
    headers = (("X-A", "1"), ("x-a", "2"), ("B", "3"))
    assert header(headers, "x-a") == "1"
    assert header(headers, "c") == ""
    assert without(headers, "x-a", "c") == (("B", "3"),)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("x-stainless-retry-count", "0", False),
        ("x-stainless-retry-count", "1", True),
        ("x-stainless-retry-count", "12", True),
        ("x-stainless-retry-count", "-1", False),
        ("x-stainless-retry-count", "", False),
        ("x-stainless-retry-count", "²", False),
        ("x-stainless-retry-count", "1" * 5_000, False),
        ("amz-sdk-request", "attempt=1; max=3", False),
        ("amz-sdk-request", "ttl=20260101T000000Z; attempt=2; max=3", True),
        ("amz-sdk-request", "attempt=", False),
        ("amz-sdk-request", "attempt=" + "9" * 5_000, False),
        ("other", "attempt=2", False),
    ],
)
def test_what_sdks_say_of_their_retries(name: str, value: str, expected: bool) -> None:
    assert is_retry({name: value}) is expected


@pytest.mark.parametrize(
    ("own", "prefer", "expected"),
    [
        ("", "", 0.0),
        ("30", "", 30.0),
        (" 0.5 ", "", 0.5),
        ("30", "wait=5", 30.0),
        ("soon", "wait=5", 5.0),
        ("-1", "", 0.0),
        ("1e9", "", 0.0),
        ("inf", "", 0.0),
        ("٣", "", 0.0),
        ("1234567890", "", 0.0),
        ("", 'respond-async, Wait="10"', 10.0),
        ("", "wait = 7; x=1", 7.0),
        ("", "return=minimal;wait=3,x", 3.0),
        ("", "await=9", 0.0),
        ("", "wait=9s", 0.0),
        ("", "wait=٣", 0.0),
        ("", "wait=" + "9" * 400, 0.0),
    ],
)
def test_how_long_an_agent_waits_for_a_decision(own: str, prefer: str, expected: float) -> None:
    assert wait_s({"coatcheck-wait": own, "prefer": prefer}) == expected


@contextmanager
def time_zone(name: str) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        os.environ.pop("TZ")
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", 120.0),
        (" 1.5 ", 1.5),
        ("0", 0.0),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        ("Sunday, 06-Nov-94 08:49:47 GMT", 10.0),
        ("Sun Nov  6 08:49:47 1994", 10.0),
        ("Sun, 06 Nov 1994 08:49:27 GMT", 0.0),
        ("Mon, 01 Jan 2001 25:00:00 GMT", None),
        ("Mon, 01 Jan 2001 00:00:00 +99999999", None),
    ],
)
def test_retry_after_has_two_forms_wherever_the_clock_hangs(
    value: str, expected: float | None
) -> None:
    with time_zone("Asia/Tokyo"):
        assert retry_after_s((("Retry-After", value),), now_ms=NOW_MS) == expected


def test_no_retry_after() -> None:
    assert retry_after_s((), now_ms=NOW_MS) is None


DATES = st.text("0123456789:+-, ", max_size=40).map(lambda text: f"Mon, 01 Jan {text}")


@given(st.one_of(st.text(max_size=40), DATES, st.integers().map(str)))
def test_any_retry_after_is_read_or_not(value: str) -> None:
    found = retry_after_s((("retry-after", value),), now_ms=NOW_MS)
    assert found is None or 0 <= found < float("inf")
