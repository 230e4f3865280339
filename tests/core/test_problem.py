"""What an agent's SDK is told: a status it obeys, headers that keep it from trying in vain."""

import json
from typing import Any

import pytest

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core.problem import Problem, problem, problem_of
from coatcheck_sidecar.core.session import Refusal

RETRIED_BY_SDKS = {408, 409, 429} | set(range(500, 600))


def body(found: Problem) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(found.body)
    return value


def headers(found: Problem) -> dict[str, str]:
    return {name.lower(): value for name, value in found.headers}


def test_an_error_is_problem_json() -> None:
    found = problem(403, "forbidden", detail="why", tool="mail", at=b"x")
    assert (found.status, headers(found)["content-type"]) == (403, "application/problem+json")
    assert body(found) == {
        "title": "Forbidden",
        "status": 403,
        "code": "forbidden",
        "detail": "why",
        "tool": "mail",
        "at": "b'x'",
    }


def test_a_status_that_nobody_named_has_no_title() -> None:
    assert body(problem(499, "gone", detail=""))["title"] == ""


def test_sdks_are_told_whether_to_retry() -> None:
    final = headers(problem(424, "held", detail=""))
    assert (final["x-should-retry"], final["stripe-should-retry"]) == ("false", "false")
    assert "retry-after" not in final
    passing = headers(problem(503, "draining", detail="", is_final=False))
    assert passing["retry-after"] == "1"
    assert "x-should-retry" not in passing
    assert "stripe-should-retry" not in passing


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.IN_DOUBT, 424),
        (ErrorCode.HELD, 424),
        (ErrorCode.REPLAY_DIVERGENCE, 424),
        (ErrorCode.CONFLICT, 422),
        (ErrorCode.IN_FLIGHT, 409),
        (ErrorCode.OWNED_ELSEWHERE, 410),
        (ErrorCode.FENCED, 410),
        (ErrorCode.NOT_FOUND, 404),
        (ErrorCode.TOO_LARGE, 413),
        (ErrorCode.STORE_UNAVAILABLE, 503),
        (ErrorCode.PROTOCOL_ERROR, 400),
    ],
)
def test_status_by_code(code: ErrorCode, status: int) -> None:
    found = problem_of(Refusal(code, "why"))
    assert found.status == status
    assert body(found)["code"] == code.value
    is_held = status == 424 and code not in (ErrorCode.DAMAGED, ErrorCode.DEADLINE_EXCEEDED)
    assert headers(found)["coatcheck-decision"] == ("held" if is_held else "refused")


@pytest.mark.parametrize("code", list(ErrorCode))
def test_only_what_somebody_must_decide_is_said_to_be_held(code: ErrorCode) -> None:
    is_held = code in {ErrorCode.IN_DOUBT, ErrorCode.HELD, ErrorCode.REPLAY_DIVERGENCE}
    for retry in Retry:
        found = problem_of(Refusal(code, "why", retry=retry))
        assert headers(found)["coatcheck-decision"] == ("held" if is_held else "refused")
        assert found.status == 424 or not is_held


@pytest.mark.parametrize("code", list(ErrorCode))
def test_no_sdk_retries_what_only_a_decision_lets_go_on(code: ErrorCode) -> None:
    found = problem_of(Refusal(code, "why", retry=Retry.NEVER))
    assert headers(found)["x-should-retry"] == "false"
    later = problem_of(Refusal(code, "why", retry=Retry.LATER))
    assert headers(later)["retry-after"] == "1"
    decided = {ErrorCode.IN_DOUBT, ErrorCode.HELD, ErrorCode.CONFLICT, ErrorCode.REPLAY_DIVERGENCE}
    assert code not in decided or found.status not in RETRIED_BY_SDKS


def test_the_first_call_in_the_way_is_named_at_the_top() -> None:
    calls = [{"call": 7, "first_sent_ms": 5, "state": "in_doubt"}, {"call": 9}]
    refusal = Refusal(ErrorCode.IN_DOUBT, "why", tool="mail", reason="lost", calls=calls)
    said = body(problem_of(refusal))
    assert (said["call"], said["first_sent_ms"], said["reason"]) == (7, 5, "lost")
    assert said["calls"] == calls
    assert "call" not in refusal.details
    own = body(problem_of(Refusal(ErrorCode.HELD, "why", call=3, calls=calls)))
    assert (own["call"], own["first_sent_ms"]) == (3, 5)
    assert "call" not in body(problem_of(Refusal(ErrorCode.HELD, "why", calls=[])))


def test_a_refusal_may_name_its_status() -> None:
    found = problem_of(Refusal(ErrorCode.CONFLICT, "why", http_status=403))
    assert (found.status, body(found)["status"]) == (403, 403)
    assert "http_status" not in body(found)
