"""A few kills of the campaign, in each `make test`."""

from pathlib import Path

import pytest

from tests.e2e.crash import place_in, plan_for, run_round

KILLS = 6


@pytest.mark.timeout(90)
@pytest.mark.parametrize("honours_keys", [pytest.param(True, marks=pytest.mark.slow), False])
async def test_kills_lose_nothing_and_double_nothing(tmp_path: Path, honours_keys: bool) -> None:
    plan = plan_for(KILLS // 2, seed=11 + honours_keys, honours_keys=honours_keys)
    result = await run_round(plan, place_in(tmp_path, None, bucket=""))
    assert result.faults == ()
    assert result.crashes == ()
    assert result.kills > 0
    # A kill may come between an acknowledgement and the line in which its agent says so.
    assert result.bill.checkpoints >= plan.runs * plan.lines - result.kills
