"""From what the call table wants written to the records of the log."""

from dataclasses import replace

from coatcheck_sidecar.core.call_events import (
    CallEffect,
    Decision,
    WriteDispatched,
    WriteDoubt,
    WriteIntent,
    WriteNotApplied,
    WriteOutcome,
    WriteResolved,
)
from coatcheck_sidecar.core.model import Call
from coatcheck_sidecar.core.record import Birth, CallOutcome, Dispatched, Event, Intent, Resolved
from coatcheck_sidecar.core.undo_template import undo_of


def events_of(decision: Decision, *, call: int) -> list[Event]:
    """All records that a decision asks for, in its order."""
    made = (event_of(effect, call=call) for effect in decision.effects)
    return [event for event in (*made, undo_event(decision, call=call)) if event is not None]


def undo_event(decision: Decision, *, call: int) -> Event | None:
    """What takes the call back that is done by this decision: kept with its outcome."""
    is_new = any(isinstance(effect, WriteOutcome | WriteResolved) for effect in decision.effects)
    if not is_new or decision.state is None:
        return None
    return undo_of(replace(decision.state, number=call))


def event_of(effect: CallEffect, *, call: int, command: str = "") -> Event | None:
    """The record that an effect asks for; `None` if it asks for none.

    `call` is the call's number. An intent's own place in the log is that number.
    """
    match effect:
        case WriteIntent(draft):
            return Intent(call=call, birth=_birth(draft))
        case WriteDispatched(attempt=attempt):
            return Dispatched(call=call, attempt=attempt)
        case WriteOutcome(attempt=attempt, outcome=outcome):
            return CallOutcome(
                call=call,
                attempt=attempt,
                what="done",
                outcome=outcome.kind,
                body=outcome.body,
                head=outcome.head,
            )
        case WriteNotApplied(attempt=attempt, reason=reason):
            return CallOutcome(call=call, attempt=attempt, what="not_applied", reason=reason)
        case WriteDoubt(attempt=attempt, reason=reason):
            return CallOutcome(call=call, attempt=attempt, what="in_doubt", reason=reason)
        case WriteResolved(resolution=resolution, by=by, why=why, outcome=outcome):
            return Resolved(
                call=call,
                verdict=resolution.value,
                by=by,
                why=why,
                command=command,
                body=outcome.body,
                head=outcome.head,
            )
        case _:
            return None


def _birth(call: Call) -> Birth:
    return Birth(**{name: getattr(call, name) for name in Birth.__slots__})
