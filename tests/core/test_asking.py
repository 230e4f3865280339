"""Which call a request is: what it is found by, and what an operator is shown of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.asking import (
    KEY_CHARS_MAX,
    SUMMARY_BYTES_MAX,
    Request,
    ask_of_request,
    class_of_request,
)
from coatcheck_sidecar.core.fingerprint import SUMMARY_CHARS_MAX
from coatcheck_sidecar.core.model import CallClass, Effect
from coatcheck_sidecar.core.policy import Ask, Identity
from coatcheck_sidecar.core.relay import BadRequest, Headers, join, sift
from coatcheck_sidecar.core.tool import HttpProbe, Tool, UpstreamKey

JSON: Headers = (("Content-Type", "application/json"),)
FORM: Headers = (("Content-Type", "Application/X-WWW-Form-Urlencoded; charset=utf-8"),)
PLAIN = Tool(name="mail")
PAY = b'{"invoice_id": 7, "amount": 5}'


def ask(tool: Tool = PLAIN, call_class: CallClass = CallClass.ONCE, **changed: Any) -> Ask:
    sifted = sift(changed.pop("headers", JSON))
    upstream = changed.pop("upstream", "https://api.example/v1")
    place = join(upstream, changed.pop("rest", "/pay"), query=changed.pop("query", ""))
    whole: dict[str, Any] = {"method": "POST", "body": PAY} | changed
    request = Request(place=place, headers=sifted.passed, said=sifted.said, **whole)
    return ask_of_request(tool, request, run="run-1", step=3, call_class=call_class)


@pytest.mark.parametrize(
    ("tool", "method", "rest", "expected"),
    [
        (PLAIN, "GET", "/x", CallClass.READ),
        (PLAIN, "PUT", "/x", CallClass.IDEMPOTENT),
        (PLAIN, "POST", "", CallClass.ONCE),
        (Tool(name="t", effects={"POST /": Effect.READ}), "POST", "", CallClass.READ),
        (Tool(name="t", effects={"POST /": Effect.READ}), "POST", "/x", CallClass.ONCE),
        (
            Tool(name="t", effect=Effect.IDEMPOTENT, upstream_key=UpstreamKey()),
            "POST",
            "/x",
            CallClass.KEYED,
        ),
        (
            Tool(name="t", probe=HttpProbe(path="/q", applied_when="/0")),
            "POST",
            "/x",
            CallClass.PROBED,
        ),
    ],
)
def test_columns(tool: Tool, method: str, rest: str, expected: CallClass) -> None:
    assert class_of_request(tool, method, rest=rest) is expected


def test_what_the_tool_says_goes_along() -> None:
    tool = Tool(
        name="mail",
        identity=Identity.POSITIONAL,
        repeats=True,
        unresolved_ok=True,
        probe_settle_s=9.0,
        upstream_key=UpstreamKey(lifetime_s=60.0),
    )
    found = ask(tool, CallClass.KEYED)
    assert (found.run, found.step, found.tool) == ("run-1", 3, "mail")
    assert found.call_class is CallClass.KEYED
    assert found.identity is Identity.POSITIONAL
    assert (found.repeats_ok, found.unresolved_ok) == (True, True)
    assert (found.settle_s, found.key_lifetime_s) == (9.0, 60.0)
    assert ask(tool, CallClass.ONCE).key_lifetime_s is None
    plain = ask(PLAIN, CallClass.KEYED)
    assert (plain.repeats_ok, plain.unresolved_ok, plain.key_lifetime_s) == (False, False, None)


@pytest.mark.parametrize(
    ("said", "trust_key", "key", "marker"),
    [
        ({}, False, None, ""),
        ({"Idempotency-Key": "m"}, False, None, "m"),
        ({"Idempotency-Key": "m"}, True, "m", "m"),
        ({"Coatcheck-Key": "k", "Idempotency-Key": "m"}, True, "k", "m"),
        ({"Coatcheck-Key": "k"}, False, "k", ""),
        ({"Coatcheck-Key": ""}, False, None, ""),
    ],
)
def test_whose_key_it_is(
    said: dict[str, str], trust_key: bool, key: str | None, marker: str
) -> None:
    found = ask(Tool(name="mail", trust_key=trust_key), headers=(*JSON, *said.items()))
    assert (found.key, found.marker) == (key, marker)


def test_an_sdks_word_for_a_retry() -> None:
    assert ask(headers=(*JSON, ("X-Stainless-Retry-Count", "1"))).is_retry
    assert not ask(headers=(*JSON, ("X-Stainless-Retry-Count", "0"))).is_retry


@pytest.mark.parametrize("key", ["a", "é and more", "k" * KEY_CHARS_MAX])
def test_keys_that_can_be_kept(key: str) -> None:
    assert ask(headers=(("Coatcheck-Key", key),)).key == key


@pytest.mark.parametrize("key", ["k" * (KEY_CHARS_MAX + 1), "\udcff", "a\tb", "a\u202eb"])
def test_keys_that_are_refused(key: str) -> None:
    with pytest.raises(BadRequest, match=r"-key (has|must)"):
        ask(headers=(("Coatcheck-Key", key),))
    with pytest.raises(BadRequest, match=r"-key (has|must)"):
        ask(Tool(name="mail", trust_key=True), headers=(("Idempotency-Key", key),))


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "PATCH"},
        {"rest": "/pay2"},
        {"query": "dry=1"},
        {"upstream": "http://api.example/v1"},
        {"upstream": "https://api2.example/v1"},
        {"body": b'{"invoice_id": 8, "amount": 5}'},
        {"headers": (*JSON, ("X-Tenant", "other"))},
        {"body": b"", "body_digest": b"d" * 32},
        {"tool": Tool(name="mail", account="live", headers=frozenset({"x-tenant"}))},
    ],
)
def test_what_makes_another_request(changed: dict[str, Any]) -> None:
    tool = Tool(name="mail", headers=frozenset({"x-tenant"}))
    one = ask(tool)
    assert ask(**{"tool": tool, **changed}).fingerprint != one.fingerprint


def test_bodies_in_files_are_told_apart() -> None:
    digests = (b"", b"1" * 32, b"2" * 32)
    assert len({ask(body=b"", body_digest=digest).fingerprint for digest in digests}) == 3


def test_what_makes_no_other_request() -> None:
    tool = Tool(name="mail", ignore=("/sent_at",))
    noise = (("Authorization", "Bearer 2"), ("traceparent", "x"), ("Coatcheck-Step", "4"))
    again = ask(tool, headers=(*JSON, *noise), body=b'{"amount":5,"sent_at":9,"invoice_id":7}')
    assert again.fingerprint == ask(tool).fingerprint


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        (JSON, PAY, "7"),
        ((), PAY, "7"),
        ((("Content-Type", "text/plain"),), PAY, None),
        (FORM, b"amount=5&invoice_id=7", "7"),
        (FORM, b"amount=5", None),
        (JSON, b"invoice_id=7", None),
        (JSON, b"[7]", None),
        (JSON, b"{", None),
        (JSON, b"[" * 100_000, None),
        (JSON, b"\xff", None),
        (JSON, b"", None),
        (JSON, b'{"invoice_id": "%s"}' % (b"7" * SUMMARY_BYTES_MAX), "digest"),
    ],
)
def test_business_keys(headers: Headers, body: bytes, expected: str | None) -> None:
    found = ask(Tool(name="mail", key="/invoice_id"), headers=headers, body=body).business
    assert found is not None and len(found) == 64 if expected == "digest" else found == expected
    assert ask(headers=headers, body=body).business is None


def test_a_business_key_counts_whatever_the_class() -> None:
    tool = Tool(name="mail", key="/invoice_id")
    assert ask(tool, CallClass.READ).business == "7"


def test_an_operator_sees_what_is_asked_and_no_secret() -> None:
    assert ask().summary == "POST /v1/pay (invoice_id, amount)"
    assert ask(headers=FORM, body=b"a=1&password=x").summary == "POST /v1/pay (a, password)"
    assert ask(body=b"").summary == "POST /v1/pay"
    assert ask(body=b"[1]").summary == "POST /v1/pay"
    assert ask(query="token=x").summary == "POST /v1/pay (invoice_id, amount)"
    keyed = Tool(name="mail", key="/invoice_id", show=("/amount",))
    assert ask(keyed).summary == "POST /v1/pay (invoice_id=7, amount=5)"


def test_no_body_is_read_for_a_line_alone_that_nobody_needs() -> None:
    assert ask(PLAIN, CallClass.READ).summary == "POST /v1/pay"
    big = json.dumps({"text": "x" * SUMMARY_BYTES_MAX}).encode()
    assert ask(body=big).summary == "POST /v1/pay"
    most = b'{"a": "%s"}' % (b"x" * (SUMMARY_BYTES_MAX - 9))
    assert len(most) == SUMMARY_BYTES_MAX
    assert ask(body=most).summary == "POST /v1/pay (a)"


@pytest.mark.parametrize("body", [b"", PAY])
def test_a_line_is_short_whatever_the_path(body: bytes) -> None:
    assert len(ask(rest="/" + "x" * 5_000, body=body).summary) < SUMMARY_CHARS_MAX
    long = "/batchCreateTransfersOfAccounts" * 50
    assert len(ask(rest=long, body=body).summary) == SUMMARY_CHARS_MAX


@given(st.binary(max_size=60), st.sampled_from([JSON, FORM, ()]))
def test_any_body_is_a_call(body: bytes, headers: Headers) -> None:
    tool = Tool(name="mail", key="/a", ignore=("/b",))
    found = ask(tool, headers=headers, body=body)
    assert len(found.fingerprint) == 32
    assert found.summary.isprintable()
    found.summary.encode()
