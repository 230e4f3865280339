"""Calls, and a fold of their records, for the tests of the call table."""

from typing import Any, assert_never

from coatcheck_sidecar.core.call import decide
from coatcheck_sidecar.core.call_events import (
    CallEffect,
    Decision,
    Event,
    WriteDispatched,
    WriteDoubt,
    WriteIntent,
    WriteNotApplied,
    WriteOutcome,
    WriteResolved,
)
from coatcheck_sidecar.core.call_state import (
    with_dispatched,
    with_doubt,
    with_not_applied,
    with_outcome,
    with_resolved,
)
from coatcheck_sidecar.core.doubt import Rules
from coatcheck_sidecar.core.model import Body, Call, CallClass, CallState, Outcome, OutcomeKind

RULES = Rules(pause_max_s=10, key_margin_s=60)
T0_MS = 1_000_000
EPOCH = 4
RESULT = Outcome(OutcomeKind.RESULT, Body(b"ok"), b"200")
UNKEPT = Outcome(OutcomeKind.NOT_RETAINED, Body(None), b"200")
OUTCOMES = {
    CallState.DONE: RESULT,
    CallState.TOMBSTONE: Outcome(OutcomeKind.RESULT, Body(None)),
}
Write = WriteIntent | WriteDispatched | WriteOutcome | WriteNotApplied | WriteDoubt | WriteResolved


def draft(call_class: CallClass, **changed: Any) -> Call:
    """A call as it is asked for: nothing of it is in the log."""
    whole: dict[str, Any] = {
        "number": 0,
        "key": "c:1:charge:f:1",
        "step": 1,
        "tool": "charge",
        "call_class": call_class,
        "fingerprint": b"f",
        "state": CallState.INTENT,
        "epoch": EPOCH,
        "upstream_key": "up",
        "settle_s": 5.0 if call_class is CallClass.PROBED else None,
        "key_lifetime_s": 3600.0 if call_class is CallClass.KEYED else None,
    }
    return Call(**whole | changed)


def recorded(call_class: CallClass, state: CallState, **changed: Any) -> Call:
    """A call as the log has it, its first attempt sent at `T0_MS` unless it is an intent."""
    sent = {"attempt": 1, "first_sent_ms": T0_MS, "last_sent_ms": T0_MS, "reason": "lost"}
    was_sent = {} if state is CallState.INTENT else sent
    rest = {"number": 7, "state": state, "outcome": OUTCOMES.get(state)}
    return draft(call_class, **was_sent | rest | changed)


def told(
    call: Call | None, event: Event, *, now_ms: int = T0_MS, patience_s: float = 60.0
) -> Decision:
    """`decide`, by the rules of these tests."""
    return decide(call, event, now_ms=now_ms, patience_s=patience_s, rules=RULES)


def writes(decision: Decision) -> list[Write]:
    return [effect for effect in decision.effects if isinstance(effect, Write)]


def kinds(decision: Decision) -> list[type[CallEffect]]:
    return [type(effect) for effect in decision.effects]


def folded(call: Call | None, records: list[Write]) -> Call | None:
    """What the log says of the call once these records are in it."""
    for record in records:
        call = record.call if isinstance(record, WriteIntent) else _with(call, record)
    return call


def _with(call: Call | None, record: Write) -> Call:
    assert call is not None, "an intent comes first"
    match record:
        case WriteDispatched(attempt, epoch, _, at_ms):
            return with_dispatched(call, attempt=attempt, epoch=epoch, at_ms=at_ms)
        case WriteOutcome(_, outcome, at_ms):
            return with_outcome(call, outcome, at_ms=at_ms)
        case WriteNotApplied(_, reason):
            return with_not_applied(call, reason)
        case WriteDoubt(_, reason, at_ms):
            return with_doubt(call, reason, at_ms=at_ms)
        case WriteResolved(resolution, by, why, outcome):
            return with_resolved(call, resolution, outcome=outcome, by=by, why=why)
        case WriteIntent():
            raise AssertionError("an intent is given whole")
        case _:
            assert_never(record)
