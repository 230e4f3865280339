"""A pod's shutdown: what agents are told and when, what is released, what is off the pod."""

import asyncio
import os
from collections import Counter
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from coatcheck._desk import BACK_OFF_S_MAX
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.budget import ASSUMED
from coatcheck_sidecar.core.drain import Latch, OnDrain, Plan
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.engine.absent import AGENTS_BACK_S
from coatcheck_sidecar.engine.drain import LEFT_S, TERM_APART_S, Drain
from coatcheck_sidecar.engine.late import Late
from coatcheck_sidecar.engine.outside import Outside
from tests.engine.harness import FAST, Pod, RefusedError, Wire, Yard, link, until
from tests.engine.test_reconnect import back, restart

LONG_S = 30.0


def drain_of(pod: Pod) -> Drain:
    return pod.sidecar.drain


def line(pod: Pod, run: str = "r1") -> dict[str, Any]:
    (found,) = [line for line in drain_of(pod).view()["runs"] if line["run"] == run]
    return dict(found)


async def told(agent: Wire, state: bytes) -> bool:
    """Commit; whether the answer says that the pod drains."""
    body = {"step": agent.step, "level": "process", "schema": 1}
    return bool((await agent.ask("commit", body, state)).body["draining"])


async def released(pod: Pod, within_s: float = 5.0) -> bool:
    async with asyncio.timeout(within_s):
        return await drain_of(pod).finish()


