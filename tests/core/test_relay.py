"""What of a request is passed on, and what is refused before anybody else could read it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.relay import (
    TARGET_CHARS_MAX,
    BadRequest,
    Place,
    Target,
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


@pytest.mark.parametrize(
    ("raw", "rest", "query"),
    [
        (f"/{TOKEN}/mail", "", ""),
        (f"/{TOKEN}/mail/", "/", ""),
        (f"/{TOKEN}/mail?a=/../b", "", "a=/../b"),
        (f"/{TOKEN}/mail/a%2Fb//c?", "/a%2Fb//c", ""),
        (f"/{TOKEN}/mail/.well-known/x?q=1?2", "/.well-known/x", "q=1?2"),
        (f"/{TOKEN}/mail/a..b/..c/%2ed", "/a..b/..c/%2ed", ""),
        (f"/{TOKEN}/mail/%25%5c2e?%zz\\", "/%25%5c2e", ""),
    ],
)
def test_targets(raw: str, rest: str, query: str) -> None:
    if "%5c" in raw:
        with pytest.raises(BadRequest, match="backslash"):
            split_target(raw)
    else:
        assert split_target(raw) == Target(TOKEN, "mail", rest, query)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "/",
        "*",
        "mail",
        f"http://127.0.0.1/{TOKEN}/mail",
        f"//{TOKEN}/mail/x",
        f"/{TOKEN}",
        f"/{TOKEN}/",
        f"/{TOKEN}//x",
        f"/{TOKEN[:-1]}/mail",
        f"/{TOKEN.upper()}/mail",
        f"/{TOKEN}%2Fmail/x",
        f"/{TOKEN}/ma%69l/x",
        f"/{TOKEN}/../x",
        f"/{TOKEN}/{'t' * 65}/x",
        f"/{TOKEN}/mail/../x",
        f"/{TOKEN}/mail/./x",
        f"/{TOKEN}/mail/..",
        f"/{TOKEN}/mail/%2E%2e/x",
        f"/{TOKEN}/mail/.%2e/x",
        f"/{TOKEN}/mail/a%2F..%2Fb",
        f"/{TOKEN}/mail/..;a=b/x",
        f"/{TOKEN}/mail/..%5cx",
        f"/{TOKEN}/mail/a\\b",
        f"/{TOKEN}/mail/%zz",
        f"/{TOKEN}/mail/%2",
        f"/{TOKEN}/mail/%00",
        f"/{TOKEN}/mail/%0d%0aX: 1",
        f"/{TOKEN}/mail/a b",
        f"/{TOKEN}/mail/a#b",
        f"/{TOKEN}/mail/a\r\nX: 1",
        f"/{TOKEN}/mail/\N{LATIN SMALL LETTER E WITH ACUTE}",
        f"/{TOKEN}/mail/?a=b\0",
        f"/{TOKEN}/mail/{'x' * TARGET_CHARS_MAX}",
    ],
)
def test_targets_that_are_refused(raw: str) -> None:
    with pytest.raises(BadRequest):
        split_target(raw)


@given(st.text(st.sampled_from("ab/.%2eE5cC;?\\0"), max_size=30))
def test_no_accepted_path_has_a_dot_segment_however_it_is_read(rest: str) -> None:
    try:
        target = split_target(f"/{TOKEN}/mail/{rest}")
    except BadRequest:
        return
    path = target.rest
    for _ in range(1):
        for dot in ("%2e", "%2E"):
            path = path.replace(dot, ".")
        for slash in ("%2f", "%2F", "%5c", "%5C", "\\"):
            path = path.replace(slash, "/")
    assert not {".", ".."} & {part.partition(";")[0] for part in path.split("/")}


@pytest.mark.parametrize(
    ("upstream", "rest", "query", "url"),
    [
        ("https://api.example.com", "/v1/x", "a=1", "https://api.example.com/v1/x?a=1"),
        ("https://api.example.com/v1", "/x", "", "https://api.example.com/v1/x"),
        ("https://api.example.com/v1/", "/x/", "", "https://api.example.com/v1/x/"),
        ("https://api.example.com/v1", "", "", "https://api.example.com/v1"),
        ("HTTPS://api.example.com:8443", "", "", "https://api.example.com:8443/"),
        ("http://u:p@[::1]:80/a%20b", "/c%2F", "", "http://[::1]:80/a%20b/c%2F"),
    ],
)
def test_a_route_leads_below_the_upstreams_own_path(
    upstream: str, rest: str, query: str, url: str
) -> None:
    assert join(upstream, rest, query=query).url == url


def test_a_place_in_its_parts() -> None:
    assert join("https://h/b", "/r", query="q") == Place("https", "h", "/b/r", "q")


def test_headers_of_the_connection_and_ours_stay_behind() -> None:
    sifted = sift(
        [
            ("Host", "127.0.0.1"),
            ("X-A", "1"),
            ("Connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("Keep-Alive", "5"),
            ("Transfer-Encoding", "chunked"),
            ("Content-Length", "3"),
            ("Expect", "100-continue"),
            ("TE", "trailers"),
            ("Coatcheck-Key", "k"),
            ("Coatcheck-Later", "l"),
            ("Idempotency-Key", "i"),
            ("x-a", "2"),
        ]
    )
    assert sifted.passed == (("X-A", "1"), ("Idempotency-Key", "i"), ("x-a", "2"))
    assert sifted.said == {"coatcheck-key": "k", "idempotency-key": "i"}


def test_what_is_said_to_us_is_said_once() -> None:
    for name in ("Coatcheck-Key", "Coatcheck-Run", "Idempotency-Key"):
        with pytest.raises(BadRequest, match=name.lower()):
            sift([(name, "a"), (name.lower(), "b")])
        assert sift([(name, "a"), (name, "a")]).said == {name.lower(): "a"}
    assert sift([("Prefer", "a"), ("Prefer", "b")]).said == {"prefer": "a"}


def test_answers_lose_what_is_of_their_connection() -> None:
    headers = (
        ("Connection", "X-Hop"),
        ("X-Hop", "1"),
        ("Coatcheck-Decision", "forged"),
        ("Content-Length", "1"),
        ("Trailer", "X"),
        ("Set-Cookie", "a"),
        ("Set-Cookie", "b"),
    )
    kept = (("Content-Length", "1"), ("Set-Cookie", "a"), ("Set-Cookie", "b"))
    assert end_to_end(headers) == kept
    assert without(kept, "set-cookie") == (("Content-Length", "1"),)
    assert (header(kept, "set-cookie"), header(kept, "none")) == ("a", "")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, False),
        ({"x-stainless-retry-count": "0"}, False),
        ({"x-stainless-retry-count": "2"}, True),
        ({"x-stainless-retry-count": "many"}, False),
        ({"amz-sdk-request": "attempt=1; max=3"}, False),
        ({"amz-sdk-request": "ttl=x; attempt=2; max=3"}, True),
    ],
)
def test_marks_of_a_retry(said: dict[str, str], expected: bool) -> None:
    assert is_retry(said) is expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, 0.0),
        ({"coatcheck-wait": " 2.5"}, 2.5),
        ({"coatcheck-wait": "-1"}, 0.0),
        ({"coatcheck-wait": "1e9"}, 0.0),
        ({"prefer": "respond-async, wait=10"}, 10.0),
        ({"prefer": 'handling=lenient; wait="7"'}, 7.0),
        ({"prefer": "await=10"}, 0.0),
        ({"prefer": "wait=10", "coatcheck-wait": "3"}, 3.0),
    ],
)
def test_how_long_an_agent_waits(said: dict[str, str], expected: float) -> None:
    assert wait_s(said) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7", 7.0),
        ("1.5", 1.5),
        ("Thu, 01 Jan 1970 00:00:20 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:00:05 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("", None),
    ],
)
def test_retry_after(value: str, expected: float | None) -> None:
    assert retry_after_s((("Retry-After", value),), now_ms=10_000) == expected
    assert retry_after_s((), now_ms=10_000) is None
