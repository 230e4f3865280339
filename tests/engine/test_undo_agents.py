"""Runs that are taken back by functions of their agents."""

import asyncio
from pathlib import Path
from typing import Any

import msgpack
import pytest

import coatcheck
from coatcheck import sync
from coatcheck._tool import UNDOS
from coatcheck_sidecar.core import call
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.engine import outside
from tests.engine.harness import RefusedError, Wire, Yard, names, until
from tests.engine.proxying import Far, answer, near
from tests.engine.undoing import (
    charge,
    compensate,
    done_with,
    refunds,
    resolve,
    tools,
    until_is,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "RETRY_DELAY_S", 0.01)
    monkeypatch.setattr(outside, "POLL_S", 0.01)


async def booked(agent: Wire, *seats: int) -> None:
    """Calls of an agent's own tool, each with a function that takes it back."""
    for seat in seats:
        go = await agent.call("book", args={"seat": seat}, undo="free")
        await agent.outcome(go, result={"booking": seat})


async def freed(agent: Wire) -> Any:
    """The next undo, done as a client does it; what it was given."""
    asked = await agent.ask("undo")
    if "undo" not in asked.body:
        return asked.body["status"]
    assert (asked.body["undo"], asked.body["tool"]) == ("free", "book")
    assert asked.attachment is not None
    given = msgpack.unpackb(asked.attachment)
    go = await agent.call("free", key=asked.body["key"], args={"booking": given})
    await agent.outcome(go, result=None)
    return given


