"""What agents do while a call is under way: hang up, ask again, wait, die, commit, take over."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core import call
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.model import Effect
from coatcheck_sidecar.core.tool import UpstreamKey
from coatcheck_sidecar.engine import outside as outside_module
from coatcheck_sidecar.engine.late import Late
from coatcheck_sidecar.engine.outside import Outside
from tests.engine.harness import FAST, Yard, until
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

KEYED: dict[str, Any] = {"effect": Effect.IDEMPOTENT, "upstream_key": UpstreamKey()}
RECORDED: dict[str, Any] = {"effect": Effect.READ, "record": True}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "RETRY_DELAY_S", 0.01)
    monkeypatch.setattr(outside_module, "POLL_S", 0.01)


async def hang_up(at: Near, path: str, far: Far, **more: Any) -> None:
    """Ask, and leave as soon as the upstream has the request."""
    before = len(far.seen)
    asking = asyncio.ensure_future(at.ask(path, **more))
    await until(lambda: len(far.seen) > before)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


@pytest.mark.parametrize("tool", [RECORDED, KEYED, {}])
async def test_an_answer_that_nobody_waited_for_serves_the_next_asking(
    yard: Yard, far: Far, tool: dict[str, Any]
) -> None:
    at = await near(yard, tool_of(far, **tool))
    await at.agent()
    opened, late = gate(answer(200, b'{"late":1}'))
    far.script = [late]
    await hang_up(at, "mail/x", far, json={"q": 1})
    asking = asyncio.ensure_future(at.ask("mail/x", json={"q": 1}))
    await asyncio.sleep(0.05)
    opened.set()
    got = await asking
    assert (got.json, got.decision) == ({"late": 1}, "joined")
    assert len(far.seen) == 1


async def test_an_answer_is_drained_after_the_agent_hung_up(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far, **RECORDED))
    await at.agent()
    opened = asyncio.Event()

    async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        await stream(writer, b"data: 1\n\n", b"data: 2\n\n", end=False)
        await opened.wait()
        await stream(writer, b"data: 3\n\n")

    far.script = [behave]
    async with at.session.post(at.urls["r1"] + "/mail/x", json={}) as response:
        assert await response.content.readany() == b"data: 1\n\n"
        response.close()
    await asyncio.sleep(0.05)
    opened.set()
    await until(lambda: at.pod.notes.of("exchange"))
    got = await at.ask("mail/x", json={})
    assert (got.body, got.decision) == (b"data: 1\n\ndata: 2\n\ndata: 3\n\n", "replayed")
    assert len(far.seen) == 1


async def test_a_stream_that_never_ends_is_not_drained_for_ever(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far, record_bytes_max=2_000, **RECORDED))
    await at.agent()
    ended = asyncio.Event()

    async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        try:
            while not writer.is_closing():
                await stream(writer, b"data: %s\n\n" % (b"x" * 500), end=False)
        finally:
            ended.set()

    far.script = [behave]
    async with at.session.post(at.urls["r1"] + "/mail/x", json={}) as response:
        await response.content.readany()
        response.close()
    async with asyncio.timeout(5):
        await ended.wait()


async def test_a_passed_read_ends_with_its_agent(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far, effect=Effect.READ))
    await at.agent()
    is_closed = asyncio.Event()

    async def behave(seen: Seen, _writer: asyncio.StreamWriter) -> None:
        assert await seen.reader.read() == b""
        is_closed.set()

    far.script = [behave]
    await hang_up(at, "mail/x", far)
    async with asyncio.timeout(5):
        await is_closed.wait()


async def test_a_key_with_another_request_is_422(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far))
    await at.agent()
    headers = {"Coatcheck-Key": "k"}
    await at.ask("mail/x", json={"a": 1}, headers=headers)
    got = await at.ask("mail/x", json={"a": 2}, headers=headers)
    assert (got.status, got.json["reason"]) == (422, "key_used_with_another_request")
    assert got.headers["x-should-retry"] == "false"
    assert len(far.seen) == 1
    same = await at.ask("mail/x", data=b'{ "a" : 1 }', headers=headers | JSON_TYPE)
    assert same.decision == "replayed"


JSON_TYPE = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "tool"),
    [
        ({"Idempotency-Key": "same"}, KEYED),
        ({"x-stainless-retry-count": "1"}, KEYED),
        ({"amz-sdk-request": "attempt=2; max=3"}, KEYED),
        ({"Idempotency-Key": "same"}, KEYED | {"trust_key": True}),
    ],
)
async def test_marks_of_a_retry_name_the_same_call(
    yard: Yard, far: Far, headers: dict[str, str], tool: dict[str, Any]
) -> None:
    at = await near(yard, tool_of(far, **tool))
    await at.agent()
    first = {} if "Idempotency-Key" not in headers else headers
    await at.ask("mail/x", json={}, headers=first)
    got = await at.ask("mail/x", json={}, headers=headers)
    assert got.decision == "replayed"
    assert len(far.seen) == 1
    other = await at.ask("mail/x", json={})
    assert other.decision == "sent"


async def test_a_business_key_tells_calls_apart(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far, key="/invoice"))
    await at.agent()
    far.script = [reset]
    held = await at.ask("mail/x", json={"invoice": 1})
    assert held.status == 424
    other = await at.ask("mail/x", data="invoice=2&amount=3", headers=FORM)
    assert (other.status, other.decision) == (200, "sent")
    same = await at.ask("mail/x", json={"invoice": 1, "note": "worded otherwise"})
    assert (same.status, same.json["reason"]) == (422, "key_used_with_another_request")
    assert len(far.seen) == 2


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize("header", ["Prefer", "Coatcheck-Wait"])
async def test_an_agent_can_wait_for_a_decision(yard: Yard, far: Far, header: str) -> None:
    at = await near(yard, tool_of(far))
    await at.agent()
    far.script = [reset]
    said = {header: "wait=20" if header == "Prefer" else "20"}
    asking = asyncio.ensure_future(at.ask("mail/x", json={}, headers=said))
    await until(lambda: at.pod.sidecar.keepers["r1"].log.state.in_doubt)
    (number,) = at.pod.sidecar.keepers["r1"].log.state.calls
    value = b"\x81\xa2id\x07"
    command = Command(
        id="c1", run="r1", what="resolve", by="ann", call=number, verdict="applied", value=value
    )
    assert not (await Outside(yard.store, SystemClock()).command(command, timeout_s=5)).refused
    got = await asking
    assert (got.status, got.json, got.decision) == (200, {"id": 7}, "replayed")
    assert len(far.seen) == 1


async def test_waiting_for_a_decision_ends(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far))
    await at.agent()
    far.script = [reset]
    got = await at.ask("mail/x", json={}, headers={"Coatcheck-Wait": "0.2"})
    assert (got.status, got.json["code"]) == (424, "in_doubt")


@pytest.mark.parametrize("tool", [RECORDED, {}])
async def test_a_new_agent_joins_what_its_predecessor_sent(
    yard: Yard, far: Far, tool: dict[str, Any]
) -> None:
    at = await near(yard, tool_of(far, **tool))
    agent = await at.agent()
    opened, late = gate(answer(200, b'{"late":1}'))
    far.script = [late]
    await hang_up(at, "mail/x", far, json={})
    old = at.urls["r1"]
    await agent.drop()
    await until(lambda: at.pod.sidecar.keepers["r1"].agent is None)
    agent = await at.agent()
    asking = asyncio.ensure_future(at.ask("mail/x", json={}))
    await asyncio.sleep(0.05)
    opened.set()
    got = await asking
    assert (got.status, got.json, got.decision) == (200, {"late": 1}, "joined")
    assert len(far.seen) == 1
    stale = await at.ask("mail/x", url=old, json={})
    assert (stale.status, stale.json["code"]) == (410, "fenced")


async def test_an_agent_that_reconnects_joins_the_read_that_it_hung_up_on(
    yard: Yard, far: Far
) -> None:
    at = await near(yard, tool_of(far, **RECORDED))
    agent = await at.agent()
    opened, late = gate(answer(200, b'{"late":1}'))
    far.script = [late]
    await hang_up(at, "mail/x", far, json={})
    incarnation, epoch = agent.incarnation, agent.epoch
    await agent.drop()
    await at.agent(incarnation=incarnation, resume={"epoch": epoch, "calls": {}})
    asking = asyncio.ensure_future(at.ask("mail/x", json={}))
    await asyncio.sleep(0.05)
    opened.set()
    got = await asking
    assert (got.json, got.decision, len(far.seen)) == ({"late": 1}, "joined", 1)


async def test_an_agent_that_reconnects_has_its_calls_in_flight(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far))
    agent = await at.agent()
    opened, late = gate(answer(200, b'{"late":1}'))
    far.script = [late]
    asking = asyncio.ensure_future(at.ask("mail/x", json={}))
    await until(lambda: far.seen)
    incarnation, epoch = agent.incarnation, agent.epoch
    await agent.drop()
    agent = await at.agent(incarnation=incarnation, resume={"epoch": epoch, "calls": {}})
    second = asyncio.ensure_future(at.ask("mail/x", json={}))
    await asyncio.sleep(0.05)
    opened.set()
    got = await asyncio.gather(asking, second)
    assert [one.decision for one in got] == ["sent", "joined"]
    assert len(far.seen) == 1


async def test_a_read_that_outlives_its_step_is_answered(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far, **RECORDED))
    agent = await at.agent()
    opened, late = gate(answer(200, b'{"late":1}'))
    far.script = [late]
    asking = asyncio.ensure_future(at.ask("mail/x", json={}))
    await until(lambda: far.seen)
    await agent.commit()
    opened.set()
    assert (await asking).json == {"late": 1}


async def test_another_pod_replays_what_this_one_recorded(yard: Yard, far: Far) -> None:
    big = json.dumps({"text": "x" * 20_000}).encode()
    at = await near(yard, tool_of(far, **RECORDED))
    agent = await at.agent()
    far.script = [answer(200, big)]
    first = await at.ask("mail/x", json={})
    await agent.release()
    await agent.drop()
    await at.die()
    at = await near(yard, tool_of(far, **RECORDED), me="pod2.s1")
    agent = await at.agent()
    got = await at.ask("mail/x", json={})
    assert (got.decision, got.body) == ("replayed", first.body)
    assert len(far.seen) == 1


async def test_an_upstream_that_is_not_there_yet(yard: Yard, far: Far) -> None:
    gone = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = gone.sockets[0].getsockname()[1]
    gone.close()
    await gone.wait_closed()
    upstream = f"http://127.0.0.1:{port}"
    at = await near(yard, tool_of(far, upstream=upstream, patience_s=0.3))
    await at.agent()
    got = await at.ask("mail/x", json={})
    assert (got.status, got.json["reason"], got.decision) == (502, "not_sent", "refused")
    assert "Retry-After" in got.headers
    server = await asyncio.start_server(far.serve, "127.0.0.1", port)
    got = await at.ask("mail/x", json={})
    assert (got.status, got.decision, len(far.seen)) == (200, "sent", 1)
    server.close()


async def test_a_full_queue_says_when_to_come_back(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far, concurrency=1, queue_max=1, **KEYED))
    await at.agent()
    opened, late = gate(answer(200))
    far.script = [late]
    asked = [asyncio.ensure_future(at.ask("mail/x", json={"n": n})) for n in range(2)]
    await until(lambda: far.seen)
    await asyncio.sleep(0.05)
    full = await at.ask("mail/x", json={"n": 2})
    assert (full.status, full.json["reason"]) == (503, "queue_full")
    assert full.headers["Retry-After"] == "1"
    opened.set()
    assert {got.status for got in await asyncio.gather(*asked)} == {200}
    again = await at.ask("mail/x", json={"n": 2})
    assert again.decision == "sent"
    keys = [c.key for c in at.pod.sidecar.keepers["r1"].log.state.calls.values()]
    assert all(key.endswith(":1") for key in keys)
    assert len(far.seen) == 3


@pytest.mark.parametrize("tool", [KEYED, RECORDED])
async def test_an_agent_that_vanished_before_the_send_sends_nothing(
    yard: Yard, far: Far, tool: dict[str, Any]
) -> None:
    at = await near(yard, tool_of(far, concurrency=1, **tool))
    await at.agent()
    opened, late = gate(answer(200))
    far.script = [late]
    first = asyncio.ensure_future(at.ask("mail/x", json={"n": 1}))
    await until(lambda: far.seen)
    second = asyncio.ensure_future(at.ask("mail/x", json={"n": 2}))
    await asyncio.sleep(0.05)
    second.cancel()
    await asyncio.sleep(0.05)
    opened.set()
    await first
    await until(lambda: len(at.pod.notes.of("exchange")) == 2)
    assert len(far.seen) == 1
    async with asyncio.timeout(5):
        third = await at.ask("mail/x", json={"n": 2})
    assert (third.decision, len(far.seen)) == ("sent", 2)


async def test_a_run_that_is_over_has_no_tools(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far))
    agent = await at.agent()
    await agent.finish()
    got = await at.ask("mail/x", json={})
    assert (got.status, got.json["code"]) == (410, "fenced")
    assert not far.seen


async def test_a_cut_pass_through_is_cut_for_the_agent(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far, effect=Effect.READ))
    await at.agent()

    async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        await stream(writer, b"data: 1\n\n", end=False)
        writer.close()

    far.script = [behave]
    with pytest.raises(aiohttp.ClientPayloadError):
        await at.ask("mail/x")
    assert (await at.ask("mail/x")).status == 200


async def test_what_comes_after_its_run_was_let_go_of_resolves_a_call(yard: Yard, far: Far) -> None:
    at, other = await near(yard, tool_of(far)), await near(yard, tool_of(far), me="pod2.s1")
    outside = Outside(yard.store, SystemClock(), settings=FAST)
    at.exchange.on_late = Late(outside, tasks=at.pod.sidecar.tasks).tell
    await at.agent()
    opened, late = gate(answer(201, b"sent", "Content-Type: text/plain"))
    far.script = [late]
    asking = asyncio.ensure_future(at.ask("mail/x", json={"q": 1}))
    await until(lambda: far.seen)
    at.pod.sidecar.drain.begin("preStop", grace_s=0.0)
    await at.pod.sidecar.drain.finish()
    assert len((await yard.log()).state.in_doubt) == 1
    await other.agent(wait_s=2.0)
    opened.set()
    assert (await asking).status == 410
    await until(lambda: at.pod.notes.of("late_outcome"))
    assert [note["refused"] for note in at.pod.notes.of("late_outcome")] == [""]
    got = await other.ask("mail/x", json={"q": 1})
    assert (got.status, got.body, got.decision) == (201, b"sent", "replayed")
    assert got.headers["Content-Type"] == "text/plain"
    assert len(far.seen) == 1
