"""Which messages are tool calls, what identifies one, and how an answer finds its asking."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core import mcp
from coatcheck_sidecar.core.mcp import Hints, Posted, ToolCall, Unfit
from coatcheck_sidecar.core.model import Effect
from coatcheck_sidecar.core.tool import Tool

TOOL = Tool(name="search", mcp="https://tools.test/mcp")


def _body(call_id: object = 7, method: str = "tools/call", **params: Any) -> bytes:
    params = {"name": "charge", "arguments": {"invoice_id": 1, "note": "x"}} | params
    return json.dumps(
        {"jsonrpc": "2.0", "id": call_id, "method": method, "params": params}
    ).encode()


def _call(body: bytes | None = None, **params: Any) -> ToolCall:
    call = mcp.read(body or _body(**params)).call
    assert call is not None
    return call


# Reading


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","method":"notifications/initialized"}',
        b'{"jsonrpc":"2.0","id":1,"result":{"method":"tools/call"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"name":"tools/call"}}',
        b'{"jsonrpc":"2.0","id":1,"method":["tools/call"]}',
        b'[{"jsonrpc":"2.0","id":1,"method":"ping"}, 3]',
    ],
)
def test_all_but_tool_calls_pass(body: bytes) -> None:
    assert mcp.read(body).call is None


def test_the_method_is_told() -> None:
    assert mcp.read(_body(method="tools/list")) == Posted("tools/list", 7)


def test_where_only_a_tool_call_will_do() -> None:
    assert mcp.read_call(_body()) == _call()
    with pytest.raises(Unfit, match="not a tool call"):
        mcp.read_call(_body(method="ping"))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", mcp.PARSE_ERROR),
        (b"{", mcp.PARSE_ERROR),
        (b"\xff", mcp.PARSE_ERROR),
        (b"[" * 100_000, mcp.PARSE_ERROR),
        ('{"method":"tools/call"}'.encode("utf-16"), mcp.PARSE_ERROR),
        (b'{"method":"ping","method":"tools/call"}', mcp.PARSE_ERROR),
        (b"3", mcp.INVALID_REQUEST),
        (b'[{"method":"tools/call"}]', mcp.INVALID_REQUEST),
        (b'{"method":"tools/call","params":{"name":"a"}}', mcp.INVALID_REQUEST),
        (_body(call_id=True), mcp.INVALID_REQUEST),
        (b'{"method":"tools/call","id":1}', mcp.INVALID_REQUEST),
        (_body(name=3), mcp.INVALID_REQUEST),
        (_body(arguments=[1]), mcp.INVALID_REQUEST),
        (_body(_meta=[1]), mcp.INVALID_REQUEST),
        (_body(_meta={mcp.KEY: 3}), mcp.INVALID_REQUEST),
        (_body(_meta={mcp.KEY: ""}), mcp.INVALID_REQUEST),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(body: bytes, code: int) -> None:
    with pytest.raises(Unfit) as refused:
        mcp.read(body)
    assert refused.value.code == code


def test_a_tool_call() -> None:
    found = _call(_body(call_id="a\u00fc", _meta={mcp.KEY: "k"}))
    assert found == ToolCall(
        id="a\u00fc",
        id_text='"a\\u00fc"',
        name="charge",
        arguments={"invoice_id": 1, "note": "x"},
        key="k",
        leg="",
        input={},
        is_typed=False,
    )


def test_a_method_in_disguise_is_a_tool_call() -> None:
    assert _call(b'{"id":1,"method":"tools\\/\\u0063all","params":{"name":"a"}}').arguments == {}


def test_a_revision_whose_results_name_their_type() -> None:
    assert _call(_meta={mcp.VERSION: "2026-07-28"}).is_typed


# Identity


def _print(tool: Tool = TOOL, **params: Any) -> bytes:
    return mcp.fingerprint_of(_call(**params), tool)


def test_equal_calls_have_equal_fingerprints() -> None:
    again = _body(
        call_id="other", arguments={"note": "x", "invoice_id": 1.0}, _meta={"progressToken": 3}
    )
    assert mcp.fingerprint_of(_call(again), TOOL) == _print()


def test_no_arguments_are_empty_arguments() -> None:
    assert _print(arguments=None) == _print(arguments={})


@pytest.mark.parametrize(
    "params",
    [
        {"name": "charge2"},
        {"arguments": {"invoice_id": 2, "note": "x"}},
        {"requestState": "s"},
        {"inputResponses": {"q": {"action": "accept"}}},
        {"task": {"ttl": 60}},
    ],
)
def test_what_makes_another_call(params: dict[str, Any]) -> None:
    assert _print(**params) != _print()


def test_how_long_a_task_is_kept_makes_no_other_call() -> None:
    assert _print(task={"ttl": 60}) == _print(task={})


def test_account_and_place_count_and_ignored_arguments_do_not() -> None:
    ignoring = Tool(name="search", mcp="x", ignore=("/note",))
    assert _print(ignoring, arguments={"note": "a"}) == _print(ignoring, arguments={"note": "b"})
    assert _print(Tool(name="search", account="b")) != _print()
    assert _print(Tool(name="other")) != _print()


def test_integers_that_floats_cannot_hold_stay_apart() -> None:
    assert _print(arguments={"n": 2**53 + 1}) != _print(arguments={"n": 2**53})
    assert _print(arguments={"n": 2**53 + 1}) == _print(arguments={"n": 2**53 + 1})


def test_the_key_in_the_message_goes_before_the_one_in_the_header() -> None:
    assert mcp.key_of(_call(_meta={mcp.KEY: "k"}), "h") == "k"
    assert mcp.key_of(_call(), "h") == "h"
    assert mcp.key_of(_call(), "") is None


def test_legs_of_a_call_under_one_key() -> None:
    first = _call(requestState="s", inputResponses={"q": 1})
    other_input = _call(requestState="s", inputResponses={"q": 2})
    second = _call(requestState="t", inputResponses={"q": 1})
    stateless = _call(inputResponses={"q": 1})
    empty = _call(inputResponses=None)
    keys = [mcp.key_of(call, "k") for call in (first, other_input, second, stateless, empty)]
    assert keys[0] == keys[1]
    assert len({"k", *keys}) == 5
    assert mcp.key_of(first, None) is None


def test_the_business_key_is_in_the_arguments() -> None:
    tool = Tool(name="search", key="/invoice_id")
    assert mcp.business_of(_call(), tool) == "1"
    assert mcp.business_of(_call(arguments={}), tool) is None
    assert mcp.business_of(_call(), TOOL) is None
    leg = mcp.business_of(_call(requestState="s"), tool)
    assert leg is not None
    assert leg.startswith("1:")


@pytest.mark.parametrize(
    ("base", "rest", "query", "expected"),
    [
        ("http://a/mcp", "", "", "http://a/mcp"),
        ("http://a/mcp/", "", "", "http://a/mcp/"),
        ("http://a/mcp/", "/x", "", "http://a/mcp/x"),
        ("http://a/mcp?k=1", "", "", "http://a/mcp?k=1"),
        ("http://a/mcp?k=1", "/x", "b=2", "http://a/mcp/x?k=1&b=2"),
        ("http://a", "", "b=2", "http://a?b=2"),
    ],
)
def test_where_a_request_goes(base: str, rest: str, query: str, expected: str) -> None:
    assert mcp.url_of(base, rest, query=query) == expected


# Effects


def _listed(*tools: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}}).encode()


HINTED = _listed(
    {"name": "find", "annotations": {"readOnlyHint": True, "idempotentHint": False}},
    {"name": "put", "annotations": {"idempotentHint": True}, "outputSchema": {}},
    {"name": "pay", "annotations": {"readOnlyHint": "yes", "idempotentHint": 1}},
    {"name": "odd", "annotations": 3},
    "no tool",
)


def test_hints_of_a_list() -> None:
    found = mcp.hints_in(HINTED, mcp.NO_HINTS)
    assert found == Hints(
        {"find": Effect.READ, "put": Effect.IDEMPOTENT}, structured=frozenset({"put"})
    )


def test_pages_add_up_and_a_newer_list_counts() -> None:
    before = mcp.hints_in(HINTED, mcp.NO_HINTS)
    page = _listed({"name": "put"}, {"name": "new", "annotations": {"readOnlyHint": True}})
    found = mcp.hints_in(page, before)
    assert found == Hints({"find": Effect.READ, "new": Effect.READ}, structured=frozenset())


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"result":3}', b'{"result":{"tools":{}}}'])
def test_an_answer_without_tools_changes_nothing(answer: bytes) -> None:
    before = mcp.hints_in(HINTED, mcp.NO_HINTS)
    assert mcp.hints_in(answer, before) == before


@pytest.mark.parametrize(
    ("tool", "name", "expected"),
    [
        (Tool(name="t"), "find", Effect.ONCE),
        (Tool(name="t", effect=Effect.IDEMPOTENT), "find", Effect.IDEMPOTENT),
        (Tool(name="t", trust_hints=True), "find", Effect.READ),
        (Tool(name="t", trust_hints=True, effect=Effect.READ), "pay", Effect.READ),
        (Tool(name="t", trust_hints=True), "pay", Effect.ONCE),
        (Tool(name="t", trust_hints=True, effects={"find": Effect.ONCE}), "find", Effect.ONCE),
        (Tool(name="t", effects={"find": Effect.READ}), "find", Effect.READ),
    ],
)
def test_whose_word_counts(tool: Tool, name: str, expected: Effect) -> None:
    hints = mcp.hints_in(HINTED, mcp.NO_HINTS)
    assert mcp.effect_of(name, tool=tool, hints=hints) is expected


# Answers


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b'{"id":1,"result":{}}', 1),
        (b'{"id":"1","error":{}}', "1"),
        (b'{"id":1.0,"result":{}}', 1),
        (b'{"id":true,"result":{}}', None),
        (b'{"id":null,"error":{}}', None),
        (b'{"id":1}', None),
        (b'{"id":1,"method":"sampling/createMessage","result":{}}', None),
        (b'{"method":"notifications/progress"}', None),
        (b'[{"id":1,"result":{}}]', None),
        (b"{", None),
    ],
)
def test_which_request_a_message_answers(message: bytes, expected: object) -> None:
    assert mcp.answered_id(message) == expected


def test_a_new_id_and_nothing_else() -> None:
    told = b' {\n "result" : {"id": 5, "a":1.50}, "jsonrpc":"2.0" ,"id"\t: "old\\"}" } \n'
    expected = b' {\n "result" : {"id": 5, "a":1.50}, "jsonrpc":"2.0" ,"id"\t: 8 } \n'
    assert mcp.with_id(told, "8") == expected


@pytest.mark.parametrize("message", [b"", b"oops", b"[1]", b"{}", b'{"a":1}', b"\xff", b'{"a":'])
def test_what_has_no_id_stays(message: bytes) -> None:
    assert mcp.with_id(message, "8") == message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON, max_size=4), st.integers() | st.text(), st.booleans())
def test_any_message_under_any_id(rest: dict[str, Any], new: int | str, is_ascii: bool) -> None:
    message = rest | {"id": "old"}
    text = json.dumps(message, ensure_ascii=is_ascii, indent=1)
    changed = mcp.with_id(text.encode("utf-8", "surrogatepass"), json.dumps(new))
    assert json.loads(changed) == message | {"id": new}
