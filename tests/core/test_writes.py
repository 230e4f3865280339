"""Each effect of the call table that writes is one record; all others are none."""

import pytest

from coatcheck_sidecar.core.call_events import (
    CallEffect,
    Deliver,
    Resolution,
    WriteDispatched,
    WriteDoubt,
    WriteIntent,
    WriteNotApplied,
    WriteOutcome,
    WriteResolved,
)
from coatcheck_sidecar.core.model import (
    Body,
    Call,
    CallClass,
    CallState,
    Level,
    Outcome,
    OutcomeKind,
)
from coatcheck_sidecar.core.record import Birth, CallOutcome, Dispatched, Event, Intent, Resolved
from coatcheck_sidecar.core.writes import event_of

ANSWER = Outcome(OutcomeKind.TRUNCATED, Body(b"half"), b"200")
DRAFT = Call(
    number=7,
    key="k:a",
    step=2,
    tool="mail",
    call_class=CallClass.PROBED,
    fingerprint=b"f" * 32,
    state=CallState.INTENT,
    upstream_key="u",
    is_named=True,
    business_key="a",
    settle_s=3.0,
    key_lifetime_s=4.0,
    summary="to=x",
)


@pytest.mark.parametrize(
    ("effect", "event"),
    [
        (
            WriteDispatched(2, 5, Level.REMOTE, 900),
            Dispatched(call=7, attempt=2),
        ),
        (
            WriteOutcome(2, ANSWER, 900),
            CallOutcome(
                call=7,
                attempt=2,
                what="done",
                outcome=OutcomeKind.TRUNCATED,
                body=Body(b"half"),
                head=b"200",
            ),
        ),
        (
            WriteNotApplied(2, "not_sent"),
            CallOutcome(call=7, attempt=2, what="not_applied", reason="not_sent"),
        ),
        (
            WriteDoubt(2, "lost", 900),
            CallOutcome(call=7, attempt=2, what="in_doubt", reason="lost"),
        ),
        (
            WriteResolved(Resolution.APPLIED, "ann", "seen", ANSWER, 900),
            Resolved(
                call=7,
                verdict="applied",
                by="ann",
                why="seen",
                command="c1",
                body=Body(b"half"),
                head=b"200",
            ),
        ),
        (Deliver(final=True), None),
    ],
)
def test_an_effect_becomes_its_record(effect: CallEffect, event: Event | None) -> None:
    assert event_of(effect, call=7, command="c1") == event


def test_an_intent_tells_all_that_a_fold_needs_of_the_call() -> None:
    event = event_of(WriteIntent(DRAFT), call=7)
    assert isinstance(event, Intent)
    assert event.call == 7
    assert all(getattr(event.birth, name) == getattr(DRAFT, name) for name in Birth.__slots__)
