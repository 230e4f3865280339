"""What each record does to its call."""

from dataclasses import replace

import pytest

from coatcheck_sidecar.core.call_events import NOTHING, Resolution
from coatcheck_sidecar.core.call_state import (
    with_dispatched,
    with_doubt,
    with_not_applied,
    with_outcome,
    with_resolved,
    with_restart,
    with_tombstone,
)
from coatcheck_sidecar.core.model import Body, Call, CallClass, CallState, Outcome, OutcomeKind

NEW = Call(
    number=3,
    key="k:1",
    step=1,
    tool="charge",
    call_class=CallClass.KEYED,
    fingerprint=b"f",
    state=CallState.INTENT,
    upstream_key="u",
    summary="amount=5",
)
SENT = with_dispatched(NEW, attempt=1, epoch=4, at_ms=100)
DOUBT = with_doubt(SENT, "lost", at_ms=150)
RESULT = Outcome(OutcomeKind.RESULT, Body(b"ok"), b"200")


def test_dispatches_keep_the_first_and_the_last_moment() -> None:
    assert (SENT.state, SENT.attempt, SENT.epoch) == (CallState.DISPATCHED, 1, 4)
    again = with_dispatched(with_not_applied(SENT, "shed"), attempt=2, epoch=5, at_ms=200)
    assert (again.first_sent_ms, again.last_sent_ms) == (100, 200)
    assert (again.attempt, again.epoch, again.reason) == (2, 5, "")
    assert (again.earlier_doubt, again.upstream_key) == (False, "u")


def test_a_doubt_outlives_the_next_attempt() -> None:
    again = with_dispatched(DOUBT, attempt=2, epoch=4, at_ms=200)
    assert again.earlier_doubt
    assert with_not_applied(again, "shed").state is CallState.IN_DOUBT
    once_more = with_dispatched(with_not_applied(again, "shed"), attempt=3, epoch=4, at_ms=300)
    assert with_not_applied(once_more, "shed").state is CallState.IN_DOUBT
    assert with_outcome(again, RESULT, at_ms=300).state is CallState.DONE


def test_an_adopted_attempt_is_no_earlier_one() -> None:
    adopted = with_dispatched(with_restart(SENT, at_ms=120), attempt=1, epoch=5, at_ms=130)
    assert not adopted.earlier_doubt
    assert with_not_applied(adopted, "shed").state is CallState.NOT_APPLIED


def test_outcomes() -> None:
    done = with_outcome(DOUBT, RESULT, at_ms=500)
    assert (done.state, done.outcome, done.reason) == (CallState.DONE, RESULT, "")
    assert done.last_sent_ms == 150
    unknown = with_outcome(SENT, replace(RESULT, kind=OutcomeKind.UNKNOWN), at_ms=500)
    assert unknown.last_sent_ms == 500
    assert unknown.is_unsettled


def test_doubt_moves_the_last_possible_send_forward_only() -> None:
    assert DOUBT.last_sent_ms == 150
    assert with_doubt(SENT, "lost", at_ms=50).last_sent_ms == 100
    assert (DOUBT.state, DOUBT.reason) == (CallState.IN_DOUBT, "lost")


@pytest.mark.parametrize("state", CallState)
def test_a_restart_touches_only_what_is_in_flight(state: CallState) -> None:
    call = replace(SENT, state=state)
    after = with_restart(call, at_ms=900)
    if state is CallState.DISPATCHED:
        assert (after.state, after.reason) == (CallState.IN_DOUBT, "restarted")
        assert after.last_sent_ms == 900
    else:
        assert after is call


@pytest.mark.parametrize(
    ("resolution", "state"),
    [
        (Resolution.APPLIED, CallState.DONE),
        (Resolution.NOT_APPLIED, CallState.NOT_APPLIED),
        (Resolution.RETRY, CallState.NOT_APPLIED),
        (Resolution.COMPENSATE, CallState.COMPENSATED),
    ],
)
def test_resolutions_settle_all_attempts(resolution: Resolution, state: CallState) -> None:
    call = replace(DOUBT, earlier_doubt=True)
    after = with_resolved(call, resolution, outcome=RESULT, by="ann", why="asked the bank")
    assert (after.state, after.reason, after.earlier_doubt) == (state, "ann: asked the bank", False)
    assert after.outcome == (RESULT if state is CallState.DONE else None)


def test_tombstones_keep_what_identity_needs() -> None:
    stone = with_tombstone(with_outcome(SENT, RESULT, at_ms=200))
    assert (stone.state, stone.outcome, stone.summary) == (CallState.TOMBSTONE, NOTHING, "")
    assert (stone.key, stone.fingerprint) == (NEW.key, NEW.fingerprint)
    assert with_tombstone(with_not_applied(SENT, "shed")).outcome is None
