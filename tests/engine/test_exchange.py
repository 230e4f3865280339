"""Routes end to end: what is passed on, recorded, replayed, joined, held."""

import asyncio
from typing import Any

import aiohttp
import pytest

from coatcheck_sidecar.core import call
from coatcheck_sidecar.core.model import CallState, Effect
from coatcheck_sidecar.core.tool import UpstreamKey
from coatcheck_sidecar.engine import calls
from coatcheck_sidecar.stores.memory_journal import MemoryJournal
from tests.engine.harness import Yard, until
from tests.engine.proxying import (
    STREAM_HEAD,
    Far,
    Near,
    Seen,
    answer,
    gate,
    near,
    reset,
    stream,
    tool_of,
)


async def test_a_read_is_passed_on_and_forgotten(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far))
    await at.agent()
    seq = (await yard.log()).state.seq
    for n in (1, 2):
        got = await at.ask("mail/list?a=1&b=%20", method="GET", headers={"X-Mine": "1"})
        assert (got.status, got.json, got.decision) == (200, {"n": n}, "sent")
    assert far.seen[0].path == "/base/list?a=1&b=%20"
    assert far.seen[0].headers["x-mine"] == "1"
    assert far.seen[0].headers["host"] == f"127.0.0.1:{far.port}"
    assert (await yard.log()).state.seq == seq


async def test_a_recorded_read_is_given_again_to_the_next_agent(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far, effect=Effect.READ, record=True))
    agent = await at.agent()
    first = await at.ask("mail/chat", json={"q": 1})
    other = await at.ask("mail/chat", json={"q": 1})
    assert (first.json, other.json) == ({"n": 1}, {"n": 2})
    agent = await again(at, agent)
    for n in (1, 2):
        replayed = await at.ask("mail/chat", json={"q": 1})
        assert (replayed.status, replayed.json, replayed.decision) == (200, {"n": n}, "replayed")
    assert len(far.seen) == 2


async def again(at: Near, agent: Any) -> Any:
    """The agent died, and a new one took its run."""
    await agent.drop()
    await until(lambda: at.pod.sidecar.keepers["r1"].agent is None)
    return await at.agent()


async def test_a_once_call_is_sent_once(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far))
    agent = await at.agent()
    first = await at.ask("mail/send", json={"to": "a"})
    second = await at.ask("mail/send", json={"to": "a"})
    assert (first.decision, second.decision) == ("sent", "replayed")
    assert first.body == second.body
    agent = await again(at, agent)
    third = await at.ask("mail/send", json={"to": "a"})
    assert (third.decision, third.json) == ("replayed", {"n": 1})
    assert len(far.seen) == 1
    assert far.seen[0].headers["connection"] == "close"


async def test_what_got_lost_is_held_with_424(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far))
    await at.agent()
    far.script = [reset]
    for _ in range(2):
        got = await at.ask("mail/send", json={"to": "a"})
        assert (got.status, got.json["code"], got.decision) == (424, "in_doubt", "held")
        assert got.headers["x-should-retry"] == "false"
        assert got.headers["Stripe-Should-Retry"] == "false"
        assert got.json["tool"] == "mail"
        assert got.json["call"] > 0
        assert got.json["first_sent_ms"] > 0
    assert len(far.seen) == 1
    other = await at.ask("mail/send", json={"to": "in other words"})
    assert (other.status, other.json["reason"]) == (424, "unresolved_predecessor")
    assert len(far.seen) == 1


