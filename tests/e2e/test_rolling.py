"""The rolling deploy, small: in each `make test`, so that no change breaks it unseen."""

from dataclasses import replace

import pytest

from tests.e2e.rolling import Roll, rolled, summary

SMALL = Roll(agents=6, pods=2, rounds=1, lines=10, grace_s=6, work_s="0.1-1")
STUCK = replace(SMALL, lines=12, grace_s=3, is_stuck=True)


@pytest.mark.timeout(120)
async def test_agents_are_rolled_and_nothing_is_lost_doubled_or_begun_again() -> None:
    result = await rolled(SMALL)
    assert not result.faults(SMALL), summary(SMALL, result)
    assert not result.killed
    assert len(result.drains_s) == SMALL.pods


@pytest.mark.timeout(120)
async def test_agents_that_never_stop_are_cut_and_nothing_is_doubled() -> None:
    result = await rolled(STUCK)
    assert not result.faults(STUCK), summary(STUCK, result)
    assert result.cuts == STUCK.agents
