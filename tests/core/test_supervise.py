"""When an agent is started again, and what the supervisor exits with."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.supervise import (
    BACKOFF_MAX_S,
    STEADY_S,
    Policy,
    Restarts,
    exit_status,
    shell_status,
)


def delays(restarts: Restarts, *lives: tuple[int, float]) -> list[float | None]:
    """`lives` are (status, seconds)."""
    waits = []
    for status, lived_s in lives:
        restarts, delay_s = restarts.after(status, lived_s=lived_s)
        waits.append(delay_s)
    return waits


@pytest.mark.parametrize(
    ("policy", "status", "is_restarted"),
    [
        (Policy.NO, 0, False),
        (Policy.NO, 1, False),
        (Policy.ON_FAILURE, 0, False),
        (Policy.ON_FAILURE, 1, True),
        (Policy.ON_FAILURE, 137, True),
        (Policy.ALWAYS, 0, True),
        (Policy.ALWAYS, 1, True),
    ],
)
def test_the_policy_decides(policy: Policy, status: int, is_restarted: bool) -> None:
    _, delay_s = Restarts(policy).after(status, lived_s=1)
    assert (delay_s is not None) is is_restarted


def test_the_wait_doubles_to_a_minute_and_begins_anew_after_a_steady_life() -> None:
    lives = [(1, 0.1)] * 8 + [(1, STEADY_S), (1, 0.1)]
    waits = delays(Restarts(Policy.ON_FAILURE), *lives)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 1, 2]


def test_a_limit_counts_restarts_in_a_row() -> None:
    restarts = Restarts(Policy.ALWAYS, restarts_max=2)
    assert delays(restarts, (0, 1), (1, 1), (1, 1)) == [1, 2, None]
    assert delays(restarts, (0, 1), (1, 1), (1, STEADY_S), (1, 1)) == [1, 2, 1, 2]
    assert delays(Restarts(Policy.ALWAYS, restarts_max=0), (1, 1)) == [None]


@given(st.integers(0, 10_000))
def test_no_wait_is_longer_than_the_longest(in_a_row: int) -> None:
    _, delay_s = Restarts(Policy.ALWAYS, in_a_row=in_a_row).after(1, lived_s=0)
    assert delay_s is not None
    assert 1 <= delay_s <= BACKOFF_MAX_S


def test_a_status_as_a_shell_has_it() -> None:
    assert (shell_status(0), shell_status(3), shell_status(-9)) == (0, 3, 137)


@pytest.mark.parametrize(
    ("status", "told", "is_safe", "exits"),
    [
        (0, None, True, 0),
        (0, None, False, 75),
        (3, None, True, 3),
        (3, None, False, 3),
        (143, None, True, 143),
        (143, signal.SIGTERM, True, 0),
        (143, signal.SIGTERM, False, 75),
        (130, signal.SIGINT, True, 0),
        (143, signal.SIGINT, True, 143),
        (137, signal.SIGTERM, True, 137),
        (1, signal.SIGTERM, True, 1),
    ],
)
def test_to_die_of_the_signal_is_to_do_as_told(
    status: int, told: signal.Signals | None, is_safe: bool, exits: int
) -> None:
    assert exit_status(status, told=told, is_safe=is_safe) == exits
