"""MCP over HTTP, by scripted servers: what passes, what is recorded, what a model is told."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import aiohttp
import msgpack
import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.model import CallState, Effect
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine import mcp_upstream
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.servers import mcp as server
from tests.engine.harness import Yard, until
from tests.engine.mcp_far import PING, asking, call_of, event, known_of, response, streamed, tools
from tests.engine.proxying import (
    STREAM_HEAD,
    Behaviour,
    Far,
    Seen,
    answer,
    far_server,
    gate,
    near,
    reset,
    stream,
)


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    async with far_server() as made:
        yield made


async def test_all_else_passes_as_it_is(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    far.script = [answer(202, b"", "Mcp-Session-Id: s1"), answer(405, b"no")]
    said = b'{"jsonrpc":"2.0" , "method":"notifications/initialized"}'
    got = await at.ask("shop", data=said, headers={"Mcp-Session-Id": "s1", "Coatcheck-Key": "k"})
    assert (got.status, got.headers["Mcp-Session-Id"], got.decision) == (202, "s1", "")
    assert far.seen[0].body == said
    assert far.seen[0].path == "/mcp?k=1"
    assert far.seen[0].headers["mcp-session-id"] == "s1"
    assert "coatcheck-key" not in far.seen[0].headers
    got = await at.ask("shop/more?a=%20b", method="DELETE")
    assert (got.status, got.body) == (405, b"no")
    assert far.seen[1].path == "/mcp/more?k=1&a=%20b"
    await agent.drop()
    await at.die()


async def test_a_call_is_made_once_and_given_to_the_next_agent(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    far.script = [answer(200, response())]
    first = await call_of(at)
    assert (first.decision, first.body) == ("sent", response())
    assert [call.tool for call in (await yard.log()).state.calls.values()] == ["shop/charge"]
    await agent.drop()
    again = await at.agent(incarnation=b"2" * 16)
    got = await call_of(at, "new id")
    assert (got.status, got.decision, got.body) == (200, "replayed", response("new id"))
    assert len(far.seen) == 1
    await again.drop()
    await at.die()


async def test_what_a_stream_says_first_goes_out_at_once_and_into_no_record(
    yard: Yard, far: Far
) -> None:
    """The server waits for the client's answer to what it asks in its stream."""
    at = await near(yard, tools(far))
    agent = await at.agent()
    question = event(b'{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage"}')
    last = b"event: message\r\ndata:" + response() + b"\r\n\r\n"
    answered = asyncio.Event()

    async def ask(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        await stream(writer, question, end=False)
        await answered.wait()
        await stream(writer, last)

    far.script = [ask]
    async with at.session.post(f"{at.urls['r1']}/shop", json=asking()) as got:
        assert await got.content.readuntil(b"\n\n") == question
        answered.set()
        assert await got.read() == last
    await agent.drop()
    again = await at.agent(incarnation=b"2" * 16)
    later = await call_of(at, 9)
    assert (later.headers["Content-Type"], later.body) == ("application/json", response(9))
    await again.drop()
    await at.die()


async def test_a_stream_that_ends_without_the_answer_is_doubt(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    far.script = [streamed(event(b'{"method":"notifications/progress"}'))]
    known = known_of(await call_of(at))
    assert (known["outcome"], known["tool"]) == ("unknown", "charge")
    known = known_of(await call_of(at, 2))
    assert (known["outcome"], known["reason"]) == ("unknown", "lost")
    held = known_of(await call_of(at, 3, arguments={"invoice": "A"}))
    assert (held["outcome"], held["reason"]) == ("held", "unresolved_predecessor")
    assert len(far.seen) == 1
    await agent.drop()
    await at.die()


@pytest.mark.parametrize(
    "cut",
    [
        reset,
        answer(202, b""),
        streamed(event(response(2)), end=False),
        streamed(b"data: " + response(), end=False),
    ],
)
async def test_what_is_no_answer(yard: Yard, far: Far, cut: Behaviour) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    far.script = [cut]
    assert known_of(await call_of(at))["outcome"] == "unknown"
    await agent.drop()
    await at.die()


async def test_an_answer_that_is_too_long(
    yard: Yard, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_upstream, "ANSWER_BYTES_MAX", 10)
    at = await near(yard, tools(far))
    agent = await at.agent()
    far.script = [answer(200, response()), streamed(b"data: " + response())]
    assert known_of(await call_of(at))["outcome"] == "unknown"
    assert known_of(await call_of(at, 1, "other"))["outcome"] == "unknown"
    await agent.drop()
    await at.die()


@pytest.mark.parametrize("status", [307, 400, 404, 409, 415])
async def test_a_refused_message_is_no_outcome(yard: Yard, far: Far, status: int) -> None:
    """A session that is over, a header that does not fit: no tool was called."""
    at = await near(yard, tools(far))
    agent = await at.agent()
    body = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"no"}}'
    far.script = [answer(status, body), answer(200, response(2))]
    got = await call_of(at)
    assert (got.status, got.body) == (status, body)
    assert (await call_of(at, 2)).body == response(2)
    await agent.drop()
    await at.die()


async def test_a_read_is_asked_for_again_when_its_answer_is_lost(yard: Yard, far: Far) -> None:
    """The agent's stream goes on meanwhile."""
    at = await near(yard, tools(far, effects={"look": Effect.READ}))
    agent = await at.agent()
    progress = event(b'{"method":"notifications/progress"}')
    far.script = [streamed(progress, end=False), answer(200, response())]
    got = await call_of(at, 1, "look")
    assert len(far.seen) in (1, 2)
    assert got.body.startswith(progress)
    await agent.drop()
    await at.die()


