"""Refusals as HTTP answers (RFC 9457), with the headers that keep SDKs from retrying in vain.

SDKs retry 408, 409, 429 and 5xx by themselves. So what only a decision lets go on is 424, a key
used with another request 422, and a token whose run is no longer here 410.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core.relay import Headers
from coatcheck_sidecar.core.session import Refusal

RETRY_AFTER_S: Final = 1
"""What is in the way is over in about a round trip or two, or not soon."""
STATUS: Final[Mapping[ErrorCode, int]] = {
    ErrorCode.CONFLICT: 422,
    ErrorCode.DAMAGED: 424,
    ErrorCode.DEADLINE_EXCEEDED: 424,
    ErrorCode.DRAINING: 503,
    ErrorCode.FENCED: 410,
    ErrorCode.HELD: 424,
    ErrorCode.IN_DOUBT: 424,
    ErrorCode.IN_FLIGHT: 409,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.OWNED_ELSEWHERE: 410,
    ErrorCode.PARKED: 410,
    ErrorCode.REPLAY_DIVERGENCE: 424,
    ErrorCode.STORE_UNAVAILABLE: 503,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.UNAVAILABLE: 503,
}
NO_RETRY: Final = (("x-should-retry", "false"), ("Stripe-Should-Retry", "false"))
"""The SDKs of OpenAI, Anthropic and Stripe obey these."""
DECISION: Final = "Coatcheck-Decision"
HELD: Final = frozenset({ErrorCode.IN_DOUBT, ErrorCode.HELD, ErrorCode.REPLAY_DIVERGENCE})
"""What a decision, or an answer that comes late, lets go on."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that is an error of ours."""

    status: int
    headers: Headers
    body: bytes


def problem(status: int, code: str, *, detail: str, is_final: bool = True, **more: Any) -> Problem:
    """An error. `is_final`: a retry would change nothing."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = ""
    body = {"title": title, "status": status, "code": code, "detail": detail, **more}
    headers = (("Content-Type", "application/problem+json"),)
    again = NO_RETRY if is_final else (("Retry-After", str(RETRY_AFTER_S)),)
    return Problem(status, (*headers, *again), json.dumps(body, default=str).encode())


def problem_of(refusal: Refusal) -> Problem:
    """What an agent is told that asks over HTTP."""
    details = dict(refusal.details)
    calls = details.get("calls") or [{}]
    for name in ("call", "first_sent_ms"):
        if name in calls[0]:
            details.setdefault(name, calls[0][name])
    status = details.pop("http_status", None) or STATUS.get(refusal.code, 400)
    made = problem(
        status,
        refusal.code.value,
        detail=refusal.message,
        is_final=refusal.retry is not Retry.LATER,
        **details,
    )
    return Problem(made.status, (*made.headers, (DECISION, decision_of(refusal))), made.body)


def decision_of(refusal: Refusal) -> str:
    """`held`: somebody must decide. `refused`: nothing of it was done, and nothing is in doubt."""
    return "held" if refusal.code in HELD else "refused"
