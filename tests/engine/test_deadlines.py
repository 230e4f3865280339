"""Runs with a deadline of their own: ended at it, whoever has them and wherever they are."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

import coatcheck
import coatcheck.errors
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core import deadline
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.model import CallState, Status
from coatcheck_sidecar.core.record import Claimed, Created, Failed
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine import outside as outside_module
from coatcheck_sidecar.engine import overdue
from coatcheck_sidecar.engine.heart import CLAIMS_GATHER_S
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.stores.memory_journal import MemoryJournal
from tests.engine.harness import (
    FAST,
    Link,
    Pod,
    RefusedError,
    Wire,
    Yard,
    link,
    names,
    until,
)
from tests.engine.http_agent import Agent, ProblemError, serving

SOON_S = 0.3
LATER_S = 600.0


@pytest.fixture(autouse=True)
def no_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests count in fractions of a second, on one clock."""
    monkeypatch.setattr(deadline, "MARGIN_MS", 0)
    monkeypatch.setattr(overdue, "LOOK_S_MAX", 0.05)
    monkeypatch.setattr(outside_module, "POLL_S", 0.005)


async def ended(yard: Yard, run: str = "r1", **more: Any) -> str:
    """Wait until the store says that its deadline ended it; what it says."""

    async def is_failed() -> bool:
        return (await yard.log(run)).state.status is Status.FAILED

    await until(is_failed, **more)
    state = (await yard.log(run)).state
    assert state.reason.startswith("deadline_exceeded: its deadline was ")
    return state.reason


async def refused(agent: Wire, request: str, body: dict[str, Any]) -> str:
    with pytest.raises(RefusedError) as caught:
        await agent.ask(request, body)
    return caught.value.code


