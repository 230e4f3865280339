"""What every Clock promises; a clock with a hand of its own joins the list of `CLOCKS`."""

import time
from collections.abc import Callable

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.ports import Clock

CLOCKS: list[Callable[[], Clock]] = [SystemClock]
NAP_S = 0.02
"""Longer than a tick of any clock that is read here."""


@pytest.fixture(params=CLOCKS)
def clock(request: pytest.FixtureRequest) -> Clock:
    made: Clock = request.param()
    return made


@pytest.mark.parametrize("name", ["monotonic", "boottime"])
async def test_sleep_moves_the_hands_at_least_that_far(clock: Clock, name: str) -> None:
    read: Callable[[], float] = getattr(clock, name)
    before = read()
    await clock.sleep(NAP_S)
    assert read() - before >= NAP_S


async def test_wall_moves_with_sleep(clock: Clock) -> None:
    before = clock.wall_ms()
    await clock.sleep(NAP_S)
    assert clock.wall_ms() > before


def test_random_bytes_are_as_many_as_asked_and_do_not_repeat(clock: Clock) -> None:
    drawn = {clock.random_bytes(16) for _ in range(100)}
    assert len(drawn) == 100
    assert {len(each) for each in drawn} == {16}


def test_jitter_stays_within_its_bounds_and_varies(clock: Clock) -> None:
    drawn = {clock.uniform(0.5, 1.5) for _ in range(100)}
    assert all(0.5 <= each <= 1.5 for each in drawn)
    assert len(drawn) > 1


def test_the_system_clock_tells_this_machines_time() -> None:
    clock = SystemClock()
    assert abs(clock.monotonic() - time.monotonic()) < 1
    assert abs(clock.boottime() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1
    assert abs(clock.wall_ms() - time.time() * 1000) < 1000
