"""The one place where a `Call` changes state. Decisions and the log's fold both go through here.

Each function is one record's effect on its call. They don't judge whether the record was allowed:
`call.py` decided that before it was written.
"""

from dataclasses import replace
from typing import assert_never

from coatcheck_sidecar.core.call_events import Reason, Resolution
from coatcheck_sidecar.core.model import Body, Call, CallState, Outcome, OutcomeKind
from coatcheck_sidecar.core.record import CallOutcome


def with_dispatched(call: Call, *, attempt: int, epoch: int, at_ms: int) -> Call:
    """Fold `dispatched`: attempt `attempt` may have left since `at_ms`, or is adopted anew."""
    was_in_doubt = call.state is CallState.IN_DOUBT and attempt != call.attempt
    return replace(
        call,
        state=CallState.DISPATCHED,
        attempt=attempt,
        epoch=epoch,
        first_sent_ms=call.first_sent_ms or at_ms,
        last_sent_ms=max(call.last_sent_ms, at_ms),
        outcome=None,
        reason="",
        earlier_doubt=call.earlier_doubt or was_in_doubt,
    )


def with_outcome(call: Call, outcome: Outcome, *, at_ms: int) -> Call:
    """Fold `outcome` of a kind that ends the call. One of unknown effect must settle from here."""
    is_unknown = outcome.kind is OutcomeKind.UNKNOWN
    return replace(
        call,
        state=CallState.DONE,
        outcome=outcome,
        reason="",
        last_sent_ms=max(call.last_sent_ms, at_ms) if is_unknown else call.last_sent_ms,
    )


def with_not_applied(call: Call, reason: str) -> Call:
    """Fold `outcome` of kind `not_applied`: settles the call, but for an earlier doubt."""
    state = CallState.IN_DOUBT if call.earlier_doubt else CallState.NOT_APPLIED
    return replace(call, state=state, outcome=None, reason=reason)


def with_doubt(call: Call, reason: str, *, at_ms: int) -> Call:
    """Fold `outcome` of kind `in_doubt`: until `at_ms` a send was possible."""
    return replace(
        call,
        state=CallState.IN_DOUBT,
        outcome=None,
        reason=reason,
        last_sent_ms=max(call.last_sent_ms, at_ms),
    )


def with_restart(call: Call, *, at_ms: int) -> Call:
    """Fold `claimed` into any call of the run: what was in flight is in doubt, all else stays.

    `at_ms` is the claim's time: by then the old owner's lease had lapsed.
    """
    if call.state is CallState.DISPATCHED:
        return with_doubt(call, Reason.RESTARTED, at_ms=at_ms)
    return call


def with_resolved(
    call: Call, resolution: Resolution, *, outcome: Outcome, by: str, why: str
) -> Call:
    """Fold `resolved`: it speaks of all attempts so far."""
    settled = replace(call, earlier_doubt=False, outcome=None, reason=f"{by}: {why}")
    match resolution:
        case Resolution.APPLIED:
            return replace(settled, state=CallState.DONE, outcome=outcome)
        case Resolution.NOT_APPLIED | Resolution.RETRY:
            return replace(settled, state=CallState.NOT_APPLIED)
        case Resolution.COMPENSATE:
            return replace(settled, state=CallState.COMPENSATED)
        case _:
            assert_never(resolution)


def with_tombstone(call: Call) -> Call:
    """Forget the answer of a settled call, keep its key, fingerprint and kind of outcome."""
    kept = None if call.outcome is None else Outcome(call.outcome.kind, Body(None))
    return replace(call, state=CallState.TOMBSTONE, outcome=kept, summary="")


def with_recorded(call: Call, event: CallOutcome, *, at_ms: int) -> Call:
    """Fold `outcome` of any kind."""
    if event.what == "not_applied":
        return with_not_applied(call, event.reason)
    if event.what == "in_doubt":
        return with_doubt(call, event.reason, at_ms=at_ms)
    kind = event.outcome or OutcomeKind.RESULT
    return with_outcome(call, Outcome(kind, event.body, event.head), at_ms=at_ms)
