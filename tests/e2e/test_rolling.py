"""The rolling deploy, small. `make test` rolls pods of real containers (tests/deploy)."""

import asyncio
from dataclasses import replace

import pytest

from tests.e2e.rolling import Roll, rolled, summary

SMALL = Roll(agents=6, pods=2, rounds=1, lines=32, grace_s=6, work_s="0.1-1")
STUCK = replace(SMALL, lines=32, grace_s=3, is_stuck=True)


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_agents_are_rolled_and_nothing_is_lost_or_doubled() -> None:
    small, stuck = await asyncio.gather(rolled(SMALL), rolled(STUCK))
    assert not small.faults(SMALL), summary(SMALL, small)
    assert not small.killed
    assert len(small.drains_s) == SMALL.pods
    assert not stuck.faults(STUCK), summary(STUCK, stuck)
