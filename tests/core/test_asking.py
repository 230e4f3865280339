"""From a request to the call that it asks for."""

from dataclasses import replace
from typing import Any

import pytest

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
from coatcheck_sidecar.core.relay import BadRequest, join
from coatcheck_sidecar.core.tool import HttpProbe, Tool, UpstreamKey

TOOL = Tool(name="mail", upstream="https://h/base")
JSON = (("Content-Type", "application/json"),)
FORM = (("Content-Type", "application/x-www-form-urlencoded"),)


def request(body: bytes = b"", **more: Any) -> Request:
    made = Request(
        method="POST", place=join(TOOL.upstream, "/x", query="q"), headers=JSON, said={}, body=body
    )
    return replace(made, **more)


def ask(tool: Tool = TOOL, *, of: Request, call_class: CallClass = CallClass.ONCE) -> Ask:
    return ask_of_request(tool, of, run="r", step=3, call_class=call_class)


def test_the_plain_case() -> None:
    made = ask(of=request(b'{"to":"ann","password":"hush"}'))
    assert (made.run, made.step, made.tool) == ("r", 3, "mail")
    assert made.summary == 'POST /base/x to="ann", password=***'
    assert (made.key, made.business, made.marker, made.is_retry) == (None, None, "", False)
    assert (made.settle_s, made.key_lifetime_s) == (None, None)


def test_what_makes_another_call() -> None:
    one = ask(of=request(b'{"a":1,"b":2}')).fingerprint
    assert ask(of=request(b'{"b": 2, "a": 1.0}')).fingerprint == one
    others = [
        ask(of=request(b'{"a":1}')),
        ask(of=request(b'{"a":1,"b":2}', method="PUT")),
        ask(of=request(b'{"a":1,"b":2}', place=join(TOOL.upstream, "/y", query="q"))),
        ask(of=request(b'{"a":1,"b":2}', place=join(TOOL.upstream, "/x"))),
        ask(replace(TOOL, account="other"), of=request(b'{"a":1,"b":2}')),
        ask(of=request(body_digest=b"d" * 32)),
        ask(of=request(body_digest=b"e" * 32)),
    ]
    prints = {one, *(other.fingerprint for other in others)}
    assert len(prints) == len(others) + 1
    tool = replace(TOOL, ignore=("/trace",), headers=frozenset({"x-tenant"}))
    told = request(b'{"trace":1}', headers=(*JSON, ("X-Tenant", "a"), ("X-Trace", "1")))
    same = request(b'{"trace":2}', headers=(*JSON, ("x-tenant", "a"), ("X-Trace", "2")))
    assert ask(tool, of=told).fingerprint == ask(tool, of=same).fingerprint


def test_keys_and_marks() -> None:
    marked = request(said={"idempotency-key": "i", "x-stainless-retry-count": "1"})
    made = ask(of=marked)
    assert (made.key, made.marker, made.is_retry) == (None, "i", True)
    assert ask(replace(TOOL, trust_key=True), of=marked).key == "i"
    own = request(said={"coatcheck-key": "k", "idempotency-key": "i"})
    assert ask(replace(TOOL, trust_key=True), of=own).key == "k"
    with pytest.raises(BadRequest, match="key"):
        ask(of=request(said={"coatcheck-key": "k" * (KEY_CHARS_MAX + 1)}))


@pytest.mark.parametrize(
    ("body", "headers", "business"),
    [
        (b'{"invoice":7}', JSON, "7"),
        (b"invoice=7&x=y", FORM, "7"),
        (b'{"other":7}', JSON, None),
        (b"[7]", JSON, None),
        (b"{", JSON, None),
        (b"", JSON, None),
        (b'{"invoice":7,"pad":"' + b"x" * SUMMARY_BYTES_MAX + b'"}', JSON, "7"),
    ],
)
def test_business_keys(body: bytes, headers: Any, business: str | None) -> None:
    of = request(body, headers=headers)
    for call_class in (CallClass.ONCE, CallClass.READ):
        assert ask(replace(TOOL, key="/invoice"), of=of, call_class=call_class).business == business
        assert ask(of=of, call_class=call_class).business is None


def test_what_is_said_to_operators_is_short() -> None:
    assert ask(of=request(b'{"a":1}'), call_class=CallClass.READ).summary == "POST /base/x"
    long = ask(of=request(b'{"a":"' + b"x" * SUMMARY_BYTES_MAX + b'"}'))
    assert long.summary == "POST /base/x"
    many = b"{" + b",".join(b'"n%d":1' % n for n in range(200)) + b"}"
    assert len(ask(of=request(many)).summary) == SUMMARY_CHARS_MAX


def test_the_tools_rules_go_along() -> None:
    tool = replace(
        TOOL,
        identity=Identity.POSITIONAL,
        repeats=True,
        unresolved_ok=True,
        probe_settle_s=4.0,
        upstream_key=UpstreamKey(lifetime_s=60.0),
    )
    made = ask(tool, of=request(), call_class=CallClass.KEYED)
    assert (made.identity, made.repeats_ok, made.unresolved_ok) == (Identity.POSITIONAL, True, True)
    assert (made.settle_s, made.key_lifetime_s) == (4.0, 60.0)
    assert ask(tool, of=request(), call_class=CallClass.ONCE).key_lifetime_s is None


def test_classes() -> None:
    assert class_of_request(TOOL, "GET", rest="/x") is CallClass.READ
    assert class_of_request(TOOL, "PUT", rest="") is CallClass.IDEMPOTENT
    assert class_of_request(TOOL, "POST", rest="/x") is CallClass.ONCE
    probed = replace(TOOL, probe=HttpProbe(path="/", applied_when="/a"))
    assert class_of_request(probed, "POST", rest="/x") is CallClass.PROBED
    by_path = replace(TOOL, effects={"POST /": Effect.READ})
    assert class_of_request(by_path, "POST", rest="") is CallClass.READ