async def test_requests_that_wait_for_a_decision_rest(
    yard: Yard, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They don't wake each other: nothing became of their calls."""
    at = await near(yard, tool_of(far))
    agent = await at.agent()
    far.script = [reset]
    await at.ask("mail/send", json={"to": "a"})
    decisions = []

    def decide(*args: Any, **more: Any) -> Any:
        decisions.append(args)
        return call.decide(*args, **more)

    monkeypatch.setattr(calls, "decide", decide)
    waiting = {"Coatcheck-Wait": "0.3"}
    asked = [at.ask("mail/send", json={"to": "a"}, headers=waiting) for _ in range(3)]
    assert [got.status for got in await asyncio.gather(*asked)] == [424] * 3
    assert len(decisions) < 20
    await agent.drop()
    await at.die()


async def test_a_keyed_call_is_sent_again_under_one_key(yard: Yard, far: Far) -> None:
    key = UpstreamKey(prefix="cc-")
    at = await near(yard, tool_of(far, effect=Effect.IDEMPOTENT, upstream_key=key))
    await at.agent()
    far.script = [reset]
    got = await at.ask("mail/send", json={"to": "a"}, headers={"Idempotency-Key": "random"})
    assert (got.status, got.json) == (200, {"n": 2})
    keys = {seen.headers["idempotency-key"] for seen in far.seen}
    assert len(keys) == 1
    assert keys.pop().startswith("cc-")


async def test_equal_calls_at_once_are_joined(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far))
    await at.agent()
    opened, slow = gate(answer(200, b'{"ok":1}'))
    far.script = [slow]
    asked = [asyncio.ensure_future(at.ask("mail/send", json={"to": "a"})) for _ in range(3)]
    await until(lambda: far.seen)
    await asyncio.sleep(0.05)
    opened.set()
    got = await asyncio.gather(*asked)
    assert sorted(one.decision for one in got) == ["joined", "joined", "sent"]
    assert {one.body for one in got} == {b'{"ok":1}'}
    assert len(far.seen) == 1


async def test_a_stream_is_replayed_with_its_events(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far, effect=Effect.READ, record=True))
    agent = await at.agent()
    events = [b'data: {"n": %d}\n\n' % n for n in range(5)] + [b"data: [DONE]\n\n"]

    async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        await stream(writer, *events)

    far.script = [behave]
    got = await at.ask("mail/chat", json={})
    assert got.body == b"".join(events)
    agent = await again(at, agent)
    async with at.session.post(at.urls["r1"] + "/mail/chat", json={}) as response:
        assert response.headers["Coatcheck-Decision"] == "replayed"
        pieces = [chunk async for chunk, is_end in response.content.iter_chunks() if is_end]
    assert pieces == events


@pytest.mark.parametrize("behind", [b"", b": ping\n\n", b"\n\n: ping\n\n\n", b"id: 7\n\n: "])
async def test_the_end_waits_for_the_record(yard: Yard, far: Far, behind: bytes) -> None:
    """The sidecar that dies before it recorded has not shown an answer that looks complete."""
    at = await near(yard, tool_of(far, effect=Effect.READ, record=True))
    await at.agent()
    opened = asyncio.Event()

    async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        await stream(
            writer, b"data: 1\n\n", b"data: [DONE]\n\n", *filter(None, [behind]), end=False
        )
        await opened.wait()
        await stream(writer)

    far.script = [behave]
    async with at.session.post(at.urls["r1"] + "/mail/chat", json={}) as response:
        assert await response.content.readany() == b"data: 1\n\n"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await response.content.readany()
        opened.set()
        assert await response.content.read() == b"data: [DONE]\n\n" + behind


async def test_a_restarted_sidecar_goes_on(yard: Yard, far: Far) -> None:
    journal = MemoryJournal()
    at = await near(yard, tool_of(far), journal=journal)
    agent = await at.agent()
    incarnation, url = agent.incarnation, at.urls["r1"]
    opened, slow = gate(answer(200))
    asked = await at.ask("mail/send", json={"to": "a"})
    far.script = [slow]
    flying = asyncio.ensure_future(at.ask("mail/send", json={"to": "b"}))
    await until(lambda: len(far.seen) == 2)
    epoch = agent.epoch
    await at.die()
    with pytest.raises((aiohttp.ClientError, RuntimeError)):
        await flying
    opened.set()
    at = await near(yard, tool_of(far), journal=journal, me="pod1.s2")
    agent = await at.agent(incarnation=incarnation, resume={"epoch": epoch, "calls": {}})
    assert at.urls["r1"].rpartition("/")[2] == url.rpartition("/")[2]
    got = await at.ask("mail/send", json={"to": "b"})
    assert (got.status, got.json["reason"]) == (424, "restarted")
    same = await at.ask("mail/send", json={"to": "a"})
    assert (same.decision, same.body) == ("replayed", asked.body)
    assert len(far.seen) == 2
    call = next(iter(at.pod.sidecar.keepers["r1"].log.state.calls.values()))
    assert call.state is CallState.DONE
