"""Runs that are taken back by sidecars, without an agent."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from coatcheck_sidecar.core import call
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.model import CallState, Effect, Status
from coatcheck_sidecar.core.record import Held
from coatcheck_sidecar.core.tool import HttpProbe, HttpUndo, UpstreamKey
from coatcheck_sidecar.engine import errand, outside
from tests.engine.harness import FAST, RefusedError, Yard, names, until
from tests.engine.proxying import Far, answer, gate, near, reset, tool_of
from tests.engine.undoing import (
    KEYED,
    UNDO,
    charge,
    compensate,
    done_with,
    order,
    pods,
    refunds,
    resolve,
    status_of,
    tools,
    until_is,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "RETRY_DELAY_S", 0.01)
    monkeypatch.setattr(errand, "PROBE_RETRY_S", 0.01)
    monkeypatch.setattr(outside, "POLL_S", 0.01)


async def test_a_run_is_taken_back_newest_call_first(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    await charge(at, 1, 2)
    await agent.commit(b"one")
    await charge(at, 3, 4)
    await agent.commit(b"two")
    await agent.release()
    assert (await compensate(yard)).status is Status.COMPENSATING
    await until_is(yard, Status.COMPENSATED)
    assert refunds(far) == [4, 3, 2, 1]
    state = (await yard.log()).state
    assert state.reason == "4 calls taken back"
    assert [len(at.pod.notes.of(event)) for event in ("undone", "undo_forward")] == [4, 0]
    assert not await names(yard, "compensating/")
    late = await at.pod.wire()
    assert (await late.open("r1")).body["status"] == "compensated"


async def test_an_undo_goes_by_the_tool_and_its_key(
    yard: Yard, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANK_TOKEN", "Bearer s3cret")
    undo = HttpUndo(method="DELETE", path="/charges/{/n}?why=undo", credentials="env:BANK_TOKEN")
    key = UpstreamKey(header="Idem", prefix="p-")
    at = await near(yard, tools(far, undo=undo, upstream_key=key, effect=Effect.IDEMPOTENT))
    agent = await at.agent()
    await charge(at, 1)
    await done_with(agent)
    await compensate(yard)
    await until_is(yard, Status.COMPENSATED)
    charged, deleted = far.seen
    assert (deleted.method, deleted.path) == ("DELETE", "/base/charges/1?why=undo")
    assert deleted.headers["authorization"] == "Bearer s3cret"
    assert deleted.headers["idem"].startswith("p-")
    assert deleted.headers["idem"] != charged.headers["idem"]
    assert "content-type" not in deleted.headers
    assert "s3cret" not in str((await yard.log()).state.records)


async def test_what_was_not_done_is_not_taken_back(yard: Yard, far: Far) -> None:
    far.script = [answer(400), answer(200, b'{"n": 7}')]
    at = await near(yard, tools(far))
    agent = await at.agent()
    assert (await at.ask("bank/charges", json={"amount": 1})).status == 400
    await charge(at, 2)
    assert (await at.ask("bank/customers", json={"name": "ann"})).status == 200
    assert (await at.ask("bank/charges", method="GET")).status == 200
    await done_with(agent)
    await compensate(yard)
    await until_is(yard, Status.COMPENSATED)
    assert refunds(far) == [7]


async def test_a_run_that_did_nothing_is_over_at_once(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    await (await at.agent()).release()
    await compensate(yard)
    await until_is(yard, Status.COMPENSATED)
    assert (await yard.log()).state.reason == "0 calls taken back"
    with pytest.raises(AssertionError):
        await until_is(yard, Status.READY, "r1-2")


async def test_resubmit_makes_a_run_with_the_same_input(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent(input=b"\xa5order", queue="bills", deadline_s=3_600.0)
    await charge(at, 1)
    await done_with(agent)
    await compensate(yard, then="resubmit")
    await until_is(yard, Status.COMPENSATED)
    assert "r1-2 was made in its place" in (await yard.log()).state.reason
    made = (await yard.log("r1-2")).state
    assert made.status is Status.READY
    assert made.created.input is not None
    assert (made.created.input.data, made.created.queue) == (b"\xa5order", "bills")
    assert made.created.deadline_ms == 0


# Lives of sidecars


@pytest.mark.parametrize("effect", [KEYED, {"effect": Effect.ONCE}], ids=["keyed", "once"])
async def test_another_sidecar_finishes_what_one_began(
    yard: Yard, far: Far, effect: dict[str, Any]
) -> None:
    one, two = await pods(yard, far, **effect)
    two.pod.sidecar.mode = "observe"
    agent = await one.agent()
    await charge(one, 1, 2, 3)
    await done_with(agent)
    opened, held_up = gate(answer(200))
    far.script = [answer(200), held_up]
    tools_of_two = tools(far, **effect)
    await compensate(yard)
    await until(lambda: len(refunds(far)) == 2)
    await one.die()
    opened.set()
    three = await near(yard, tools_of_two, me="pod3.s1")
    if effect is KEYED:
        await until_is(yard, Status.COMPENSATED)
        assert refunds(far) == [3, 2, 2, 1]
        keys = [seen.headers["idempotency-key"] for seen in far.seen[3:]]
        assert keys[1] == keys[2]
        assert len(set(keys)) == 3
    else:
        await until_is(yard, Status.HELD)
        assert refunds(far) == [3, 2]
        (doubt,) = (await yard.log()).state.in_doubt
        assert doubt.is_undo
        await resolve(yard, doubt.number, "applied")
        await until_is(yard, Status.COMPENSATED)
        assert refunds(far) == [3, 2, 1]
    assert three.pod.notes.of("undone")


async def test_a_sidecar_that_restarts_goes_on(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far, **KEYED))
    agent = await at.agent()
    await charge(at, 1, 2)
    await done_with(agent)
    _, held_up = gate(answer(200))
    far.script = [held_up]
    await compensate(yard)
    await until(lambda: refunds(far) == [2])
    await at.die()
    again = await near(yard, tools(far, **KEYED), me="pod1.s2", journal=at.pod.journal)
    await until_is(yard, Status.COMPENSATED)
    assert refunds(far) == [2, 2, 1]
    assert again.pod.notes.of("undone")


async def test_a_sidecar_without_the_tool_leaves_it_to_others(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    await charge(at, 1)
    await done_with(agent)
    await at.die()
    await near(yard, tool_of(far, "other"), me="pod2.s1")
    await compensate(yard)

    async def said() -> bool:
        return "no tool of this name" in (await yard.log()).state.reason

    await until(said)
    assert await status_of(yard) is Status.COMPENSATING
    await near(yard, tools(far), me="pod3.s1")
    await until_is(yard, Status.COMPENSATED)
    assert refunds(far) == [1]


# What stands in the way


async def test_an_undo_that_is_lost_is_in_doubt_and_holds(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    await charge(at, 1, 2)
    await done_with(agent)
    far.script = [reset]
    await compensate(yard)
    await until_is(yard, Status.HELD)
    (doubt,) = (await yard.log()).state.in_doubt
    assert (doubt.tool, doubt.summary) == ("bank", "undo of call 3: POST /refunds") or doubt.is_undo
    assert refunds(far) == [2]
    await resolve(yard, doubt.number, "not_applied")
    await until_is(yard, Status.COMPENSATED)
    assert refunds(far) == [2, 2, 1]


async def test_a_lost_undo_is_asked_about_where_that_is_possible(yard: Yard, far: Far) -> None:
    probe = HttpProbe(path="/refunds/{key}", applied_when="/refund")
    undo = replace(UNDO, probe=probe, probe_settle_s=0.0)
    at = await near(yard, tools(far, undo=undo))
    agent = await at.agent()
    await charge(at, 1, 2)
    await done_with(agent)
    far.script = [reset, answer(503), answer(200, b'{"refund": {"id": 1}}')]
    await compensate(yard)
    await until_is(yard, Status.COMPENSATED)
    assert refunds(far) == [2, 1]


@pytest.mark.parametrize("status", [400, 404, 409, 302])
async def test_an_undo_that_is_refused_holds_until_somebody_decides(
    yard: Yard, far: Far, status: int
) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    await charge(at, 1)
    await done_with(agent)
    far.script = [answer(status)]
    await compensate(yard)
    await until_is(yard, Status.HELD)
    (doubt,) = (await yard.log()).state.in_doubt
    await resolve(yard, doubt.number, "retry")
    await until_is(yard, Status.COMPENSATED)
    assert refunds(far) == [1, 1]


async def test_what_is_gone_already_needs_no_delete(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far, undo=HttpUndo(method="DELETE", path="/charges/{/n}")))
    agent = await at.agent()
    await charge(at, 1, 2)
    await done_with(agent)
    far.script = [reset, answer(404), answer(410)]
    await compensate(yard)
    await until_is(yard, Status.COMPENSATED)
    assert [seen.method for seen in far.seen[2:]] == ["DELETE"] * 3


async def test_an_upstream_that_is_down_is_tried_again_later(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far, patience_s=0.0))
    agent = await at.agent()
    await charge(at, 1)
    await done_with(agent)
    far.script = [answer(429), answer(401), answer(429)]
    await compensate(yard)
    await until_is(yard, Status.COMPENSATED)
    assert refunds(far) == [1] * 4


async def test_an_undo_that_can_not_be_made_is_for_somebodys_hands(yard: Yard, far: Far) -> None:
    far.script = [answer(200, b'{"id": 1}'), answer(200, b'{"n": 2}')]
    at = await near(yard, tools(far))
    agent = await at.agent()
    assert (await at.ask("bank/charges", json={"amount": 1})).status == 200
    await charge(at, 2)
    await done_with(agent)
    await compensate(yard)
    await until_is(yard, Status.HELD)
    assert refunds(far) == [2]
    (doubt,) = (await yard.log()).state.in_doubt
    assert doubt.reason == "there is nothing at /n in its answer"
    await resolve(yard, doubt.number, "retry")
    await until_is(yard, Status.HELD)
    await resolve(yard, doubt.number, "applied")
    await until_is(yard, Status.COMPENSATED)
    assert (await yard.log()).state.reason == "2 calls taken back"


async def test_a_call_in_doubt_holds_when_its_turn_comes(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far, unresolved_ok=True))
    agent = await at.agent()
    await charge(at, 1)
    far.script = [reset]
    assert (await at.ask("bank/charges", json={"amount": 2})).status == 424
    await charge(at, 3)
    await agent.release()
    await compensate(yard)
    await until_is(yard, Status.HELD)
    assert refunds(far) == [3]
    (doubt,) = (await yard.log()).state.in_doubt
    assert not doubt.is_undo
    await resolve(yard, doubt.number, "not_applied")
    await until_is(yard, Status.COMPENSATED)
    assert refunds(far) == [3, 1]


async def test_what_somebody_says_of_a_call_makes_its_undo(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    far.script = [reset]
    assert (await at.ask("bank/charges", json={"amount": 2})).status == 424
    (doubt,) = (await yard.log()).state.in_doubt
    await agent.release()
    await resolve(yard, doubt.number, "applied")
    (undo,) = (await yard.log()).state.undos.values()
    assert undo.why == "nobody said what its answer is"


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