async def test_the_agent_is_told_and_every_further_request_is_refused(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent(deadline_s=SOON_S)
    await agent.commit(b"one")
    await ended(yard)
    assert [push.type for push in agent.pushes] == ["deadline", "deadline"]
    assert 0 < agent.pushes[0].body["left_s"] <= SOON_S
    assert agent.pushes[1].body == {"left_s": 0.0}
    step = {"step": 2}
    for request, body in (
        ("commit", {**step, "level": "node", "schema": 1}),
        ("call", {**step, "tool": "t", "effect": "once", "identity": "content"}),
        ("eta", {"seconds": 1.0}),
        ("wait", {**step, "name": "approval"}),
        ("finish", step),
        ("fail", {"error": "no"}),
        ("release", {"reason": "left"}),
    ):
        assert await refused(agent, request, body) == "deadline_exceeded", request
    assert (await yard.log()).state.step == 1
    assert pod.notes.of("run_expired") == [{"run": "r1"}]


async def test_a_guarded_call_in_flight_is_in_doubt_and_named(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent(deadline_s=SOON_S)
    go = await agent.call()
    number = go.body["call"]
    assert go.body["until_boot_s"] <= SystemClock().boottime() + SOON_S
    assert (await ended(yard)).endswith(f"in doubt: call {number} (charge)")
    out = Outside(yard.store, SystemClock())
    (doubt,) = await out.doubts("r1")
    assert await out.doubts() == []
    assert await out.doubts(is_all=True) == [doubt]
    assert (doubt.call.number, doubt.call.state) == (number, CallState.IN_DOUBT)


async def test_only_a_new_run_takes_one(yard: Yard) -> None:
    pod = await yard.pod()
    first = await pod.agent()
    await first.release()
    second = await pod.agent(deadline_s=0.0)
    await second.commit(b"on")
    assert (await yard.log()).state.created.deadline_ms == 0


async def test_it_holds_over_a_sidecars_restart(yard: Yard) -> None:
    journal = MemoryJournal()
    pod = await yard.pod("pod1.s1", journal=journal)
    await pod.agent(deadline_s=SOON_S)
    said_ms = pod.sidecar.keepers["r1"].log.state.created.deadline_ms
    await pod.die()
    again = await yard.pod("pod1.s2", journal=journal)
    agent = await again.agent()
    assert again.sidecar.keepers["r1"].summary().deadline_ms == said_ms
    await ended(yard)
    assert agent.pushes[-1].body == {"left_s": 0.0}


async def test_a_doubt_that_outlives_its_run_can_be_settled(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent(deadline_s=SOON_S)
    go = await agent.call()
    await ended(yard)
    out = Outside(yard.store, SystemClock(), settings=FAST)
    (doubt,) = await out.doubts("r1")
    number = doubt.call.number
    again = Command(
        id="c1", run="r1", what="resolve", by="ann", call=number, verdict="retry", force=True
    )
    assert "is failed" in (await out.command(again)).refused
    done = await out.command(replace(again, id="c2", verdict="applied"))
    assert (done.refused, done.status) == ("", Status.FAILED)
    state = (await yard.log()).state
    assert not state.in_doubt
    assert state.calls[go.body["call"]].state is CallState.DONE
    assert state.status is Status.FAILED


async def test_it_is_written_before_the_journal_is_lost(yard: Yard) -> None:
    """A sidecar that dies while it ends a run: the next one of the pod says so in its place."""
    journal = MemoryJournal()
    pod = await yard.pod("pod1.s1", journal=journal)
    agent = await pod.agent(deadline_s=SOON_S)

    async def never(_name: str) -> None:
        await asyncio.sleep(LATER_S)

    link(yard).before_swap = never
    await until(lambda: len(agent.pushes) == 2)
    await pod.die()
    link(yard).before_swap = None
    await yard.pod("pod1.s2", journal=journal)
    await ended(yard)


async def test_a_dead_owners_run_is_ended_by_who_would_take_it_over(yard: Yard) -> None:
    pod = await yard.pod("pod1.s1")
    agent = await pod.agent(deadline_s=2 * SOON_S)
    await agent.commit(b"one", level="remote")
    await asyncio.sleep(CLAIMS_GATHER_S + 2 * FAST.heartbeat_s)  # a heartbeat names it
    await pod.die()
    other = await yard.pod("pod2.s1", settings=replace(FAST, scan_heads=0))
    asking = asyncio.ensure_future(other.agent(None, create=False, wait_s=2.0))
    await ended(yard)
    with pytest.raises(RefusedError, match="nothing is ready"):
        await asking
    state = (await yard.log()).state
    assert (state.claimed.owner, state.claimed.cause) == ("pod2.s1", "deadline")


async def test_a_dead_owners_run_is_ended_by_the_scan_alone(yard: Yard) -> None:
    pod = await yard.pod("pod1.s1")
    await pod.agent(deadline_s=SOON_S)
    await until(lambda: names(yard, "owners/pod1.s1/heartbeat"))
    await pod.die()
    other = await yard.pod("pod2.s1")
    await ended(yard)
    assert not other.sidecar.keepers


async def test_a_ready_run_that_is_late_is_not_handed_out(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, scan_heads=0))
    out = Outside(yard.store, SystemClock())
    assert await out.submit(Created(), run="late", deadline_s=0.0)
    assert await out.submit(Created(), run="well", deadline_s=LATER_S)
    assert not await out.submit(Created(), run="well", deadline_s=1.0)
    assert len(await names(yard, "ready/")) == 2
    agent = await pod.agent(None, create=False)
    assert agent.run == "well"
    with pytest.raises(RefusedError, match="nothing is ready"):
        await pod.agent(None, create=False)
    await ended(yard, "late")
    assert await names(yard, "ready/default/late/") == []


class _Ahead(SystemClock):
    """Of a node whose clock was set wrong."""

    def wall_ms(self) -> int:
        return super().wall_ms() + int(2 * LATER_S * 1000)


async def test_a_clock_that_is_ahead_ends_no_run_before_the_store_s_time_is_known(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await Outside(yard.store, SystemClock()).submit(Created(), run="r1", deadline_s=LATER_S)
    asked = asyncio.Event()

    async def slow(store: Link) -> int:
        asked.set()
        await asyncio.sleep(0.3)  # longer than a scan takes to come by
        return SystemClock().wall_ms()

    monkeypatch.setattr(Link, "now_ms", slow)
    pod = await yard.pod(clock=_Ahead())
    await asked.wait()
    await asyncio.sleep(0.6)
    assert not pod.notes.of("run_expired")
    assert (await yard.log()).state.status is Status.READY


async def test_who_opens_a_late_run_by_name_learns_that_it_is_over(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, scan_heads=0))
    await Outside(yard.store, SystemClock()).submit(Created(), run="r1", deadline_s=0.0)
    wire = await pod.wire()
    opened = await wire.open("r1")
    assert (opened.body["status"], opened.body["epoch"]) == ("failed", 1)
    assert opened.body["error"].startswith("deadline_exceeded")
    log = await yard.log()
    events = [record.event for record in log.state.records.values()]
    assert [type(event) for event in events] == [Created, Claimed, Failed]


@pytest.mark.parametrize("scan_heads", [0, 5])
async def test_a_parked_run_has_a_deadline_too(yard: Yard, scan_heads: int) -> None:
    pod = await yard.pod(settings=replace(FAST, scan_heads=scan_heads))
    agent = await pod.agent(deadline_s=SOON_S)
    with pytest.raises(RefusedError, match="parked"):
        await agent.ask("wait", {"name": "approval", "step": 1})
    await asyncio.sleep(SOON_S)
    if not scan_heads:  # then whoever opens it
        opened = await (await pod.wire()).open("r1")
        assert opened.body["status"] == "failed"
    await ended(yard)
    assert await names(yard, "parked/") == []


async def test_a_held_run_waits_for_its_operator_and_ends_when_it_may_go_on(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent(deadline_s=SOON_S)
    await agent.release("held")
    await asyncio.sleep(SOON_S + 5 * FAST.heartbeat_s)
    assert (await yard.log()).state.status is Status.HELD
    out = Outside(yard.store, SystemClock())
    await out.command(Command(id="c1", run="r1", what="retry", by="ann"))
    await ended(yard)
    assert not pod.sidecar.keepers


async def test_a_pod_that_drains_ends_its_own_late_runs(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent(deadline_s=SOON_S, on_drain="drain")
    pod.sidecar.drain.begin("preStop")
    await ended(yard)
    assert await pod.sidecar.drain.finish()
    assert await refused(agent, "eta", {"seconds": 1.0}) == "deadline_exceeded"


async def test_nothing_is_ended_while_the_store_does_not_say_the_time(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent(deadline_s=SOON_S)
    link(yard).is_away = True
    await asyncio.sleep(SOON_S + 0.05)
    assert not pod.sidecar.keepers["r1"].is_over
    assert await refused(agent, "eta", {"seconds": 1.0}) == "deadline_exceeded"
    link(yard).is_away = False
    await ended(yard)


async def test_a_run_that_is_late_is_not_given_to_the_next_agent_here(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent(deadline_s=SOON_S)
    await agent.drop()
    link(yard).is_away = True
    await asyncio.sleep(SOON_S)
    with pytest.raises(RefusedError, match="deadline_exceeded"):
        await (await pod.wire()).open("r1")
    link(yard).is_away = False
    await ended(yard)


async def test_runs_that_somebody_has_are_left_to_them(yard: Yard) -> None:
    """The scan of one pod comes by runs of another that is well, and of its own."""
    pod: Pod = await yard.pod("pod1.s1")
    other = await yard.pod("pod2.s1")
    await pod.agent("r1", deadline_s=SOON_S)
    await other.agent("r2", deadline_s=SOON_S)
    await ended(yard, "r1")
    await ended(yard, "r2")
    assert pod.notes.of("run_expired") == [{"run": "r1"}]
    assert other.notes.of("run_expired") == [{"run": "r2"}]


async def test_over_http_each_request_is_refused_by_name_and_a_tool_call_too(yard: Yard) -> None:
    pod = await yard.pod()
    async with serving(pod, yard, tools=[Tool(name="mail", upstream="http://127.0.0.1:9")]) as http:
        agent = await Agent.open(http, deadline_s=SOON_S)
        assert (await http.get("/v1/runs/r1"))["deadline_ms"] > 0
        await agent.commit("one")
        await ended(yard)
        bodies = {"commit": {"step": 2, "state": 0}, "eta": {"seconds": 1}}
        for what in ("commit", "alive", "alive", "eta"):
            with pytest.raises(ProblemError) as refusal:
                await agent.ask(what, **bodies.get(what, {}))
            assert (refusal.value.status, refusal.value.code) == (409, "deadline_exceeded")
        path = agent.opened["proxy"].removeprefix(http.url)
        async with http.session.post(f"{path}/mail/send", json={}) as answer:
            told = await answer.json(content_type=None)
        assert (answer.status, told["code"]) == (424, "deadline_exceeded")
        told = await http.get("/v1/runs/r1/result")
        assert (told["status"], told["error"][:17]) == ("failed", "deadline_exceeded")


async def test_the_sdk_says_it_by_name(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = await yard.pod()
    monkeypatch.setenv("COATCHECK_SOCKET", str(pod.path))

    async def work() -> None:
        async with coatcheck.open_run("r1", schema=1, deadline_s=SOON_S) as run:
            async for step in run.steps():
                await asyncio.sleep(SOON_S / 4)
                await step.commit({"n": step.number})

    with pytest.raises(coatcheck.errors.DeadlineExceeded, match="r1 is over: its deadline was"):
        await work()
    await ended(yard)
    async with coatcheck.open_run("r1", schema=1) as run:
        assert (run.status, run.error is not None) == ("failed", True)
        assert str(run.error).startswith("deadline_exceeded")
