"""Runs that are taken back by sidecars, without an agent."""

from dataclasses import replace
from typing import Any

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core import call
from coatcheck_sidecar.core.model import Body, Effect, Status
from coatcheck_sidecar.core.record import Created
from coatcheck_sidecar.core.tool import HttpProbe, HttpUndo, UpstreamKey
from coatcheck_sidecar.engine import errand, outside
from coatcheck_sidecar.engine.outside import Outside
from tests.engine.harness import Yard, names, until
from tests.engine.proxying import Far, answer, gate, near, reset, tool_of
from tests.engine.undoing import (
    KEYED,
    UNDO,
    charge,
    compensate,
    done_with,
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


async def test_an_order_that_cannot_be_resubmitted_is_not_lost(yard: Yard, far: Far) -> None:
    other = Outside(yard.store, SystemClock())
    await other.submit(Created(input=Body(b"\xa5other")), run="r1-2")
    at = await near(yard, tools(far))
    agent = await at.agent(input=b"\xa5order")
    await charge(at, 1)
    await done_with(agent)
    await compensate(yard, then="resubmit")
    await until_is(yard, Status.HELD)
    assert "not resubmitted" in (await yard.log()).state.reason
    assert "r1-2" in (await yard.log()).state.reason
    assert len(refunds(far)) == 1


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
