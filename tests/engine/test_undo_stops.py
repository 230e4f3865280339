"""Runs at work, pods that stop, and what can't be taken back."""

import asyncio
import json
from dataclasses import replace

import pytest

from coatcheck_sidecar.core import call
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.model import CallState, Status
from coatcheck_sidecar.core.record import Held
from coatcheck_sidecar.engine import errand, outside
from tests.engine.harness import FAST, RefusedError, Yard, until
from tests.engine.proxying import Far, answer, gate, near, tool_of
from tests.engine.undoing import (
    KEYED,
    charge,
    compensate,
    done_with,
    order,
    pods,
    refunds,
    status_of,
    tools,
    until_is,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "RETRY_DELAY_S", 0.01)
    monkeypatch.setattr(errand, "PROBE_RETRY_S", 0.01)
    monkeypatch.setattr(outside, "POLL_S", 0.01)


# What can't be taken back


async def test_with_an_irreversible_call_done_the_run_goes_forward(yard: Yard, far: Far) -> None:
    made = {**tools(far), **tool_of(far, "mail", irreversible=True)}
    at = await near(yard, made)
    agent = await at.agent()
    await charge(at, 1)
    assert (await at.ask("mail/send", json={})).status == 200
    await done_with(agent)
    done = await compensate(yard)
    assert done.refused.endswith("(mail) is done and irreversible: run r1 goes forward")
    assert await status_of(yard) is Status.READY
    assert (await yard.log()).state.undos
    assert (await at.agent()).step == 2


async def test_one_that_is_done_meanwhile_sends_the_run_forward(yard: Yard, far: Far) -> None:
    at = await near(yard, {**tools(far), **tool_of(far, "mail", irreversible=True)})
    agent = await at.agent()
    await charge(at, 1)
    opened, slow = gate(answer(200))
    far.script = [slow]
    sending = asyncio.ensure_future(at.ask("mail/send", json={}))
    await until(lambda: len(far.seen) == 2)
    await compensate(yard)
    opened.set()
    assert (await sending).status == 200
    await agent.commit(b"state")
    await agent.release("draining")
    await until_is(yard, Status.READY)
    (note,) = at.pod.notes.of("undo_forward")
    assert "irreversible" in str(note["why"])
    assert refunds(far) == []
    assert (await at.agent()).step == 2


async def test_what_is_irreversible_does_not_start_while_the_pod_drains(
    yard: Yard, far: Far
) -> None:
    at = await near(yard, {**tools(far), **tool_of(far, "mail", irreversible=True)})
    agent = await at.agent(on_drain="drain")
    agent.send("eta", {"seconds": 1.0})
    assert (await at.ask("mail/send", json={"to": 1})).status == 200
    at.pod.sidecar.drain.begin("test", grace_s=5.0)
    refused = await at.ask("mail/send", json={"to": 2})
    assert (refused.status, refused.json["code"]) == (503, "draining")
    assert (await at.ask("mail/send", json={"to": 1})).decision == "replayed"
    assert (await at.ask("bank/charges", json={})).status == 200
    with pytest.raises(RefusedError, match="draining"):
        await agent.call("door", irreversible=True)
    assert (await agent.call("charge")).body["decision"] == "go"
    await agent.release()


# An agent at work


