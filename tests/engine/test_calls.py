"""Tool calls over the wire: decided by the table, recorded, joined, held, probed, resolved."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.model import CallState, Level
from coatcheck_sidecar.engine import outside as outside_module
from coatcheck_sidecar.engine.attempts import Changes
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.ports import Row
from coatcheck_sidecar.stores.memory_journal import MemoryJournal
from tests.engine.harness import FAST, Link, Pod, RefusedError, Wire, Yard, link, until


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_module, "POLL_S", 0.01)


async def again(pod: Pod, agent: Wire) -> Wire:
    """The agent died, and a new one took its run."""
    await agent.drop()
    await until(lambda: pod.sidecar.keepers["r1"].agent is None)
    return await pod.agent()


async def resolve(yard: Yard, call: int, verdict: str, value: Any = None) -> str:
    command = Command(
        id=f"c{call}{verdict}", run="r1", what="resolve", by="ann", call=call, verdict=verdict,
        value=msgpack.packb(value),
    )  # fmt: skip
    return (await Outside(yard.store, SystemClock()).command(command, timeout_s=5)).refused


async def test_a_guarded_call_is_in_the_head_before_it_goes(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    before = SystemClock().boottime()
    go = await agent.call(args={"n": 1})
    assert (await yard.log()).state.calls[go.body["call"]].state is CallState.DISPATCHED
    left_s = go.body["until_boot_s"] - before
    assert 0 < left_s <= FAST.lease_s + 0.1
    assert len(go.body["upstream_key"]) == 36
    await agent.outcome(go, result={"id": 7})
    again_ = await agent.call(args={"n": 1})
    assert (again_.body["decision"], again_.body["kind"]) == ("replay", "result")
    assert msgpack.unpackb(again_.attachment or b"") == {"id": 7}


@pytest.mark.parametrize("effect", ["read", "idempotent", "once"])
async def test_each_effect_once_and_its_answer_again(yard: Yard, effect: str) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    go = await agent.call("ask", effect, args={"q": "?"})
    assert go.body["decision"] == "go"
    assert ("until_boot_s" in go.body) == (effect == "once")
    await agent.outcome(go, result="!")
    agent = await again(pod, agent)
    replayed = await agent.call("ask", effect, args={"q": "?"})
    assert (replayed.body["decision"], replayed.attachment) == ("replay", b"\xa1!")


@pytest.mark.parametrize("effect", ["read", "idempotent"])
async def test_what_does_no_harm_is_sent_again_under_its_key(yard: Yard, effect: str) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    go = await agent.call("ask", effect)
    agent = await again(pod, agent)
    second = await agent.call("ask", effect)
    assert second.body["decision"] == "go"
    assert second.body["upstream_key"] == go.body["upstream_key"]


@pytest.mark.parametrize("effect", ["read", "idempotent", "once"])
async def test_equal_calls_at_once_are_one(yard: Yard, effect: str) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    go = await agent.call("ask", effect, key="k")
    joined = [asyncio.ensure_future(agent.call("ask", effect, key="k")) for _ in range(5)]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in joined)
    await agent.outcome(go, result=1)
    replies = await asyncio.gather(*joined)
    assert {reply.body["decision"] for reply in replies} == {"replay"}


class HeldJournal(MemoryJournal):
    """Keeps rows at once, and says so when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[asyncio.Future[None]] | None = None

    def append(self, rows: Sequence[Row], *, level: Level) -> "asyncio.Future[None]":
        done = super().append(rows, level=level)
        if self.waiting is None:
            return done
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]


async def test_an_answer_is_given_to_nobody_before_it_is_durable(yard: Yard) -> None:
    journal = HeldJournal()
    pod = await yard.pod(journal=journal)
    agent = await pod.agent()
    go = await agent.call("ask", "idempotent", key="k")
    joined = asyncio.ensure_future(agent.call("ask", "idempotent", key="k"))
    await asyncio.sleep(0.02)
    journal.waiting = []
    told = asyncio.ensure_future(agent.outcome(go, result=1))
    await until(lambda: journal.waiting)
    late = asyncio.ensure_future(agent.call("ask", "idempotent", key="k"))
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in (joined, told, late))
    for future in journal.waiting:
        future.set_result(None)
    await told
    assert {(await task).body["decision"] for task in (joined, late)} == {"replay"}


async def test_whoever_joined_goes_first_when_the_first_was_not_applied(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    go = await agent.call(key="k")
    joined = asyncio.ensure_future(agent.call(key="k"))
    await asyncio.sleep(0.02)
    await agent.outcome(go, "not_applied")
    second = await joined
    assert (second.body["decision"], second.body["attempt"]) == ("go", 2)


async def test_a_join_gives_up_in_the_end(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, join_wait_s=0.05))
    agent = await pod.agent()
    await agent.call(key="k")
    with pytest.raises(RefusedError, match="in_flight: an equal call to charge"):
        await agent.call(key="k")