async def test_hints_count_where_they_are_trusted(yard: Yard, far: Far) -> None:
    listing = [{"name": "look", "annotations": {"readOnlyHint": True}, "outputSchema": {}}]
    listed = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": listing}}).encode()
    at = await near(yard, tools(far, trust_hints=True))
    agent = await at.agent()
    far.script = [answer(200, listed), streamed(event(listed))]
    for _ in range(2):
        got = await at.ask("shop", json=PING | {"method": "tools/list"})
        assert listed in got.body
    assert far.seen[0].headers["accept-encoding"] == "identity"
    far.script = [answer(200, response(n)) for n in (1, 2)]
    for n in (1, 2):
        assert (await call_of(at, n, "look")).body == response(n)
    assert not (await yard.log()).state.calls
    await agent.drop()
    await at.die()


async def test_a_long_list_passes_unread(
    yard: Yard, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LIST_BYTES_MAX", 10)
    at = await near(yard, tools(far))
    agent = await at.agent()
    far.script = [answer(200, b"x" * 1000), streamed(b"data: " + b"x" * 1000)]
    for _ in range(2):
        assert b"x" * 1000 in (await at.ask("shop", json=PING | {"method": "tools/list"})).body
    await agent.drop()
    await at.die()


async def test_keys_and_legs(yard: Yard, far: Far) -> None:
    """Input makes another leg of the call; the same key with other arguments is a mistake."""
    at = await near(yard, tools(far))
    agent = await at.agent()
    meta = {"dev.coatcheck/key": "order-1"}
    far.script = [answer(200, response(resultType="input_required")), answer(200, response())]
    first = await call_of(at, _meta=meta)
    assert b"input_required" in first.body
    more = {"inputResponses": {"q": {"action": "accept"}}, "requestState": "s"}
    assert (await call_of(at, _meta=meta, **more)).body == response()
    assert (await call_of(at, 7, _meta=meta, **more)).body == response(7)
    wrong = known_of(await call_of(at, _meta=meta, arguments={}))
    assert wrong["reason"] == "key_used_with_another_request"
    long = known_of(await call_of(at, _meta={"dev.coatcheck/key": "k" * 300}))
    assert long["outcome"] == "not_applied"
    assert len(far.seen) == 2
    await agent.drop()
    await at.die()


async def test_a_server_that_is_not_there(yard: Yard, far: Far) -> None:
    away = {"shop": Tool(name="shop", mcp="http://127.0.0.1:9/mcp", private=True, patience_s=0.1)}
    at = await near(yard, away)
    agent = await at.agent()
    assert known_of(await call_of(at))["outcome"] == "not_applied"
    got = await at.ask("shop", json=PING)
    assert (got.status, got.json["code"]) == (502, "unavailable")
    await agent.drop()
    await at.die()


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"data": b"{"}, 400),
        ({"data": b'{"method":"ping","method":"tools/call"}'}, 400),
        ({"json": [asking()]}, 400),
        ({"json": PING, "headers": {"Content-Encoding": "gzip"}}, 400),
        ({"method": "PUT", "json": PING}, 400),
        ({"data": b'"' + b"x" * 2000 + b'"'}, 413),
        ({"json": PING, "headers": {"Coatcheck-Run": "other"}}, 403),
    ],
)
async def test_what_is_not_passed_on(
    yard: Yard, far: Far, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], status: int
) -> None:
    monkeypatch.setattr(server, "MESSAGE_BYTES_MAX", 1_000)
    at = await near(yard, tools(far))
    agent = await at.agent()
    assert (await at.ask("shop", **more)).status == status
    assert not far.seen
    await agent.drop()
    await at.die()


async def test_an_operators_answer_becomes_a_result(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    far.script = [reset]
    assert known_of(await call_of(at))["outcome"] == "unknown"
    (call,) = (await yard.log()).state.calls.values()
    assert call.state is CallState.IN_DOUBT
    applied = Command(
        id="c1",
        run="r1",
        what="resolve",
        by="ann",
        call=call.number,
        verdict="applied",
        value=msgpack.packb({"receipt": 7}),
    )
    done = await Outside(yard.store, SystemClock()).command(applied, timeout_s=5)
    assert not done.refused
    result = (await call_of(at, 2)).json["result"]
    assert result["structuredContent"] == {"receipt": 7}
    assert "isError" not in result
    assert len(far.seen) == 1
    await agent.drop()
    await at.die()


async def test_a_passed_stream_that_breaks_breaks(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    far.script = [streamed(event(b"{}"), end=False)]
    with pytest.raises(aiohttp.ClientPayloadError):
        await at.ask("shop", method="GET")
    await agent.drop()
    await at.die()


async def test_the_server_hears_that_nobody_listens_to_its_stream(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    said = STREAM_HEAD + b"a\r\ndata: {}\n\n\r\n"

    async def notify(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(said)

    far.script = [notify]
    async with at.session.get(f"{at.urls['r1']}/shop") as got:
        assert await got.content.readuntil(b"\n\n") == event(b"{}")
        assert far.writers
    await until(lambda: not far.writers)  # it read to the end of the connection
    await agent.drop()
    await at.die()


async def test_a_tool_call_goes_on_when_its_agent_hangs_up(yard: Yard, far: Far) -> None:
    """From 2026-07-28 on, hanging up would cancel it."""
    at = await near(yard, tools(far))
    agent = await at.agent()
    opened, slow = gate(answer(200, response()))
    far.script = [slow]
    with suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await call_of(at)
    assert far.seen
    opened.set()
    got = await call_of(at, 2)
    assert (got.decision in ("joined", "replayed"), got.body) == (True, response(2))
    assert len(far.seen) == 1
    await agent.drop()
    await at.die()
