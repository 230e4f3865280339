"""Which run an idle agent gets, and which it does not get any more: queues and the breaker."""

import asyncio
from dataclasses import replace

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.record import Created
from coatcheck_sidecar.engine import absent
from coatcheck_sidecar.engine.outside import Outside
from tests.engine.harness import FAST, RefusedError, Yard, names, names_are, until
from tests.engine.test_reconnect import back, restart

# Queues


async def submit(yard: Yard, *runs: str, queue: str = "q") -> None:
    outside = Outside(yard.store, SystemClock())
    for run in runs:
        await outside.submit(Created(queue=queue), run=run)


async def test_agents_of_a_queue_get_one_run_each(yard: Yard) -> None:
    await submit(yard, *(f"r{number}" for number in range(6)))
    pods = [await yard.pod(f"pod{number}.s1") for number in range(3)]
    wires = [await pod.wire() for pod in pods for _ in range(2)]
    replies = await asyncio.gather(
        *(wire.open(None, queue="q", create=False, wait_s=5.0) for wire in wires)
    )
    assert sorted(reply.body["run"] for reply in replies) == [f"r{n}" for n in range(6)]
    for pod in pods:
        assert not pod.notes.of("fenced")  # who was slower never had the run
    await until(lambda: names_are(yard, "ready/", []))


async def test_an_idle_agent_gets_what_comes_later(yard: Yard) -> None:
    pod = await yard.pod()
    wire = await pod.wire()
    opening = asyncio.ensure_future(wire.open(None, queue="q", create=False, wait_s=5.0))
    await asyncio.sleep(0.05)
    await submit(yard, "r1")
    assert (await opening).body["run"] == "r1"


@pytest.mark.parametrize(("remembered", "times"), [(1_000, {2}), (1, {3, 4})])
async def test_a_run_that_no_agent_here_takes_is_told_of_once(
    remembered: int, times: set[int], yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coatcheck_sidecar.engine.queues.TOLD_MAX", remembered)
    pod = await yard.pod()
    for run in ("r1", "r2"):
        agent = await pod.agent(run, queue="q", schema=1)
        await agent.commit(b"one")
        await agent.release()
    wire = await pod.wire()
    with pytest.raises(RefusedError, match="nothing is ready"):
        await wire.open(None, queue="q", create=False, schema=2)
    told = pod.notes.of("not_accepted")
    assert sorted(str(note["run"]) for note in told) == ["r1", "r2"]
    assert "has schema 1, this agent takes 2" in str(told[0]["reason"])
    with pytest.raises(RefusedError, match="nothing is ready"):
        await wire.open(None, queue="q", create=False, schema=2)
    assert len(pod.notes.of("not_accepted")) in times
    assert (await wire.open(None, queue="q", create=False, schema=1)).body["run"] in ("r1", "r2")


async def test_a_lost_pods_runs_are_taken_over_by_its_queue(yard: Yard) -> None:
    pod, other = await yard.pod(), await yard.pod("pod2.s1")
    agent = await pod.agent("r1", queue="q")
    await agent.commit(b"one", level="remote")
    await asyncio.sleep(0.1)
    await pod.die()
    wire = await other.wire()
    reply = await wire.open(None, queue="q", create=False, wait_s=5.0)
    assert (reply.body["run"], reply.body["step"]) == ("r1", 2)
    assert other.sidecar.keepers["r1"].log.state.crashes == 1


@pytest.mark.parametrize("level", ["process", "remote"])
async def test_a_restarted_sidecar_keeps_a_run_for_its_living_agent(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    """It is not given to who waits for the next one: two would do its steps."""
    monkeypatch.setattr(absent, "AGENTS_BACK_S", 0.6)
    pod = await yard.pod()
    agent = await pod.agent("r1", queue="q")
    await agent.commit(b"one", level=level)
    await asyncio.sleep(0.1)
    pod = await restart(yard, pod)
    idle = await pod.wire()
    opening = asyncio.ensure_future(idle.open(None, queue="q", create=False, wait_s=5.0))
    await asyncio.sleep(0.4)
    again = await back(pod, agent)
    await asyncio.sleep(0.4)
    assert not opening.done()
    await again.commit(b"two")
    await again.drop()
    reply = await opening
    assert (reply.body["run"], reply.body["step"]) == ("r1", 3)


async def test_who_does_not_come_back_after_a_restart_loses_the_run_to_the_queue(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absent, "AGENTS_BACK_S", 0.6)
    pod = await yard.pod()
    agent = await pod.agent("r1", queue="q")
    await agent.commit(b"one")
    pod = await restart(yard, pod)
    idle = await pod.wire()
    reply = await idle.open(None, queue="q", create=False, wait_s=5.0)
    assert (reply.body["run"], reply.body["step"]) == ("r1", 2)
    with pytest.raises(RefusedError, match="fenced"):
        await back(pod, agent)


async def test_a_run_in_the_breakers_delay_keeps_nobody_waiting(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coatcheck_sidecar.core.ownership.DELAY_BASE_S", 10.0)
    pod = await yard.pod()
    for _ in range(3):
        agent = await pod.agent("bad", queue="q")
        await agent.drop()
        await until(lambda: pod.sidecar.keepers["bad"].agent is None)
    await submit(yard, "good")
    wire = await pod.wire()
    reply = await wire.open(None, queue="q", create=False, wait_s=3.0)
    assert reply.body["run"] == "good"


# The breaker


async def test_a_run_that_crashes_without_progress_is_held_and_retried(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, breaker_crashes=4))
    for _ in range(4):
        agent = await pod.agent(wait_s=2.0)
        await agent.drop()
        await until(lambda: pod.sidecar.keepers["r1"].agent is None)
    with pytest.raises(RefusedError, match="held: run r1 is held after 4 crashes"):
        await pod.agent()
    assert await names(yard, "held/") == ["held/default/r1/4"]
    with pytest.raises(RefusedError, match="held: run r1 is held: crash_loop"):
        await pod.agent()
    outside = Outside(yard.store, SystemClock())
    retry = Command(id="c1", run="r1", what="retry", by="ann")
    assert (await outside.command(retry)).status is Status.READY
    agent = await pod.agent()
    assert (await yard.log()).state.crashes == 0
    await agent.commit(b"progress")


async def test_progress_resets_the_breaker_and_errors_count(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, breaker_crashes=3))
    for number in range(6):
        agent = await pod.agent(wait_s=2.0)
        await agent.commit(b"%d" % number)
        await agent.drop()
        await until(lambda: pod.sidecar.keepers["r1"].agent is None)
    agent = await pod.agent(wait_s=2.0)  # the last one's death is the first crash
    await agent.ask("release", {"reason": "error", "error": "boom"})
    agent = await pod.agent(wait_s=2.0)
    await agent.ask("release", {"reason": "error", "error": "boom"})
    log = await yard.log()
    assert (log.state.status, log.state.reason[:10]) == (Status.HELD, "crash_loop")


async def test_an_agent_that_does_not_come_back_gives_its_run_up(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, agent_wait_s=0.1))
    agent = await pod.agent()
    await agent.drop()
    await until(lambda: not pod.sidecar.keepers)
    log = await yard.log()
    assert (log.state.status, log.state.crashes) == (Status.READY, 1)
    assert await names(yard, "ready/") == ["ready/default/r1/1"]
