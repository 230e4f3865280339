"""Errors of HTTP answers as RFC 9457 has them, with the codes that the SDK knows."""

from typing import TYPE_CHECKING, Any, Final

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.restore import Damaged
from coatcheck_sidecar.ports import StoreError

if TYPE_CHECKING:
    from aiohttp import web

CONTENT_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1
"""What `later` means to a client that has no better idea."""
UNDECIDED: Final = 424
"""In doubt or held: no SDK tries that again by itself, as it would 409, 429 and 5xx."""
OTHER_REQUEST: Final = 422
"""A key used with another request (draft-ietf-httpapi-idempotency-key-header, section 2.7)."""
STATUS: Final = {
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.CONFLICT: 409,
    ErrorCode.OWNED_ELSEWHERE: 409,
    ErrorCode.IN_FLIGHT: 409,
    ErrorCode.IN_DOUBT: UNDECIDED,
    ErrorCode.HELD: UNDECIDED,
    ErrorCode.REPLAY_DIVERGENCE: UNDECIDED,
    ErrorCode.PARKED: 409,
    ErrorCode.DRAINING: 503,
    ErrorCode.FENCED: 410,
    ErrorCode.DEADLINE_EXCEEDED: 409,
    ErrorCode.SCHEMA_MISMATCH: 409,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.DAMAGED: UNDECIDED,
    ErrorCode.STORE_UNAVAILABLE: 503,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.PROTOCOL_ERROR: 400,
}
NO_RETRY: Final = {"x-should-retry": "false", "Stripe-Should-Retry": "false"}


class Problem(Exception):  # noqa: N818 - an answer to the client, not a fault of ours
    """A request is answered by an error. `details` are further keys of its body."""

    def __init__(
        self,
        status: int,
        code: str,
        *,
        detail: str,
        retry: Retry = Retry.NEVER,
        headers: dict[str, str] | None = None,
        close: bool = False,
        **details: Any,
    ) -> None:
        """`headers` go with the answer; `close`: the rest of the request is not read."""
        super().__init__(detail)
        self.status = status
        self.close = close
        self.headers = headers or {}
        self.body = {
            "status": status,
            "code": code,
            "detail": detail,
            "retry": retry.value,
            **details,
        }

    def response(self) -> "web.Response":
        """As it is sent."""
        from aiohttp import web

        response = web.json_response(
            self.body, status=self.status, headers=self.headers, content_type=CONTENT_TYPE
        )
        if self.close:
            response.force_close()
        return response


def problem_of(error: Refusal | StoreError | Damaged) -> Problem:
    """What the engine refused, or could not do."""
    match error:
        case StoreError():
            error = Refusal(ErrorCode.STORE_UNAVAILABLE, str(error), retry=Retry.LATER)
        case Damaged():
            error = Refusal(ErrorCode.DAMAGED, str(error))
        case _:
            pass
    status = STATUS[error.code]
    if error.code is ErrorCode.CONFLICT and "tool" in error.details:
        status = OTHER_REQUEST
    headers = dict(NO_RETRY) if status in (UNDECIDED, OTHER_REQUEST) else {}
    if error.retry is Retry.LATER and status != UNDECIDED:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    details = {name: value for name, value in error.details.items() if value is not None}
    return Problem(
        status,
        error.code.value,
        detail=error.message,
        retry=error.retry,
        headers=headers,
        **details,
    )