async def test_an_agent_stops_at_its_boundary_and_does_nothing_new(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    await charge(at, 1)
    assert (await compensate(yard)).status is Status.OWNED
    await until(lambda: [push.type for push in agent.pushes] == ["drain"])
    refused = await at.ask("bank/charges", json={"amount": 2})
    assert (refused.status, refused.json["code"]) == (503, "draining")
    assert (await at.ask("bank/charges", method="GET")).status == 200
    with pytest.raises(RefusedError, match="taken back"):
        await agent.finish()
    with pytest.raises(RefusedError, match="taken back"):
        await agent.ask("fail", {"error": "no"})
    assert (await agent.ask("eta", {"seconds": 1.0})).body["draining"]
    await agent.commit(b"state")
    await agent.release("draining")
    await until_is(yard, Status.COMPENSATED)
    assert refunds(far) == [1]


@pytest.mark.parametrize("ending", ["park", "die", "gone"])
async def test_however_an_agent_leaves_its_run_is_taken_back(
    yard: Yard, far: Far, ending: str
) -> None:
    settings = replace(FAST, agent_wait_s=0.2)
    at = await near(yard, tools(far), settings=settings)
    agent = await at.agent()
    await charge(at, 1)
    await agent.commit(b"state")
    if ending == "gone":
        await agent.drop()
        await until(lambda: at.pod.sidecar.keepers["r1"].agent is None)
    await compensate(yard)
    if ending == "park":
        with pytest.raises(RefusedError, match="parked"):
            await agent.ask("wait", {"name": "approval", "step": agent.step})
    elif ending == "die":
        await agent.drop()
    await until_is(yard, Status.COMPENSATED)
    assert refunds(far) == [1]


@pytest.mark.parametrize("reason", ["error", "draining"])
async def test_who_asked_to_be_taken_back_at_a_drain_is_not_without_one(
    yard: Yard, far: Far, reason: str
) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent(on_drain="compensate")
    await charge(at, 1)
    await agent.commit(b"state")
    if reason == "draining":
        at.pod.sidecar.drain.begin("test", grace_s=5.0)
    await agent.ask("release", {"reason": reason, "error": "boom"})
    await until_is(yard, Status.COMPENSATED if reason == "draining" else Status.READY)
    assert refunds(far) == ([1] if reason == "draining" else [])


async def test_no_undo_begins_in_the_last_moment_of_a_pod(yard: Yard, far: Far) -> None:
    settings = replace(FAST, margin_s=0.5)
    at = await near(yard, tools(far), settings=settings)
    agent = await at.agent(on_drain="compensate")
    await charge(at, 1, 2)
    await agent.commit(b"state")
    opened, slow = gate(answer(200))
    far.script = [slow]
    drain = at.pod.sidecar.drain
    latch = drain.begin("test", grace_s=2.0)
    await agent.release("draining")
    await until(lambda: refunds(far) == [2])
    await until(lambda: not drain.has_time())
    assert at.pod.sidecar.doors.clock.monotonic() < latch.deadline_s
    opened.set()
    await until(lambda: not at.pod.sidecar.keepers)
    assert refunds(far) == [2]
    await near(yard, tools(far), me="pod2.s1")
    await until_is(yard, Status.COMPENSATED)
    assert refunds(far) == [2, 1]


async def test_a_parked_and_a_held_run_are_taken_back_too(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    for run in ("parked", "held"):
        agent = await at.agent(run)
        await charge(at, 1, run=run)
        await agent.commit(b"state")
        if run == "parked":
            with pytest.raises(RefusedError, match="parked"):
                await agent.ask("wait", {"name": "approval", "step": agent.step})
        else:
            await agent.ask("release", {"reason": "held", "error": "look"})
        await compensate(yard, run)
        await until_is(yard, Status.COMPENSATED, run)
    assert refunds(far) == [1, 3]


async def test_commands_of_a_run_that_is_taken_back(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    await charge(at, 1)
    await done_with(agent)
    far.script = [answer(400)]
    await compensate(yard)
    await until_is(yard, Status.HELD)
    refused = await compensate_again(yard)
    assert refused == "run r1 is being taken back already"


async def compensate_again(yard: Yard) -> str:
    return (await order(yard, Command(id="again", run="r1", what="compensate", by="bob"))).refused


async def test_a_deadline_does_not_end_a_run_that_is_taken_back(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent(deadline_s=1.6)
    await charge(at, 1, 2)
    await done_with(agent)
    opened, slow = gate(answer(200))
    far.script = [slow]
    await compensate(yard)
    await until(lambda: refunds(far) == [2])
    await asyncio.sleep(0.8)
    opened.set()
    await until_is(yard, Status.COMPENSATED)
    assert refunds(far) == [2, 1]


# Drains


async def test_a_drain_takes_back_what_asked_for_it(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent(on_drain="compensate")
    other = await at.agent("r2")
    await charge(at, 1, 2)
    at.pod.sidecar.drain.begin("test", grace_s=5.0)
    await until(lambda: [push.type for push in agent.pushes] == ["drain"])
    await agent.commit(b"state")
    await agent.release("draining")
    await other.release("draining")
    async with asyncio.timeout(4):
        await at.pod.sidecar.drain.is_released.wait()
    assert await status_of(yard) is Status.COMPENSATED
    assert await status_of(yard, "r2") is Status.READY
    assert refunds(far) == [2, 1]


async def test_what_does_not_fit_is_finished_by_another_sidecar(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far, **KEYED))
    agent = await at.agent(on_drain="compensate")
    await charge(at, 1, 2, 3)
    _, slow = gate(answer(200))
    far.script = [answer(200), slow]
    at.pod.sidecar.drain.begin("test", grace_s=2.0)
    await agent.commit(b"state")
    await agent.release("draining")
    await until(lambda: len(refunds(far)) == 2)
    plan = at.pod.sidecar.drain.view()["runs"]
    assert [run["doing"] for run in plan] == ["undo"]
    async with asyncio.timeout(4):
        await at.pod.sidecar.drain.is_released.wait()
    assert await status_of(yard) is Status.COMPENSATING
    await near(yard, tools(far, **KEYED), me="pod2.s1")
    await until_is(yard, Status.COMPENSATED)
    assert refunds(far) == [3, 2, 2, 1]


async def test_at_a_drain_what_is_irreversible_and_done_sends_it_forward(
    yard: Yard, far: Far
) -> None:
    at = await near(yard, {**tools(far), **tool_of(far, "mail", irreversible=True)})
    agent = await at.agent(on_drain="compensate")
    await charge(at, 1)
    assert (await at.ask("mail/send", json={})).status == 200
    at.pod.sidecar.drain.begin("test", grace_s=5.0)
    await agent.commit(b"state")
    await agent.release("draining")
    assert await status_of(yard) is Status.READY
    assert len(at.pod.notes.of("undo_forward")) == 1
    assert refunds(far) == []


async def test_auto_never_takes_anything_back(yard: Yard, far: Far) -> None:
    """Without a checkpoint the run starts again from its first step, its calls replayed."""
    one, two = await pods(yard, far)
    agent = await one.agent(on_drain="auto")
    assert await charge(one, 1, 2) == [1, 2]
    one.pod.sidecar.drain.begin("test", grace_s=5.0)
    await agent.release("draining")
    again = await two.agent()
    assert again.step == 1
    got = [await two.ask("bank/charges", json={"amount": a}) for a in (1, 2)]
    assert [(one.json["n"], one.decision) for one in got] == [(1, "replayed"), (2, "replayed")]
    assert [seen.path for seen in far.seen] == ["/base/charges"] * 2
    await again.finish()
    assert (await yard.log()).state.undos == {}


async def test_an_undo_is_a_call_of_its_own_in_the_log(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    await charge(at, 1)
    await done_with(agent)
    await compensate(yard)
    await until_is(yard, Status.COMPENSATED)
    state = (await yard.log()).state
    (undo,) = [c for c in state.calls.values() if c.is_undo]
    assert undo.state is CallState.DONE
    assert undo.key.startswith("undo:c:1:bank:")
    assert not any(isinstance(r.event, Held) for r in state.records.values())
    assert json.loads(far.seen[-1].body) == {"charge": 1}
