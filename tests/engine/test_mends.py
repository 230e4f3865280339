"""Whoever takes the advice of a refusal gets on: it names a command, and the command does it."""

import asyncio
import json
import re
from dataclasses import replace
from typing import Any, Literal

import aiohttp
import msgpack
import pytest

import coatcheck
import coatcheck.sync
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.record import Resolved
from coatcheck_sidecar.engine import outside as outside_module
from coatcheck_sidecar.engine.outside import Outside
from tests.engine.harness import FAST, Yard, until
from tests.engine.proxying import Far, Got, answer, near, raw, tool_of

ADVICE = re.compile(r"`coatcheck resolve (\S+) (\d+) --(applied|compensate)( --value JSON)?`")
ANSWER = {"id": "ch_1"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_module, "POLL_S", 0.01)


async def taken(yard: Yard, refused: Got) -> str:
    """The command that the refusal advises, carried out; its verdict."""
    assert refused.status == 424
    advised = ADVICE.search(refused.json["detail"])
    assert advised, refused.json["detail"]
    run, call, verdict, value = advised.groups()
    command = Command(
        id=f"c{call}", run=run, what="resolve", by="ann", call=int(call), verdict=verdict,
        value=msgpack.packb(ANSWER) if value else None,
    )  # fmt: skip
    said = await Outside(yard.store, SystemClock()).command(command, timeout_s=5)
    assert not said.refused
    return verdict


async def test_an_answer_too_big_to_keep_is_given(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far, record_bytes_max=1_024))
    await at.agent()
    far.script = [answer(200, b"[" + b"1," * 1_000 + b"1]")]
    assert (await at.ask("mail/act", json={})).status == 200
    refused = await at.ask("mail/act", json={})
    assert refused.json["reason"] == "response_not_retained"
    await taken(yard, refused)
    got = await at.ask("mail/act", json={})
    assert (got.status, got.decision, got.json) == (200, "replayed", ANSWER)
    assert len(far.seen) == 1


async def test_an_answer_that_was_cut_is_given(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far))
    await at.agent()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    far.script = [raw(head + b'{"n"', and_close=True)]
    with pytest.raises(aiohttp.ClientError):
        await at.ask("mail/x", json={})
    await taken(yard, await at.ask("mail/x", json={}))
    got = await at.ask("mail/x", json={})
    assert (got.status, got.decision, got.json) == (200, "replayed", ANSWER)
    assert len(far.seen) == 1


async def test_what_was_taken_back_by_hand_is_in_nobodys_way(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far))
    agent = await at.agent()
    assert (await at.ask("mail/pay", json={"cents": 5})).status == 200
    await agent.drop()
    await until(lambda: at.pod.sidecar.keepers["r1"].agent is None)
    await at.agent()
    reworded: dict[str, Any] = {"json": {"cents": "five"}}
    refused = await at.ask("mail/pay", **reworded)
    assert refused.json["reason"] == "replay_divergence"
    assert await taken(yard, refused) == "compensate"
    assert (await at.ask("mail/pay", **reworded)).status == 200
    assert [json.loads(seen.body)["cents"] for seen in far.seen] == [5, "five"]
    undone = await at.ask("mail/pay", json={"cents": 5})
    assert (undone.status, undone.json["reason"]) == (424, "compensated")
    assert "a key of its own" in undone.json["detail"]


async def test_of_a_key_whose_step_is_over_it_is_told_that_it_took_place(
    yard: Yard, far: Far
) -> None:
    at = await near(yard, tool_of(far, key="/invoice"))
    agent = await at.agent()
    assert (await at.ask("mail/pay", json={"invoice": 7})).status == 200
    other = await at.ask("mail/pay", json={"invoice": 7, "cents": 1})
    assert (other.status, other.json["reason"]) == (422, "key_used_with_another_request")
    assert "take another key, or ask as before" in other.json["detail"]
    await agent.commit(b"state")
    again = await at.ask("mail/pay", json={"invoice": 7})
    assert (again.status, again.json["reason"]) == (424, "answer_no_longer_kept")
    number = again.json["call"]
    assert f"call {number} took place under this key" in again.json["detail"]
    assert len(far.seen) == 1


@pytest.mark.parametrize("verdict", ["applied", "not_applied"])
async def test_an_agent_decides_for_itself_by_the_sdk(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, verdict: Literal["applied", "not_applied"]
) -> None:
    pod = await yard.pod()
    monkeypatch.setenv("COATCHECK_SOCKET", str(pod.path))
    made: list[int] = []

    @coatcheck.tool(effect="once", show=["/cents"])
    async def charge(cents: int) -> str:
        made.append(cents)
        if len(made) == 1:
            raise OSError("reset")
        return "again"

    async with coatcheck.open_run("r1", schema=1) as run:
        with pytest.raises(coatcheck.InDoubt) as doubt:
            await run.step.tool(charge)(5)
        number = doubt.value.details["call"]
        with pytest.raises(coatcheck.Conflict, match="no_such_call"):
            await run.resolve(99, "applied")
        await run.resolve(number, verdict, value="paid", why="the bank said so", force=True)
        with pytest.raises(coatcheck.Conflict, match="not_in_doubt"):
            await run.resolve(number, "retry")
        value = await run.step.tool(charge)(5)
        events = [record.event for record in (await yard.log()).state.records.values()]
    assert (value, made) == (("paid", [5]) if verdict == "applied" else ("again", [5, 5]))
    (said,) = [event for event in events if isinstance(event, Resolved)]
    assert (said.by, said.why) == ("its agent", "the bank said so")


async def test_an_agent_without_asyncio_decides_for_itself(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await yard.pod(settings=replace(FAST, pause_max_s=30.0))
    monkeypatch.setenv("COATCHECK_SOCKET", str(pod.path))

    @coatcheck.tool(effect="once")
    def charge(cents: int) -> str:
        raise OSError(f"reset: {cents}")

    def work() -> list[str]:
        said = []
        with coatcheck.sync.open_run("r1", schema=1) as run:
            with pytest.raises(coatcheck.InDoubt) as doubt:
                run.step.tool(charge)(5)
            number = doubt.value.details["call"]
            with pytest.raises(coatcheck.Conflict, match="not_settled"):
                run.resolve(number, "not_applied")
            run.resolve(number, "applied", value="paid")
            said.append(run.step.tool(charge)(5))
            run.resolve(number, "compensate", why="paid back")
            with pytest.raises(coatcheck.Held) as held:
                run.step.tool(charge)(5)
            said.append(held.value.details["reason"])
        return said

    assert await asyncio.to_thread(work) == ["paid", "compensated"]
