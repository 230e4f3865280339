import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.wire import ErrorCode
from coatcheck_sidecar.core import deadline
from coatcheck_sidecar.core.model import CallClass, Status
from coatcheck_sidecar.core.record import Created
from coatcheck_sidecar.core.runstate import RunState, fold
from tests.core.histories import Log

NOW_MS = 1_767_225_600_000  # 2026-01-01 00:00:00Z
HOUR_MS = 3_600_000


def due(deadline_ms: int) -> Created:
    return Created(deadline_ms=deadline_ms)


def test_a_run_without_a_deadline_goes_on_for_ever() -> None:
    assert deadline.moment_ms(None, now_ms=NOW_MS) == 0
    assert deadline.left_s(due(0), now_ms=NOW_MS) is None
    assert not deadline.is_over(due(0), now_ms=2**62)


@pytest.mark.parametrize("seconds", [deadline.DEADLINE_S_MAX + 1, 1e300])
def test_one_beyond_all_bounds_is_none(seconds: float) -> None:
    assert deadline.moment_ms(seconds, now_ms=NOW_MS) == 0


@given(st.floats(0, deadline.DEADLINE_S_MAX), st.integers(0, 2**45))
def test_a_run_is_over_from_one_moment_on(seconds: float, later_ms: int) -> None:
    created = due(deadline.moment_ms(seconds, now_ms=NOW_MS))
    over_ms = created.deadline_ms - deadline.MARGIN_MS
    assert deadline.is_over(created, now_ms=NOW_MS + later_ms) == (NOW_MS + later_ms >= over_ms)
    left_s = deadline.left_s(created, now_ms=NOW_MS + later_ms)
    assert left_s == (over_ms - NOW_MS - later_ms) / 1000


def test_its_margin_is_taken_off() -> None:
    assert deadline.left_s(due(NOW_MS + 5_000), now_ms=NOW_MS) == 4.0


def test_the_end_says_which_deadline_and_names_what_is_in_doubt() -> None:
    log = Log()
    log.claim()
    for number, call_class in enumerate(CallClass):
        log.send(call_class, key=f"k{number}")
    state = log.state
    state.created = due(NOW_MS)
    ended = deadline.ending(state)
    assert ended.error == (
        "deadline_exceeded: its deadline was 2026-01-01 00:00:00Z; "
        "in doubt: call 7 (charge), 9 (charge), 11 (charge)"
    )
    log(ended)
    assert (state.status, [call.number for call in state.in_doubt]) == (Status.FAILED, [7, 9, 11])


def test_an_end_with_nothing_in_flight_names_no_call() -> None:
    log = Log()
    log.claim()
    log.done(log.send())
    log.state.created = due(NOW_MS + HOUR_MS)
    assert deadline.ending(log.state).error == (
        "deadline_exceeded: its deadline was 2026-01-01 01:00:00Z"
    )


def test_of_very_many_calls_it_says_how_many_more_there_are() -> None:
    log = Log()
    log.claim()
    for number in range(deadline.LISTED_MAX + 7):
        log.send(key=f"k{number}")
    error = deadline.ending(log.state).error
    assert error.endswith(" and 7 more")
    assert error.count("(charge)") == deadline.LISTED_MAX


def test_an_agent_is_refused_by_name_and_told_the_moment() -> None:
    refusal = deadline.exceeded("r1", due(NOW_MS))
    assert refusal.code is ErrorCode.DEADLINE_EXCEEDED
    assert refusal.message == "run r1 is over: its deadline was 2026-01-01 00:00:00Z"
    assert refusal.body()["deadline_ms"] == NOW_MS


def test_the_deadline_is_kept_with_the_runs_first_record() -> None:
    log = Log()
    kept = fold("run", log.state.records.values())
    assert kept.created.deadline_ms == RunState("run").created.deadline_ms == 0