async def test_agents_stop_at_their_next_boundary_and_the_pod_is_free(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent("r1")
    await agent.commit(b"one")
    assert line(pod)["doing"] == "go_on"
    assert not drain_of(pod).view()["draining"]
    drain_of(pod).begin("preStop")
    await until(lambda: agent.pushes)
    assert (agent.pushes[0].type, 25 < agent.pushes[0].body["deadline_s"] < 30) == ("drain", True)
    assert line(pod) | {"until_s": 0, "boundary_s": 0} == {
        "run": "r1", "on_drain": "migrate", "doing": "stop", "until_s": 0, "step": 2,
        "boundary_s": 0, "eta_s": None, "unshipped_bytes": 0,
        "waits_for": "its next step boundary",
    }  # fmt: skip
    link(yard).is_away = True
    last = asyncio.ensure_future(told(agent, b"two"))
    await asyncio.sleep(0.05)
    assert not last.done()  # what is acknowledged now is off the pod
    assert line(pod)["unshipped_bytes"] > 0
    link(yard).is_away = False
    assert await last
    await agent.release("draining")
    assert await released(pod)
    assert (await yard.log()).state.status is Status.READY
    view = drain_of(pod).view()
    assert (view["released"], view["runs"], view["cause"]) == (True, [], "preStop")
    assert pod.notes.of("drained")


async def test_nobody_comes_in_any_more(yard: Yard) -> None:
    pod = await yard.pod()
    drain_of(pod).begin("preStop")
    with pytest.raises(RefusedError, match="draining"):
        await pod.agent("r3")
    assert await released(pod)


async def test_who_comes_back_may_until_all_is_released(yard: Yard) -> None:
    pod = await yard.pod()
    idle = await pod.wire()
    waits = asyncio.ensure_future(idle.open(None, create=False, wait_s=30.0))
    agent = await pod.agent("r1")
    drain_of(pod).begin("preStop")
    with pytest.raises(RefusedError, match="draining"):
        await waits
    again = await pod.wire(incarnation=agent.incarnation)
    await again.open("r1", resume={"epoch": agent.epoch, "calls": {}})
    await again.commit(b"last")
    await again.release("draining")
    assert await released(pod)
    late = await pod.wire(incarnation=agent.incarnation)
    with pytest.raises(RefusedError, match="draining"):
        await late.open("r1", resume={"epoch": again.epoch, "calls": {}})


async def test_agents_may_come_back_to_a_sidecar_that_was_restarted(yard: Yard) -> None:
    pod = await yard.pod()
    shipped, kept = await pod.agent("r1"), await pod.agent("r2")
    await shipped.commit(b"one", level="remote")
    link(yard).is_away = True
    await kept.commit(b"one")
    pod = await restart(yard, pod)
    link(yard).is_away = False
    drain_of(pod).begin("preStop")
    await until(lambda: pod.sidecar.keepers.keys() >= {"r2"})
    assert line(pod, "r2")["doing"] == "await"
    assert line(pod, "r2")["waits_for"] == "its agent, which may reconnect"
    await asyncio.sleep(0.3)  # an agent rests between two tries
    for agent in (shipped, kept):
        again = await back(pod, agent)
        await until(again.pushes.copy)
        await again.commit(b"two")
        await again.release("draining")
    assert await released(pod)
    assert not pod.notes.of("run_cut")
    for run in ("r1", "r2"):
        assert (await yard.log(run)).checkpoint_bytes == b"two"


def test_agents_are_awaited_for_longer_than_they_rest() -> None:
    assert BACK_OFF_S_MAX + 0.25 < AGENTS_BACK_S  # an agent that looked just before needs a moment


async def test_who_does_not_come_back_to_it_holds_nobody_for_long(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent("r1")
    link(yard).is_away = True  # what a former life had shipped whole is left to the lease
    await agent.commit(b"one")
    pod = await restart(yard, pod)
    link(yard).is_away = False
    drain_of(pod).begin("preStop")
    assert await released(pod, within_s=AGENTS_BACK_S * 4)
    assert (await yard.log()).state.status is Status.READY


async def test_a_run_that_will_end_in_time_is_let_go_on(yard: Yard) -> None:
    pod = await yard.pod()
    ends, stays, said = await pod.agent("r1"), await pod.agent("r2"), await pod.agent("r3")
    await ends.ask("eta", {"seconds": 3.0})
    await stays.ask("eta", {"seconds": 300.0})
    drain_of(pod).begin("preStop")
    await until(lambda: stays.pushes and said.pushes)
    assert not ends.pushes
    assert (line(pod)["doing"], line(pod)["on_drain"]) == ("go_on", "drain")
    assert line(pod)["waits_for"] == "its end"
    assert 2.0 < line(pod)["eta_s"] <= 3.0
    assert not await told(ends, b"on")
    ends.step += 1
    await ends.finish()
    for agent in (stays, said):
        await agent.release("draining")
    assert await released(pod)
    assert (await yard.log()).state.status is Status.FINISHED


async def test_what_can_not_be_undone_is_not_begun_any_more(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent("r1")
    await agent.outcome(await agent.call("send", irreversible=True), result="sent")
    drain_of(pod).begin("preStop")
    with pytest.raises(RefusedError, match="draining: ship of run r1: nothing takes it"):
        await agent.call("ship", irreversible=True)
    await agent.outcome(await agent.call("charge"), result="charged")
    await agent.release("draining")
    assert await released(pod)
    assert len((await yard.log()).state.calls) == 2


async def test_one_that_does_not_end_is_told_while_it_still_can_stop(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, grace_s=3.0, margin_s=0.1))
    agent = await pod.agent("r1", on_drain="drain")
    assert pod.sidecar.keepers["r1"].on_drain is OnDrain.DRAIN
    drain_of(pod).begin("preStop")
    await asyncio.sleep(0.05)
    assert not agent.pushes
    await until(lambda: agent.pushes, timeout_s=4.0)
    await agent.release("draining")
    assert await released(pod)
    assert not pod.notes.of("run_cut")


async def test_whoever_does_not_stop_is_cut_with_its_calls_in_doubt(yard: Yard) -> None:
    pod = await yard.pod()
    agent, gone = await pod.agent("r1"), await pod.agent("r2")
    await gone.drop()
    go = await agent.call()
    drain_of(pod).begin("preStop", grace_s=1.0 + 3 * ASSUMED.latency_s + 0.4)
    assert line(pod)["waits_for"].endswith(f"(call {go.body['call']})")
    assert await released(pod)
    log = await yard.log()
    assert (log.state.status, log.state.reason) == (Status.READY, "draining, cut")
    assert [call.number for call in log.state.in_doubt] == [go.body["call"]]
    assert (await yard.log("r2")).state.status is Status.READY
    assert [note["run"] for note in pod.notes.of("run_cut")] == ["r1"]
    with pytest.raises(RefusedError, match="fenced"):
        await agent.commit(b"late")


async def test_a_second_trigger_brings_the_deadline_nearer_and_never_back(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent("r1")
    drain_of(pod).begin("preStop", grace_s=LONG_S)
    drain_of(pod).begin("SIGTERM", grace_s=600.0)
    assert drain_of(pod).view()["deadline_s"] < LONG_S
    assert len(pod.notes.of("drain")) == 1
    drain_of(pod).begin("request", grace_s=0.0)
    assert await released(pod)
    assert drain_of(pod).view()["cause"] == "preStop"
    with pytest.raises(RefusedError, match="fenced"):
        await agent.commit(b"late")


async def test_what_is_not_shipped_by_the_deadline_stays_behind(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, grace_s=0.5, margin_s=0.1, flush_budget="off"))
    agent = await pod.agent("r1")
    link(yard).is_away = True
    await agent.commit(os.urandom(100))
    drain_of(pod).begin("SIGTERM", grace_s=0.1)
    assert not drain_of(pod).view()["feasible"]
    assert not await released(pod)
    (cut,) = pod.notes.of("drain_cut")
    assert cut["runs"] == 1


async def test_past_its_deadline_a_drain_goes_on_without_a_hurry(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await yard.pod()
    agent = await pod.agent("r1")
    link(yard).is_away = True
    await agent.commit(b"one")
    planned = Counter[str]()
    plan = Drain._planned

    def counted(self: Drain, drain: Latch) -> Plan:
        planned["times"] += 1
        return plan(self, drain)

    monkeypatch.setattr(Drain, "_planned", counted)
    drain_of(pod).begin("SIGTERM", grace_s=0.0)
    await asyncio.sleep(0.3)
    assert planned["times"] < 10
    link(yard).is_away = False
    assert await released(pod)
    assert (await yard.log()).state.step == 1


async def test_what_was_acknowledged_goes_at_once(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, ship_interval_s=60.0, flush_budget="off"))
    agent = await pod.agent("r1")
    await agent.commit(b"one", level="remote")
    await agent.commit(b"two")
    assert pod.sidecar.keepers["r1"].unshipped_bytes > 0
    drain_of(pod).begin("preStop")
    await until(lambda: not pod.sidecar.keepers["r1"].unshipped_bytes)
    assert (await yard.log()).state.step == 2


async def test_the_barrier_holds_until_all_is_released_or_its_time_is_over(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, grace_s=1.2, margin_s=0.1))
    agent = await pod.agent("r1")
    barrier = asyncio.ensure_future(drain_of(pod).barrier())
    again = asyncio.ensure_future(drain_of(pod).barrier())
    await asyncio.sleep(0.05)  # the hooks of a pod start together, in no order
    drain_of(pod).begin("preStop")
    await until(lambda: agent.pushes)
    await asyncio.sleep(0.05)
    assert not barrier.done()
    await agent.release("draining")
    assert (await barrier, await again) == (True, True)


async def test_a_barrier_alone_is_a_restart_of_its_container_and_begins_nothing(
    yard: Yard,
) -> None:
    pod = await yard.pod()
    agent = await pod.agent("r1")
    assert not await drain_of(pod).barrier()
    assert not drain_of(pod).is_begun
    assert not agent.pushes


@pytest.mark.parametrize("first", ["preStop", "an operator"])
async def test_a_late_sigterm_that_finds_agents_leaves_two_seconds(yard: Yard, first: str) -> None:
    pod = await yard.pod()
    agent = await pod.agent("r1")
    for cause in (first, "preStop"):
        drain_of(pod).begin(cause, grace_s=LONG_S)
    drain_of(pod).signalled()  # at once after the hook, as of a plain container
    assert drain_of(pod).view()["deadline_s"] > LONG_S - 2
    await asyncio.sleep(TERM_APART_S + 0.05)
    drain_of(pod).signalled()
    assert drain_of(pod).view()["deadline_s"] < LEFT_S
    await agent.release("draining")
    assert await released(pod)
    assert not pod.notes.of("drain_hook_missed")


async def test_a_late_sigterm_that_finds_nobody_takes_no_time_from_shipping(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent("r1")
    await agent.commit(b"one")
    link(yard).is_away = True
    await agent.drop()
    drain_of(pod).begin("preStop", grace_s=LONG_S)
    await asyncio.sleep(TERM_APART_S + 0.05)
    drain_of(pod).signalled()
    assert drain_of(pod).view()["deadline_s"] > LONG_S - 3
    link(yard).is_away = False
    assert await released(pod)


async def test_a_sigterm_without_a_hook_begins_the_drain_and_is_counted(yard: Yard) -> None:
    pod = await yard.pod()
    drain_of(pod).signalled()
    drain_of(pod).signalled()
    assert await released(pod)
    assert [note["cause"] for note in pod.notes.of("drain")] == ["SIGTERM"]
    assert len(pod.notes.of("drain_hook_missed")) == 1


async def test_the_barrier_is_capped_below_the_grace(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, grace_s=0.8, margin_s=0.01))
    await pod.agent("r1")
    link(yard).is_away = True
    began_s = asyncio.get_running_loop().time()
    drain_of(pod).begin("preStop")
    assert not await drain_of(pod).barrier()
    assert 0.5 <= asyncio.get_running_loop().time() - began_s < 0.8


async def test_sixty_four_runs_are_released_by_one_drain(yard: Yard) -> None:
    pod = await yard.pod()
    agents = [await pod.agent(f"r{number}") for number in range(64)]
    began_s = asyncio.get_running_loop().time()
    drain_of(pod).begin("preStop")
    await until(lambda: all(agent.pushes for agent in agents))
    await asyncio.gather(*(agent.release("draining") for agent in agents))
    assert await released(pod)
    assert asyncio.get_running_loop().time() - began_s < 2.0
    assert not pod.notes.of("run_cut")


async def test_late_outcomes_of_cut_calls_resolve_them_wherever_the_run_is(yard: Yard) -> None:
    pod, other = await yard.pod(), await yard.pod("pod2.s1")
    outside = Outside(yard.store, SystemClock(), settings=FAST)
    pod.sidecar.on_late_outcome = Late(outside, tasks=pod.sidecar.tasks).tell
    agent = await pod.agent("r1")
    ends, again = await agent.call(args={"n": 1}, key="a"), await agent.call(args={"n": 2}, key="b")
    drain_of(pod).begin("preStop", grace_s=0.0)
    assert await released(pod)
    with pytest.raises(RefusedError, match="fenced"):
        await agent.outcome(ends, result="paid")
    await until(lambda: pod.notes.of("late_outcome"))
    assert [call.number for call in (await yard.log()).state.in_doubt] == [again.body["call"]]
    taker = await other.agent("r1", wait_s=2.0)
    with pytest.raises(RefusedError, match="fenced"):
        await agent.outcome(again, result="paid too")
    await until(lambda: len(pod.notes.of("late_outcome")) == 2)
    assert not any(note["refused"] for note in pod.notes.of("late_outcome"))
    for number, result in ((1, "paid"), (2, "paid too")):
        given = await taker.call(args={"n": number}, key="ab"[number - 1])
        assert (given.body["decision"], msgpack.unpackb(given.attachment)) == ("replay", result)