async def test_an_agent_is_told_what_to_take_back_newest_first(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    await booked(agent, 1, 2)
    await done_with(agent)
    await compensate(yard)
    assert await names(yard, "ready/") == ["ready/default/r1/2"]
    again = await pod.wire()
    opened = await again.open(None, create=False)
    assert (opened.body["run"], opened.body["undoing"], opened.body["step"]) == ("r1", True, 2)
    assert opened.attachment == b"state"
    assert [await freed(again) for _ in range(3)] == [
        {"booking": 2}, {"booking": 1}, "compensated",
    ]  # fmt: skip
    await until_is(yard, Status.COMPENSATED)
    with pytest.raises(RefusedError, match="fenced"):
        await again.ask("undo")


async def test_an_undo_that_was_asked_for_twice_is_one(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    await booked(agent, 1)
    await done_with(agent)
    await compensate(yard)
    again = await pod.agent()
    first, second = await again.ask("undo"), await again.ask("undo")
    assert first.body == second.body
    go = await again.call("free", key=first.body["key"], args={"booking": 1})
    assert (go.body["decision"], bool(go.body["upstream_key"])) == ("go", True)
    await again.outcome(go, result="ok")
    assert "status" in (await again.ask("undo")).body


async def test_a_life_that_ends_in_the_middle_leaves_a_doubt(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    await booked(agent, 1, 2)
    await done_with(agent)
    await compensate(yard)
    again = await pod.agent()
    assert await freed(again) == {"booking": 2}
    asked = await again.ask("undo")
    go = await again.call("free", key=asked.body["key"], args={"other": "parameter"})
    await again.drop()
    await until(lambda: pod.sidecar.keepers["r1"].agent is None)
    third = await pod.agent()
    with pytest.raises(RefusedError, match=rf"held.*calls \[{go.body['call']}\]"):
        await third.ask("undo")
    await resolve(yard, go.body["call"], "applied")
    await until_is(yard, Status.COMPENSATED)


async def test_an_undo_of_its_own_kind_is_asked_for_again(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    await booked(agent, 1)
    await done_with(agent)
    await compensate(yard)
    again = await pod.agent()
    asked = await again.ask("undo")
    more: dict[str, Any] = {"key": asked.body["key"], "effect": "idempotent"}
    await again.call("free", **more)
    await again.drop()
    await until(lambda: pod.sidecar.keepers["r1"].agent is None)
    third = await pod.agent()
    assert (await third.ask("undo")).body == asked.body
    go = await third.call("free", **more)
    assert (go.body["decision"], go.body["attempt"]) == ("go", 2)
    await third.outcome(go)
    assert "status" in (await third.ask("undo")).body


async def test_sidecars_and_agents_take_turns(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    await charge(at, 1)
    await booked(agent, 1)
    await charge(at, 2)
    await done_with(agent)
    await compensate(yard)

    async def waits() -> bool:
        state = (await yard.log()).state
        return "waits for an agent that has free" in state.reason

    await until(waits)
    assert refunds(far) == [2]
    again = await at.agent()
    assert await freed(again) == {"booking": 1}
    assert refunds(far) == [2]
    assert await freed(again) == "compensated"
    assert refunds(far) == [2, 1]


async def test_an_agent_that_comes_back_late_has_no_part_in_it(yard: Yard, far: Far) -> None:
    """It would commit the step that it was at, and with it goes what is known of the undos."""
    at = await near(yard, tools(far))
    agent = await at.agent()
    await booked(agent, 1)
    await charge(at, 1)
    await compensate(yard)
    await agent.drop()

    async def waits() -> bool:
        return "waits for an agent that has free" in (await yard.log()).state.reason

    await until(waits)
    again = await at.pod.wire(incarnation=agent.incarnation)
    with pytest.raises(RefusedError, match="fenced"):
        await again.open("r1", create=False, resume={"epoch": agent.epoch})
    other = await at.agent()
    assert await freed(other) == {"booking": 1}
    assert await freed(other) == "compensated"
    assert len(refunds(far)) == 1


async def test_an_agent_learns_why_its_run_was_let_go_of(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far, patience_s=0.0))
    agent = await at.agent()
    await charge(at, 1)
    await booked(agent, 1)
    await done_with(agent)
    await compensate(yard)
    again = await at.agent()
    assert await freed(again) == {"booking": 1}
    far.script = [answer(401)]
    with pytest.raises(RefusedError, match="unavailable: run r1 was let go of: undo of call 3"):
        await again.ask("undo")
    await until_is(yard, Status.COMPENSATED)
    assert refunds(far) == [1, 1]


async def test_no_call_but_the_undo_is_made(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    await booked(agent, 1)
    await done_with(agent)
    await compensate(yard)
    again = await at.agent()
    asked = await again.ask("undo")
    with pytest.raises(RefusedError, match="draining"):
        await again.call("book", args={"seat": 2})
    refused = await at.ask("bank/charges", json={"amount": 2})
    assert refused.json["code"] == "draining"
    go = await again.call("free", key=asked.body["key"])
    assert (await at.ask("bank/charges", json={"free": 1})).status == 200  # it may use its tools
    await again.outcome(go)
    assert "status" in (await again.ask("undo")).body


# The client itself


async def take_back(booking: dict[str, int]) -> None:
    FREED.append(booking["seat"])


FREED: list[int] = []


@coatcheck.tool(name="seats", undo=take_back)
async def book(seat: int) -> dict[str, int]:
    return {"seat": seat}


async def socket_of(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> Path:
    pod = await yard.pod()
    monkeypatch.setenv("COATCHECK_SOCKET", str(pod.path))
    return pod.path


async def test_a_client_calls_its_functions(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    await socket_of(yard, monkeypatch)
    FREED.clear()
    async with coatcheck.open_run("r1", schema=1, input={"order": 7}) as run:
        async for step in run.steps():
            for seat in (1, 2):
                await step.tool(book)(seat)
            await step.commit({"n": step.number})
            break
    await compensate(yard)
    async for run in coatcheck.claim_runs(schema=1):
        async with run:
            assert (run.status, run.input, run.state) == ("compensated", {"order": 7}, {"n": 1})
            assert [step async for step in run.steps()] == []
        break
    assert FREED == [2, 1]
    await until_is(yard, Status.COMPENSATED)


async def test_a_client_without_asyncio_does_too(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await socket_of(yard, monkeypatch)
    cancelled = []

    def cancel(booking: dict[str, int]) -> None:
        cancelled.append(booking)

    @sync.tool(effect="idempotent", undo=cancel)
    def reserve(seat: int) -> dict[str, int]:
        return {"seat": seat}

    def work() -> None:
        with sync.open_run("r1", schema=1) as run:
            run.step.tool(reserve)(3)
            run.step.commit({})

    def again() -> str:
        run = sync.open_run("r1", schema=1)
        with run:
            assert not list(run.steps())
        return run.status

    await asyncio.to_thread(work)
    await compensate(yard)
    assert await asyncio.to_thread(again) == "compensated"
    assert cancelled == [{"seat": 3}]


async def test_a_client_without_the_function_says_so(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await socket_of(yard, monkeypatch)
    async with coatcheck.open_run("r1", schema=1) as run:
        await run.step.tool(book, name="other")(1)
        await run.commit({})
    await compensate(yard)
    monkeypatch.delitem(UNDOS, ("other", "take_back"))
    with pytest.raises(coatcheck.Unavailable, match="no tool other with undo=take_back here"):
        async with coatcheck.open_run("r1", schema=1):
            raise AssertionError("it is not to be opened")
    state = (await yard.log()).state
    assert (state.status, state.crashes) == (Status.COMPENSATING, 1)


async def test_an_undo_that_raises_is_in_doubt(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    await socket_of(yard, monkeypatch)

    async def fail(_booking: object) -> None:
        raise RuntimeError("no line")

    async with coatcheck.open_run("r1", schema=1) as run:
        await run.step.tool(book, undo=fail)(1)
        await run.commit({})
    await compensate(yard)
    with pytest.raises(coatcheck.InDoubt, match="no line"):
        async with coatcheck.open_run("r1", schema=1):
            raise AssertionError("it is not to be opened")
    assert (await yard.log()).state.status is Status.HELD
