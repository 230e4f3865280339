import pytest

from coatcheck_sidecar.core.model import (
    FINAL,
    Body,
    Call,
    CallClass,
    CallState,
    Outcome,
    OutcomeKind,
    Status,
)


def call(state: CallState, *, outcome: OutcomeKind | None = None) -> Call:
    return Call(
        number=7,
        key="k",
        step=1,
        tool="charge",
        call_class=CallClass.ONCE,
        fingerprint=b"f",
        state=state,
        outcome=None if outcome is None else Outcome(outcome, Body(b"")),
    )


def test_somebody_may_still_work_on_a_run_that_is_not_final() -> None:
    assert {status for status in Status if not status.is_final} == {
        Status.READY,
        Status.OWNED,
        Status.PARKED,
        Status.HELD,
        Status.COMPENSATING,
    }
    assert {status for status in Status if status.is_final} == FINAL


def test_both_columns_of_once_are_guarded_and_no_other() -> None:
    guarded = {column for column in CallClass if column.is_guarded}
    assert guarded == {CallClass.PROBED, CallClass.ONCE}


@pytest.mark.parametrize("state", CallState)
def test_open_calls(state: CallState) -> None:
    is_open = state in {CallState.INTENT, CallState.DISPATCHED, CallState.NOT_APPLIED}
    assert call(state).is_open == is_open
    assert call(state).is_unsettled == (state is CallState.IN_DOUBT)


@pytest.mark.parametrize("kind", OutcomeKind)
def test_a_done_call_is_unsettled_only_if_its_effect_is_unknown(kind: OutcomeKind) -> None:
    done = call(CallState.DONE, outcome=kind)
    assert done.is_unsettled == (kind is OutcomeKind.UNKNOWN)
    assert not done.is_open
