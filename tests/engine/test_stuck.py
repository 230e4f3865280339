"""Steps that outlast the time their agent gives one: told once each, and while they last."""

import asyncio
from dataclasses import replace

import pytest

from coatcheck_sidecar.core.ownership import RunSummary, decode_heartbeat
from coatcheck_sidecar.engine import overdue
from tests.engine.harness import FAST, Yard, until

TIMEOUT_S = 0.1


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overdue, "LOOK_S_MAX", 0.02)


async def beaten(yard: Yard) -> list[RunSummary]:
    """What the pod's heartbeat says."""
    name = "owners/pod1.s1/heartbeat"
    stored = await yard.store.get(name)
    return [] if stored is None else list(decode_heartbeat(name, stored.data).runs)


async def test_each_step_is_told_once_and_the_heartbeat_says_it_while_it_lasts(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, heartbeat_s=30.0, lease_s=90.0))
    agent = await pod.agent(step_timeout_s=TIMEOUT_S)
    quick = await pod.agent("r2", step_timeout_s=60.0)
    await pod.agent("r3")

    async def is_beaten() -> bool:
        return [line.run for line in await beaten(yard) if line.stuck] == ["r1"]

    await until(is_beaten, timeout_s=2.0)  # long before its time
    await asyncio.sleep(3 * TIMEOUT_S)
    (note,) = pod.notes.of("step_stuck")
    assert (note["run"], note["step"], note["queue"]) == ("r1", 1, "default")
    assert note["timeout_s"] == TIMEOUT_S
    await agent.commit(b"one")
    await quick.commit(b"one")
    assert not pod.sidecar.keepers["r1"].summary().stuck
    await until(lambda: len(pod.notes.of("step_stuck")) == 2)
    assert [note["step"] for note in pod.notes.of("step_stuck")] == [1, 2]


async def test_a_run_whose_agent_is_gone_is_not_stuck(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent(step_timeout_s=TIMEOUT_S)
    await agent.drop()
    await asyncio.sleep(2 * TIMEOUT_S)
    assert not pod.sidecar.keepers["r1"].summary().stuck
    assert not pod.notes.of("step_stuck")


async def test_the_next_life_of_its_agent_has_the_whole_time_again(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent(step_timeout_s=TIMEOUT_S)
    await until(lambda: pod.notes.of("step_stuck"))
    await agent.drop()
    again = await pod.agent(step_timeout_s=TIMEOUT_S)
    assert not pod.sidecar.keepers["r1"].summary().stuck
    await until(lambda: len(pod.notes.of("step_stuck")) == 2)
    await again.finish()
