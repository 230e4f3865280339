"""Thousands of calls in one step cost as much each as the first ones."""

import asyncio
import time
from itertools import pairwise

import pytest

from coatcheck_sidecar.core.model import Effect
from coatcheck_sidecar.core.tool import UpstreamKey
from tests.engine.harness import Yard
from tests.engine.proxying import far_server, near, tool_of

CLIENTS = 64
PART = 500


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_the_five_thousandth_call_costs_no_more_than_twice_the_first(yard: Yard) -> None:
    async with far_server() as far:
        tools = tool_of(far, effect=Effect.IDEMPOTENT, upstream_key=UpstreamKey())
        at = await near(yard, tools)
        agent = await at.agent()
        orders = iter(range(PART * 11))
        marks_s = []

        async def client() -> None:
            for order in orders:
                got = await at.ask("mail/send", json={"order": order})
                assert got.status == 200
                if order % PART == PART - 1:
                    marks_s.append(time.process_time())

        await asyncio.gather(*[client() for _ in range(CLIENTS)])
        assert len(far.seen) == PART * 11
        # The first part warms up.
        parts_s = [later - former for former, later in pairwise(marks_s)]
        print([f"{part_s / PART * 1e6:.0f} us" for part_s in parts_s])
        assert parts_s[-1] < 2 * parts_s[0]
        await agent.drop()
        await at.die()
