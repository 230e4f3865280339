"""What records say of how long steps took: absolute values, that hold wherever the run goes."""

import asyncio

from coatcheck_sidecar.core.record import Checkpoint, Finished
from coatcheck_sidecar.engine.boundary import took
from tests.engine.harness import Yard, until

STEP_S = 0.12


def test_one_more_step_adds_up_and_may_be_the_longest() -> None:
    none = Checkpoint(step=0, step_high=0)
    first = took(none, 1.5)
    assert first == {"worked_ms": 1_500, "longest_ms": 1_500}
    second = took(Checkpoint(step=1, step_high=1, **first), 0.5004)
    assert second == {"worked_ms": 2_000, "longest_ms": 1_500}
    assert took(none, -1.0) == {"worked_ms": 0, "longest_ms": 0}


async def test_a_runs_times_go_with_it_and_what_it_waited_does_not_count(yard: Yard) -> None:
    pod = await yard.pod("pod1.s1")
    agent = await pod.agent()
    await asyncio.sleep(STEP_S)
    await agent.commit(b"one")
    await agent.commit(b"two")
    await until(lambda: not pod.sidecar.keepers["r1"].log.unshipped)
    first = (await yard.log()).state.checkpoint
    assert STEP_S * 1000 <= first.longest_ms <= first.worked_ms < 3 * STEP_S * 1000
    await agent.release()
    await pod.die()
    await asyncio.sleep(2 * STEP_S)
    other = await yard.pod("pod2.s1")
    again = await other.agent()
    assert other.sidecar.keepers["r1"].boundary_s == first.longest_ms / 1000
    await asyncio.sleep(STEP_S)
    await again.finish("done")
    log = await yard.log()
    (last,) = [r.event for r in log.state.records.values() if isinstance(r.event, Finished)]
    added_ms = last.worked_ms - first.worked_ms
    assert STEP_S * 1000 <= added_ms < 2 * STEP_S * 1000
    assert last.longest_ms >= first.longest_ms
