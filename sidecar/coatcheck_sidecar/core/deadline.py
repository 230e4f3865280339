"""A run's own deadline: a moment of the store's clock, fixed when the run is made.

It is part of the run's first record, so it holds wherever the run goes: over restarts, takeovers
and deploys, and while the run is parked.
"""

from datetime import UTC, datetime
from typing import Any, Final

from coatcheck.wire import ErrorCode
from coatcheck_sidecar.core.model import Call, CallClass, CallState
from coatcheck_sidecar.core.record import Created, Failed
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.core.session import Refusal

MARGIN_MS: Final = 1_000
"""A run ends this much early: a store's `Date` has whole seconds, and nothing leaves late."""
NEAR_S: Final = 10.0
"""An agent is told when so much is left: time for a last commit."""
DEADLINE_S_MAX: Final = 3_153_600_000.0
"""A hundred years; what is further away is no deadline."""
HARMLESS: Final = (CallClass.READ, CallClass.IDEMPOTENT)
LISTED_MAX: Final = 20
"""Calls that a run's end names; `coatcheck doubts RUN` has all."""


def moment_ms(deadline_s: float | None, *, now_ms: int) -> int:
    """When a run that is made now is to be over; 0 is never."""
    if deadline_s is None or deadline_s > DEADLINE_S_MAX:
        return 0
    return now_ms + int(deadline_s * 1000)


def left_s(created: Created, *, now_ms: int) -> float | None:
    """How long the run may go on by the store's clock, the margin taken off; `None`: for ever."""
    if not created.deadline_ms:
        return None
    return (created.deadline_ms - MARGIN_MS - now_ms) / 1000


def is_over(created: Created, *, now_ms: int) -> bool:
    """The run must not go on."""
    left = left_s(created, now_ms=now_ms)
    return left is not None and left <= 0


def ending(state: RunState) -> Failed:
    """How a run ends whose deadline is over. Its guarded calls in flight are in doubt by it."""
    error = f"{ErrorCode.DEADLINE_EXCEEDED.value}: {_said(state.created)}"
    unknown = [call for call in state.calls.values() if call.is_unsettled or _is_cut(call)]
    if unknown:
        named = [f"{call.number} ({call.tool})" for call in unknown[:LISTED_MAX]]
        more = f" and {len(unknown) - LISTED_MAX} more" if len(unknown) > LISTED_MAX else ""
        error += f"; in doubt: call {', '.join(named)}{more}"
    return Failed(error=error)


def _is_cut(call: Call) -> bool:
    """In flight, and of a kind for which an operator must find out what became of it."""
    return call.state is CallState.DISPATCHED and call.call_class not in HARMLESS


def exceeded(run: str, created: Created) -> Refusal:
    """What its agent is told from then on."""
    said: dict[str, Any] = {"run": run, "deadline_ms": created.deadline_ms}
    return Refusal(ErrorCode.DEADLINE_EXCEEDED, f"run {run} is over: {_said(created)}", **said)


def _said(created: Created) -> str:
    at = datetime.fromtimestamp(created.deadline_ms / 1000, tz=UTC)
    return f"its deadline was {at:%Y-%m-%d %H:%M:%S}Z"
