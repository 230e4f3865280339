"""What a model is told of a call that has no answer."""

import json
from typing import Any

import pytest

from coatcheck.wire import ErrorCode
from coatcheck_sidecar.core import mcp, mcp_answer
from coatcheck_sidecar.core.mcp import ToolCall
from coatcheck_sidecar.core.mcp_answer import Fate, Unanswered


def _call(**meta: str) -> ToolCall:
    params = {"name": "charge", "_meta": meta}
    body = {"jsonrpc": "2.0", "id": "é", "method": "tools/call", "params": params}
    call = mcp.read(json.dumps(body, ensure_ascii=False).encode()).call
    assert call is not None
    return call


def _why(fate: Fate) -> Unanswered:
    return Unanswered(fate=fate, reason="lost", detail="no answer came", number=4)


def _result(answer: bytes) -> dict[str, Any]:
    found = json.loads(answer)
    assert found["id"] == "é"
    assert found["jsonrpc"] == "2.0"
    result: dict[str, Any] = found["result"]
    return result


@pytest.mark.parametrize("fate", Fate)
def test_a_result_that_says_what_is_known(fate: Fate) -> None:
    result = _result(mcp_answer.answer(_call(), _why(fate), has_schema=False))
    known = {"outcome": fate.value, "call": 4, "tool": "charge", "reason": "lost"}
    assert result["isError"] is True
    assert result["structuredContent"] == known
    assert result["_meta"] == {"dev.coatcheck/outcome": known}
    assert result["content"][0]["text"].startswith("charge: no answer came. It ")
    assert "resultType" not in result


def test_a_result_held_against_a_schema_has_no_content_that_would_break_it() -> None:
    result = _result(mcp_answer.answer(_call(), _why(Fate.HELD), has_schema=True))
    assert "structuredContent" not in result
    assert result["_meta"]["dev.coatcheck/outcome"]["outcome"] == "held"


def test_results_of_the_newest_revision_name_their_type() -> None:
    call = _call(**{mcp.VERSION: "2026-07-28"})
    result = _result(mcp_answer.answer(call, _why(Fate.HELD), has_schema=True))
    assert result["resultType"] == "complete"


def test_only_a_call_that_was_not_sent_may_be_tried_again() -> None:
    advised = {fate: "tried again" in mcp_answer.ADVICE[fate] for fate in Fate}
    assert advised == {Fate.UNKNOWN: False, Fate.HELD: False, Fate.NOT_APPLIED: True}


@pytest.mark.parametrize("code", ErrorCode)
def test_every_refusal_has_a_fate(code: ErrorCode) -> None:
    unknown = {ErrorCode.IN_DOUBT, ErrorCode.IN_FLIGHT}
    held = {ErrorCode.HELD, ErrorCode.REPLAY_DIVERGENCE, ErrorCode.CONFLICT}
    expected = Fate.UNKNOWN if code in unknown else Fate.HELD if code in held else Fate.NOT_APPLIED
    assert mcp_answer.fate_of(code.value) is expected


def test_an_error_to_nobody_in_particular() -> None:
    found = json.loads(mcp_answer.error(-32700, "no"))
    assert found == {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "no"}}


def test_a_recorded_response_is_given_under_the_new_id() -> None:
    kept = b'{"jsonrpc":"2.0","id":1,"result":{"content":[] }}'
    expected = kept.replace(b'"id":1', '"id":"é"'.encode())
    assert mcp_answer.given(_call(), kept) == expected
    assert _result(mcp_answer.given(_call(), kept)) == {"content": []}


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{"content":[]}', {"content": []}),
        (
            b'{"a":1}',
            {"content": [{"type": "text", "text": '{"a": 1}'}], "structuredContent": {"a": 1}},
        ),
        (b"3", {"content": [{"type": "text", "text": "3"}]}),
    ],
)
def test_a_value_that_somebody_gave_becomes_a_result(body: bytes, result: dict[str, Any]) -> None:
    assert _result(mcp_answer.given(_call(), body)) == result


def test_an_effect_without_an_answer_is_told_as_that() -> None:
    result = _result(mcp_answer.given(_call(**{mcp.VERSION: "x"}), b""))
    assert "taken effect" in result["content"][0]["text"]
    assert result["resultType"] == "complete"


def test_what_is_no_json_stays() -> None:
    assert mcp_answer.given(_call(), b"<html>") == b"<html>"
