"""Which requests are the same, and how an operator sees them."""

import hashlib
import json
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.fingerprint import (
    HttpRequest,
    blanked,
    business_value,
    decode_arguments,
    of_arguments,
    of_request,
    pointer,
    summary,
)

JSON = (("Content-Type", "application/json; charset=utf-8"),)


def tool(arguments: object, name: str = "charge") -> bytes:
    return of_arguments(name, msgpack.packb(arguments))


def http(body: bytes = b"", **changed: Any) -> bytes:
    rules = {k: changed.pop(k) for k in ("allowed_headers", "ignored_pointers") if k in changed}
    whole: dict[str, Any] = {
        "method": "POST",
        "scheme": "https",
        "authority": "api.example",
        "path": "/v1",
        "headers": JSON,
        "body": body,
    } | changed
    return of_request(HttpRequest(**whole), **rules)


def by_hand(*parts: bytes) -> str:
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hashlib.sha256(b"coatcheck fingerprint 1" + framed).hexdigest()


def test_digests_stay_as_they_are() -> None:
    # A change makes every call in flight at an upgrade look new: raise VERSION with care.
    canonical = b'{"a":{"$bytes":"eA=="},"b":1,"c":[0.5,null]}'
    found = tool({"b": 1, "a": b"x", "c": [0.5, None]})
    assert found.hex() == by_hand(b"tool", b"charge", b"canonical", canonical)
    assert found.hex() == "aadacc0bf3d6a93111807cf59c6da2d282c8391986f9e58da1d77a17bda73e9f"
    assert of_arguments("charge", b"\xc1").hex() == by_hand(b"tool", b"charge", b"raw", b"\xc1")
    place = (b"POST", b"https", b"api.example", b"/v1", b"a=1", b"live", b"1", b"x-tenant:1")
    body = (b"canonical", b'{"a":1}')
    found = http(
        b'{"a": 1, "id": 2}',
        query="a=1",
        account="live",
        headers=(*JSON, ("X-Tenant", "1")),
        allowed_headers={"x-tenant"},
        ignored_pointers=["/id"],
    )
    assert found.hex() == by_hand(b"http", *place, *body)
    assert http(b"x", headers=()).hex() == by_hand(
        b"http", b"POST", b"https", b"api.example", b"/v1", b"", b"", b"0", b"raw", b"x"
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1.0}, {"a": 1}),
        ({"a": [1, {"y": None, "x": True}]}, {"a": [1, {"x": True, "y": None}]}),
    ],
)
def test_equal_arguments(one: object, other: object) -> None:
    assert tool(one) == tool(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": "1"}, {"a": 1}),
        ({"a": b"eA=="}, {"a": "eA=="}),
        ({"a": b"x"}, {"a": {"$bytes": "eA=="}}),
        ({"a": {"$bytes": "eA=="}}, {"a": {"$$bytes": "eA=="}}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": 2**53}, {"a": 2**53 + 1}),
        ({"a": float("nan")}, {"a": None}),
    ],
)
def test_other_arguments(one: object, other: object) -> None:
    assert tool(one) != tool(other)


def test_tool_names_are_apart_from_arguments() -> None:
    assert tool({"a": 1}, "x") != tool({"a": 1}, "y")


@pytest.mark.parametrize(
    "raw",
    [
        msgpack.packb({"a": 2**53, "b": 1}),
        msgpack.packb({"a": float("inf")}),
        b"\x82\xa1a\x01\xa1a\x02",  # {"a": 1, "a": 2}
        b"\x81\xa1a\xa3\xed\xa0\x80",  # a lone surrogate as UTF-8
        msgpack.packb({b"a": 1}),
        msgpack.packb({1: 1}),
        msgpack.packb({"a": msgpack.ExtType(5, b"x")}),
        b"\x91" * 300 + b"\xc0",
        b"\xc1",
        b"",
    ],
    ids=["2^53", "inf", "twice", "surrogate", "bytes", "int", "ext", "deep", "bad", "empty"],
)
def test_what_is_not_canonical_is_taken_as_raw_bytes(raw: bytes) -> None:
    assert of_arguments("t", raw) == of_arguments("t", bytes(raw))
    assert of_arguments("t", raw) != of_arguments("t", raw + b"\xc0")


