"""Refusals as answers that SDKs read rightly: which are tried again, and which never."""

import json
from typing import Any

import pytest

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core.problem import NO_RETRY, problem, problem_of
from coatcheck_sidecar.core.session import Refusal

TRIED_AGAIN = {408, 409, 429} | set(range(500, 600))
"""By SDKs, without being told to."""


PASSING = {
    ErrorCode.DRAINING, ErrorCode.IN_FLIGHT, ErrorCode.STORE_UNAVAILABLE, ErrorCode.UNAVAILABLE,
}  # fmt: skip


@pytest.mark.parametrize("retry", [Retry.NEVER, Retry.LATER])
@pytest.mark.parametrize("code", list(ErrorCode))
def test_only_what_passes_is_tried_again(code: ErrorCode, retry: Retry) -> None:
    made = problem_of(Refusal(code, "why", retry=retry))
    assert (dict(NO_RETRY).items() <= dict(made.headers).items()) == (retry is Retry.NEVER)
    assert ("Retry-After" in dict(made.headers)) == (retry is Retry.LATER)
    assert dict(made.headers)["Coatcheck-Decision"] == "held"
    assert json.loads(made.body)["code"] == code.value
    assert (made.status in TRIED_AGAIN) == (code in PASSING)


def test_the_call_in_the_way_is_named() -> None:
    calls = [{"call": 7, "tool": "mail", "first_sent_ms": 9}, {"call": 8}]
    made = problem_of(Refusal(ErrorCode.HELD, "why", reason="predecessor", calls=calls, run="r"))
    body: dict[str, Any] = json.loads(made.body)
    assert body == {
        "title": "Failed Dependency", "status": 424, "code": "held", "detail": "why", "run": "r",
        "reason": "predecessor", "calls": calls, "call": 7, "first_sent_ms": 9,
    }  # fmt: skip
    named = problem_of(Refusal(ErrorCode.HELD, "why", call=1, calls=calls))
    assert json.loads(named.body)["call"] == 1


def test_a_status_of_its_own() -> None:
    made = problem_of(Refusal(ErrorCode.UNAVAILABLE, "why", retry=Retry.LATER, http_status=502))
    assert made.status == 502
    assert "http_status" not in json.loads(made.body)
    assert json.loads(problem(799, "odd", detail="why").body)["title"] == ""