async def test_a_commit_waits_for_guarded_calls_in_flight(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    go = await agent.call()
    for request, body in (
        ("commit", {"step": 1, "level": "node", "schema": 1}),
        ("finish", {"step": 1}),
        ("wait", {"name": "n", "step": 1}),
    ):
        with pytest.raises(RefusedError, match=rf"in_flight: .*charge \(call {go.body['call']}\)"):
            await agent.ask(request, body, b"\xc0")
    await agent.outcome(go, result=1)
    await agent.commit(b"x")


async def test_another_request_under_the_same_key_is_a_conflict(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    go = await agent.call(key="k", args={"n": 1})
    await agent.outcome(go, result=1)
    with pytest.raises(RefusedError, match="conflict"):
        await agent.call(key="k", args={"n": 2})


# Doubt


async def doubted(yard: Yard, pod: Pod, **more: Any) -> tuple[Wire, int]:
    """A call whose agent died before it knew; the next agent."""
    agent = await pod.agent()
    go = await agent.call(args={"n": 1}, **more)
    return await again(pod, agent), go.body["call"]


async def test_a_call_in_doubt_is_held_listed_and_resolved(yard: Yard) -> None:
    pod = await yard.pod()
    agent, number = await doubted(yard, pod)
    with pytest.raises(
        RefusedError, match=rf"in_doubt: charge of run r1.*call {number} charge\(n\)"
    ) as caught:
        await agent.call(args={"n": 1})
    assert [call["call"] for call in caught.value.body["calls"]] == [number]
    with pytest.raises(RefusedError, match=r"held: charge|replay_divergence"):
        await agent.call(args={"n": 2})
    await agent.ask("release", {"reason": "in_doubt", "error": "InDoubt"})
    assert await resolve(yard, number, "applied", "paid") == ""
    agent = await pod.agent()
    replayed = await agent.call(args={"n": 1})
    assert (replayed.body["decision"], replayed.attachment) == ("replay", b"\xa4paid")


async def test_it_is_resolved_under_a_waiting_agent(yard: Yard) -> None:
    pod = await yard.pod()
    agent, number = await doubted(yard, pod)
    assert await resolve(yard, number, "not_applied") == ""
    go = await agent.call(args={"n": 1})
    assert (go.body["decision"], go.body["attempt"]) == ("go", 2)
    assert "in_flight" in await resolve(yard, number, "applied")


async def test_a_decision_is_told_to_nobody_before_it_is_kept(yard: Yard) -> None:
    pod = await yard.pod()
    agent, number = await doubted(yard, pod)
    calls, gate = pod.sidecar.keepers["r1"].log.state.calls, asyncio.Event()

    async def wait(name: str) -> None:
        if calls[number].state is CallState.DONE and name == "runs/r1/head":
            await gate.wait()

    link(yard).before_swap = wait
    async with asyncio.TaskGroup() as group:
        deciding = group.create_task(resolve(yard, number, "applied", "paid"))
        await until(lambda: calls[number].state is CallState.DONE)
        asking = group.create_task(agent.call(args={"n": 1}))
        await asyncio.sleep(0.05)
        assert not asking.done()
        gate.set()
    assert deciding.result() == ""
    assert (asking.result().body["decision"], asking.result().attachment) == ("replay", b"\xa4paid")


async def test_an_outcome_that_comes_late_resolves_it(yard: Yard) -> None:
    """The agent's request was cut; what it was answered comes on its next connection."""
    pod = await yard.pod()
    agent = await pod.agent()
    go = await agent.call()
    await agent.outcome(go, "failed")
    with pytest.raises(RefusedError, match="in_doubt"):
        await agent.call()
    await agent.outcome(go, result="after all")
    assert (await agent.call()).body["decision"] == "replay"


async def test_another_wording_after_a_restart_is_divergence(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    go = await agent.call(args={"n": 1})
    await agent.outcome(go, result=1)
    agent = await again(pod, agent)
    with pytest.raises(RefusedError, match="replay_divergence"):
        await agent.call(args={"n": 2})
    assert (await agent.call(args={"n": 1})).body["decision"] == "replay"


async def test_an_orphan_may_still_be_asked_for(yard: Yard) -> None:
    """Calls of a step come at once, in any order: the new one waits for the recorded one."""
    pod = await yard.pod(settings=replace(FAST, orphan_wait_s=5.0))
    agent = await pod.agent()
    go = await agent.call(args={"n": 1})
    await agent.outcome(go, result=1)
    agent = await again(pod, agent)
    other = asyncio.ensure_future(agent.call(args={"n": 2}))
    await asyncio.sleep(0.05)
    assert not other.done()
    assert (await agent.call(args={"n": 1})).body["decision"] == "replay"
    assert (await other).body["decision"] == "go"


@pytest.mark.parametrize("wait_s", [0.0, 0.6])
async def test_it_waits_for_an_orphan_as_long_as_it_is_told_to(yard: Yard, wait_s: float) -> None:
    pod = await yard.pod(settings=replace(FAST, orphan_wait_s=wait_s))
    agent = await pod.agent()
    await agent.outcome(await agent.call(args={"n": 1}), result=1)
    agent = await again(pod, agent)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    with pytest.raises(RefusedError, match="replay_divergence"):
        await agent.call(args={"n": 2})
    assert wait_s <= loop.time() - began_s < wait_s + 3.0


# Probes


async def probed(agent: Wire, probe: Any, *, applied: bool, value: Any = None) -> Any:
    body = {"call": probe.body["call"], "attempt": probe.body["attempt"], "applied": applied}
    return await agent.ask("probed", body, msgpack.packb(value) if applied else None)


async def test_a_probe_that_finds_the_call(yard: Yard) -> None:
    pod = await yard.pod()
    agent, _ = await doubted(yard, pod, probe=True)
    probe = await agent.call(args={"n": 1}, probe=True)
    assert probe.body["decision"] == "probe"
    found = await probed(agent, probe, applied=True, value="ch_1")
    assert (found.body["decision"], found.attachment) == ("replay", b"\xa4ch_1")
    again = await probed(agent, probe, applied=True, value="ch_2")
    assert (again.body["decision"], again.attachment) == ("replay", b"\xa4ch_1")


async def test_a_no_counts_once_it_has_settled(yard: Yard) -> None:
    pod = await yard.pod()
    agent, _ = await doubted(yard, pod, probe=True, settle_s=0.15)
    asked: dict[str, Any] = {"args": {"n": 1}, "probe": True, "settle_s": 0.15}
    probe = await agent.call(**asked)
    began = asyncio.get_running_loop().time()
    answer = await probed(agent, probe, applied=False)
    while answer.body["decision"] == "probe":
        answer = await probed(agent, answer, applied=False)
    assert (answer.body["decision"], answer.body["attempt"]) == ("go", 2)
    assert asyncio.get_running_loop().time() - began >= 0.1


async def test_a_no_of_a_tool_without_settle_time_proves_nothing(yard: Yard) -> None:
    pod = await yard.pod()
    agent, number = await doubted(yard, pod, probe=True)
    probe = await agent.call(args={"n": 1}, probe=True)
    with pytest.raises(RefusedError, match=rf"in_doubt.*not_settled.*call {number}"):
        await probed(agent, probe, applied=False)


async def test_a_key_that_lives_lets_the_call_be_sent_again(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    kept: dict[str, Any] = {"effect": "idempotent", "key_lifetime_s": 86_400.0}
    short: dict[str, Any] = {"effect": "idempotent", "key_lifetime_s": 60.1}
    first = await agent.call("pay", **kept)
    await agent.call("brief", **short)
    agent = await again(pod, agent)
    second = await agent.call("pay", **kept)
    assert second.body["upstream_key"] == first.body["upstream_key"]
    await asyncio.sleep(0.12)
    with pytest.raises(RefusedError, match=r"in_doubt.*key_expired"):
        await agent.call("brief", **short)


# Keys and steps


async def test_a_settled_key_is_known_for_the_runs_life(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    go = await agent.call(business="/invoice", args={"invoice": 4711})
    await agent.outcome(go, result=1)
    await agent.commit(b"x")
    with pytest.raises(RefusedError, match=r"held.*answer_no_longer_kept"):
        await agent.call(business="/invoice", args={"invoice": 4711})
    with pytest.raises(RefusedError, match="conflict"):
        await agent.call(business="/invoice", args={"invoice": 4711, "sum": 3})
    assert (await agent.call(business="/invoice", args={"invoice": 4712})).body["decision"] == "go"


async def test_big_answers_survive_a_move_to_another_pod(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    for number in range(30):
        go = await agent.call("ask", "idempotent", args={"n": number})
        await agent.outcome(go, result="x" * (3_000 + 300 * number))
    await agent.release()
    other = await yard.pod("pod2.s1")
    agent = await other.agent()
    for number in (0, 15, 29):
        reply = await agent.call("ask", "idempotent", args={"n": number})
        assert msgpack.unpackb(reply.attachment or b"") == "x" * (3_000 + 300 * number)


async def test_a_hang_up_before_the_go_takes_the_call_back(yard: Yard) -> None:
    """Nobody was told to make it: it is no doubt."""
    pod = await yard.pod()
    agent = await pod.agent()
    assert isinstance(yard.store, Link)
    yard.store.is_away = True
    agent.send("call", {"step": 1, "tool": "t", "effect": "once", "identity": "content"}, b"\x80")
    await asyncio.sleep(0.05)
    await agent.drop()
    await until(lambda: pod.sidecar.keepers["r1"].agent is None)
    yard.store.is_away = False
    agent = await pod.agent(wait_s=5.0)
    assert not (await yard.log()).state.in_doubt
    go = await agent.ask(
        "call", {"step": 1, "tool": "t", "effect": "once", "identity": "content"}, b"\x80"
    )
    assert go.body["decision"] == "go"


async def test_an_answer_waits_for_all_records_of_its_call_that_are_on_their_way() -> None:
    changes = Changes()
    with ExitStack() as stack:
        with changes.writing(7):
            stack.enter_context(changes.writing(7))
            kept = asyncio.ensure_future(changes.kept(7, within_s=5.0))
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert not kept.done()
    await kept
    assert not changes.unkept