@given(st.binary(max_size=40))
def test_any_bytes_have_a_digest(raw: bytes) -> None:
    assert len(of_arguments("t", raw)) == len(http(raw)) == 32


def test_json_bodies_are_equal_by_value() -> None:
    assert http(b'{"a": 1, "b": [1.0]}') == http(b'{"b":[1],"a":1}')
    assert http(b'{"a": 1, "b": 2}', headers=()) != http(b'{"b":2,"a":1}', headers=())
    vendor = (("content-type", "application/vnd.api+json"),)
    assert http(b'{"a": 1}', headers=vendor) == http(b'{"a":1}', headers=vendor)
    jsonp = (("content-type", "application/jsonp"),)
    assert http(b'{"a": 1}', headers=jsonp) != http(b'{"a":1}', headers=jsonp)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a": 9007199254740993}', b'{"a": 9007199254740992}'),
        (b'{"a": NaN}', b'{"a":  NaN}'),
        (b'{"a": 1e999}', b'{"a": 2e999}'),
        (b'{"a": 1, "a": 2}', b'{"a": 2}'),
        (b'{"a": "\\ud800"}', b'{"a": "\\ud801"}'),
        (b"[" * 5000, b"[" * 5001),
        (b"\xff", b"\xfe"),
        (b"null", b""),
        (b"nul", b"nule"),
    ],
)
def test_json_that_cannot_be_canonical_differs_by_any_byte(one: bytes, other: bytes) -> None:
    assert http(one) != http(other)
    assert http(one) == http(bytes(one))


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "PUT"},
        {"scheme": "http"},
        {"authority": "other.example"},
        {"path": "/v2"},
        {"query": "a=1"},
        {"account": "live"},
        {"headers": (*JSON, ("X-Tenant", "2"))},
    ],
)
def test_each_part_of_a_request_counts(changed: dict[str, Any]) -> None:
    assert http(b"1", allowed_headers={"x-tenant"}, **changed) != http(b"1")


def test_what_a_request_does_not_mean() -> None:
    noise = (*JSON, ("Date", "today"), ("Authorization", "Bearer x"), ("X-Tenant", " 1 "))
    assert http(headers=noise) == http()
    spelled = http(headers=noise, method="post", scheme="HTTPS", authority="API.example")
    assert spelled == http()
    kept = http(headers=noise, allowed_headers={"x-tenant"})
    assert kept == http(headers=(*JSON, ("x-tenant", "1")), allowed_headers={"x-tenant"})
    assert kept != http()


def test_parts_do_not_run_into_each_other() -> None:
    assert http(path="/a", query="b") != http(path="/ab", query="")
    assert http(account="POST") != http(path="/v1POST")


@pytest.mark.parametrize(
    ("path", "one", "other"),
    [
        ("/id", {"a": 1, "id": 5}, {"a": 1}),
        ("/a/id", {"a": {"id": 5}}, {"a": {}}),
        ("/a/1/id", {"a": [0, {"id": 5}]}, {"a": [0, {"id": 6}]}),
        ("/a/0", {"a": [5, 1]}, {"a": [6, 1]}),
        ("", {"a": 1}, [2]),
    ],
)
def test_ignored_pointers(path: str, one: object, other: object) -> None:
    bodies = [json.dumps(body).encode() for body in (one, other)]
    assert http(bodies[0]) != http(bodies[1])
    assert len({http(body, ignored_pointers=[path]) for body in bodies}) == 1


@pytest.mark.parametrize("path", ["/x", "/a/x", "/a/7", "/a/-", "/a/01", "/n/x"])
def test_a_pointer_to_nothing_ignores_nothing(path: str) -> None:
    body = b'{"a": [1], "n": 2}'
    assert http(body, ignored_pointers=[path]) == http(body)


def test_a_body_too_big_for_memory_counts_by_its_digest() -> None:
    one, other = hashlib.sha256(b"1").digest(), hashlib.sha256(b"2").digest()
    assert http(body_digest=one) == http(body_digest=one)
    assert len({http(body_digest=one), http(body_digest=other), http(one), http()}) == 4


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", {}),
        ("/a", {"a": [], "n": 2, "s": "x", "none": None}),
        ("/a/0", {"a": [0, {"id": "y"}], "n": 2, "s": "x", "none": None}),
        ("/a/1/id", {"a": [5, {"id": ""}], "n": 2, "s": "x", "none": None}),
        ("/s", {"a": [5, {"id": "y"}], "n": 2, "s": "", "none": None}),
        ("/none", None),
        ("/x", None),
        ("/a/2", None),
        ("/a/-", None),
        ("/a/01", None),
        ("/s/0", None),
    ],
)
def test_what_is_blanked_keeps_its_type_and_its_place(path: str, expected: object) -> None:
    value = {"a": [5, {"id": "y"}], "n": 2, "s": "x", "none": None}
    before = json.dumps(value)
    assert blanked(value, path) == (value if expected is None else expected)
    assert json.dumps(value) == before


RFC_6901: dict[str, object] = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("", RFC_6901),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
    ],
)
def test_pointers_of_rfc_6901_section_5(path: str, found: object) -> None:
    assert pointer(RFC_6901, path) == found


@pytest.mark.parametrize("path", ["/x", "/foo/2", "/foo/-", "/foo/00", "/foo/bar", "//x"])
def test_pointers_to_nothing(path: str) -> None:
    with pytest.raises(LookupError):
        pointer(RFC_6901, path)


@pytest.mark.parametrize("path", ["foo", "/~", "/~2", "/a~"])
def test_texts_that_are_no_pointers(path: str) -> None:
    with pytest.raises(ValueError, match="no JSON pointer"):
        pointer(RFC_6901, path)


def test_business_values() -> None:
    nothing = {"none": None, "empty": "", "bad": "\ud800"}
    arguments = {"id": 7, "name": "7", "list": [1, b"x"], **nothing}
    assert business_value(arguments, "/id") == business_value(arguments, "/name") == "7"
    assert business_value(arguments, "/list") == '[1,{"$bytes":"eA=="}]'
    for path in ("/none", "/empty", "/missing", "/bad", "no pointer"):
        assert business_value(arguments, path) is None
    long = business_value({"id": "x" * 129}, "/id")
    assert long is not None
    assert len(long) == 64
    assert long != business_value({"id": "x" * 130}, "/id")


def test_arguments_are_decoded_or_refused() -> None:
    assert decode_arguments(msgpack.packb({"a": [1]})) == {"a": [1]}
    with pytest.raises(ValueError, match="twice"):
        decode_arguments(b"\x82\xa1a\x01\xa1a\x02")


def test_summaries() -> None:
    given = {"to": "bob", "amount": 5, "raw": b"abc", "rows": [1, 2], "opts": {"a": 1}, "ok": None}
    assert summary(given, ()) == "to, amount, raw, rows, opts, ok"
    shown = summary(given, ("/amount", "/opts/a", "/none", "/to", "/to", "bad", "/rows/1"))
    assert shown == 'amount=5, opts/a=1, to="bob", rows/1=2, raw, rows, opts, ok'
    every = summary(given, [f"/{name}" for name in given])
    assert every == 'to="bob", amount=5, raw=<3 bytes>, rows=<2 items>, opts=<1 keys>, ok=None'
    assert summary("hello", ()) == summary(["hello"], ()) == ""
    assert summary("hello", ("",)) == '="hello"'
    assert summary({"a": "x" * 40}, ["/a"])[2:] == '"' + "x" * 38 + "…"
    assert summary({"a": "x" * 38}, ["/a"]) == 'a="' + "x" * 38 + '"'
    assert summary({"a": 10**50}, ["/a"]) == "a=1" + "0" * 38 + "…"


def test_a_summary_names_fields_of_forms_and_no_names_that_may_be_secrets() -> None:
    form = {"source[number]": "4242", "source[cvc]": "1", "sk_live_4eC39HqLyjWDarjtT1": "x"}
    assert summary(form, ()) == "source, *"
    assert summary({f"n{'o' * n}": 1 for n in range(3, 30)}, ()).count(",") == 11


@given(st.recursive(st.none() | st.text() | st.integers() | st.binary(), st.lists, max_leaves=5))
def test_summaries_are_short_and_printable(value: object) -> None:
    names = [f"name{n}" for n in range(9)]
    shown = summary(dict.fromkeys(names, value), [f"/{name}" for name in names])
    assert len(shown) <= 200
    assert shown.isprintable()
