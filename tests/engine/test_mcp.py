"""MCP over HTTP, by scripted servers: what passes, what is recorded, what a model is told."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgpack
import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.model import CallState, Effect
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine import mcp_call, mcp_upstream
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.servers import mcp as server
from tests.engine.harness import Yard, until
from tests.engine.proxying import (
    STREAM_HEAD,
    Behaviour,
    Far,
    Got,
    Near,
    Seen,
    answer,
    far_server,
    gate,
    near,
    reset,
    stream,
)

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
RESULT = {"content": [{"type": "text", "text": "done"}]}


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    async with far_server() as made:
        yield made


def _tools(far: Far, **more: Any) -> dict[str, Tool]:
    said: dict[str, Any] = {"private": True, "patience_s": 1.0, **more}
    return {"shop": Tool(name="shop", mcp=f"{far.url}/mcp?k=1", **said)}


def _asking(number: int | str = 1, name: str = "charge", **params: Any) -> dict[str, Any]:
    asked = {"name": name, "arguments": {"invoice": "a"}, **params}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": asked}


def _response(number: int | str = 1, **result: Any) -> bytes:
    # The blanks are the server's own: nobody may lay them out anew.
    return b'{"jsonrpc": "2.0",  "id":%s, "result": %s }' % (
        json.dumps(number).encode(),
        json.dumps(RESULT | result).encode(),
    )


def _event(data: bytes, *, event_id: str = "") -> bytes:
    return (f"id: {event_id}\n".encode() if event_id else b"") + b"data: " + data + b"\n\n"


def _streamed(*events: bytes, end: bool = True) -> Behaviour:
    async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        await stream(writer, *events, end=end)
        if not end:
            writer.close()

    return behave


def _known(got: Got) -> dict[str, Any]:
    """What the model is told of a call without an answer."""
    data = got.body.decode()
    if got.headers["Content-Type"].startswith("text/event-stream"):
        data = data.strip().rsplit("data: ", 1)[1]
    result = json.loads(data)["result"]
    assert result["isError"] is True
    known: dict[str, Any] = result["_meta"]["dev.coatcheck/outcome"]
    return known


async def _call(at: Near, *args: Any, **params: Any) -> Got:
    return await at.ask("shop", json=_asking(*args, **params))


async def test_all_else_passes_as_it_is(yard: Yard, far: Far) -> None:
    at = await near(yard, _tools(far))
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
    at = await near(yard, _tools(far))
    agent = await at.agent()
    far.script = [answer(200, _response())]
    first = await _call(at)
    assert (first.decision, first.body) == ("sent", _response())
    assert [call.tool for call in (await yard.log()).state.calls.values()] == ["shop/charge"]
    await agent.drop()
    again = await at.agent(incarnation=b"2" * 16)
    got = await _call(at, "new id")
    assert (got.status, got.decision, got.body) == (200, "replayed", _response("new id"))
    assert len(far.seen) == 1
    await again.drop()
    await at.die()


async def test_what_a_stream_says_first_goes_out_at_once_and_into_no_record(
    yard: Yard, far: Far
) -> None:
    """The server waits for the client's answer to what it asks in its stream."""
    at = await near(yard, _tools(far))
    agent = await at.agent()
    question = _event(b'{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage"}')
    last = b"event: message\r\ndata:" + _response() + b"\r\n\r\n"
    answered = asyncio.Event()

    async def ask(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        await stream(writer, question, end=False)
        await answered.wait()
        await stream(writer, last)

    far.script = [ask]
    async with at.session.post(f"{at.urls['r1']}/shop", json=_asking()) as response:
        assert await response.content.readuntil(b"\n\n") == question
        answered.set()
        assert await response.read() == last
    await agent.drop()
    again = await at.agent(incarnation=b"2" * 16)
    got = await _call(at, 9)
    assert (got.headers["Content-Type"], got.body) == ("application/json", _response(9))
    await again.drop()
    await at.die()


async def test_a_stream_that_ends_without_the_answer_is_doubt(yard: Yard, far: Far) -> None:
    at = await near(yard, _tools(far))
    agent = await at.agent()
    far.script = [_streamed(_event(b'{"method":"notifications/progress"}'))]
    known = _known(await _call(at))
    assert (known["outcome"], known["tool"]) == ("unknown", "charge")
    known = _known(await _call(at, 2))
    assert (known["outcome"], known["reason"]) == ("unknown", "lost")
    held = _known(await _call(at, 3, arguments={"invoice": "A"}))
    assert (held["outcome"], held["reason"]) == ("held", "unresolved_predecessor")
    assert len(far.seen) == 1
    await agent.drop()
    await at.die()


@pytest.mark.parametrize(
    "cut",
    [
        reset,
        answer(202, b""),
        _streamed(_event(_response(2)), end=False),
        _streamed(b"data: " + _response(), end=False),
    ],
)
async def test_what_is_no_answer(yard: Yard, far: Far, cut: Behaviour) -> None:
    at = await near(yard, _tools(far))
    agent = await at.agent()
    far.script = [cut]
    assert _known(await _call(at))["outcome"] == "unknown"
    await agent.drop()
    await at.die()


async def test_an_answer_that_is_too_long(
    yard: Yard, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_upstream, "ANSWER_BYTES_MAX", 10)
    at = await near(yard, _tools(far))
    agent = await at.agent()
    far.script = [answer(200, _response()), _streamed(b"data: " + _response())]
    assert _known(await _call(at))["outcome"] == "unknown"
    assert _known(await _call(at, 1, "other"))["outcome"] == "unknown"
    await agent.drop()
    await at.die()


@pytest.mark.parametrize("status", [307, 400, 404, 409, 415])
async def test_a_refused_message_is_no_outcome(yard: Yard, far: Far, status: int) -> None:
    """A session that is over, a header that does not fit: no tool was called."""
    at = await near(yard, _tools(far))
    agent = await at.agent()
    body = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"no"}}'
    far.script = [answer(status, body), answer(200, _response(2))]
    got = await _call(at)
    assert (got.status, got.body) == (status, body)
    assert (await _call(at, 2)).body == _response(2)
    await agent.drop()
    await at.die()


async def test_a_read_is_asked_for_again_when_its_answer_is_lost(yard: Yard, far: Far) -> None:
    """The agent's stream goes on meanwhile."""
    at = await near(yard, _tools(far, effects={"look": Effect.READ}))
    agent = await at.agent()
    progress = _event(b'{"method":"notifications/progress"}')
    far.script = [_streamed(progress, end=False), answer(200, _response())]
    got = await _call(at, 1, "look")
    assert len(far.seen) in (1, 2)
    assert got.body.startswith(progress)
    await agent.drop()
    await at.die()


async def test_hints_count_where_they_are_trusted(yard: Yard, far: Far) -> None:
    tools = [{"name": "look", "annotations": {"readOnlyHint": True}, "outputSchema": {}}]
    listed = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}}).encode()
    at = await near(yard, _tools(far, trust_hints=True))
    agent = await at.agent()
    far.script = [answer(200, listed), _streamed(_event(listed))]
    for _ in range(2):
        got = await at.ask("shop", json=PING | {"method": "tools/list"})
        assert listed in got.body
    assert far.seen[0].headers["accept-encoding"] == "identity"
    far.script = [answer(200, _response(n)) for n in (1, 2)]
    for n in (1, 2):
        assert (await _call(at, n, "look")).body == _response(n)
    assert not (await yard.log()).state.calls
    await agent.drop()
    await at.die()


async def test_a_long_list_passes_unread(
    yard: Yard, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LIST_BYTES_MAX", 10)
    at = await near(yard, _tools(far))
    agent = await at.agent()
    far.script = [answer(200, b"x" * 1000), _streamed(b"data: " + b"x" * 1000)]
    for _ in range(2):
        assert b"x" * 1000 in (await at.ask("shop", json=PING | {"method": "tools/list"})).body
    await agent.drop()
    await at.die()


async def test_keys_and_legs(yard: Yard, far: Far) -> None:
    """Input makes another leg of the call; the same key with other arguments is a mistake."""
    at = await near(yard, _tools(far))
    agent = await at.agent()
    meta = {"dev.coatcheck/key": "order-1"}
    far.script = [answer(200, _response(resultType="input_required")), answer(200, _response())]
    first = await _call(at, _meta=meta)
    assert b"input_required" in first.body
    more = {"inputResponses": {"q": {"action": "accept"}}, "requestState": "s"}
    assert (await _call(at, _meta=meta, **more)).body == _response()
    assert (await _call(at, 7, _meta=meta, **more)).body == _response(7)
    wrong = _known(await _call(at, _meta=meta, arguments={}))
    assert wrong["reason"] == "key_used_with_another_request"
    long = _known(await _call(at, _meta={"dev.coatcheck/key": "k" * 300}))
    assert long["outcome"] == "not_applied"
    assert len(far.seen) == 2
    await agent.drop()
    await at.die()


async def test_a_server_that_is_not_there(yard: Yard, far: Far) -> None:
    tools = {"shop": Tool(name="shop", mcp="http://127.0.0.1:9/mcp", private=True, patience_s=0.1)}
    at = await near(yard, tools)
    agent = await at.agent()
    assert _known(await _call(at))["outcome"] == "not_applied"
    got = await at.ask("shop", json=PING)
    assert (got.status, got.json["code"]) == (502, "unavailable")
    await agent.drop()
    await at.die()


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"data": b"{"}, 400),
        ({"data": b'{"method":"ping","method":"tools/call"}'}, 400),
        ({"json": [_asking()]}, 400),
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
    at = await near(yard, _tools(far))
    agent = await at.agent()
    assert (await at.ask("shop", **more)).status == status
    assert not far.seen
    await agent.drop()
    await at.die()


async def test_an_operators_answer_becomes_a_result(yard: Yard, far: Far) -> None:
    at = await near(yard, _tools(far))
    agent = await at.agent()
    far.script = [reset]
    assert _known(await _call(at))["outcome"] == "unknown"
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
    result = (await _call(at, 2)).json["result"]
    assert result["structuredContent"] == {"receipt": 7}
    assert "isError" not in result
    assert len(far.seen) == 1
    await agent.drop()
    await at.die()


async def test_a_passed_stream_that_breaks_breaks(yard: Yard, far: Far) -> None:
    at = await near(yard, _tools(far))
    agent = await at.agent()
    far.script = [_streamed(_event(b"{}"), end=False)]
    with pytest.raises(aiohttp.ClientPayloadError):
        await at.ask("shop", method="GET")
    await agent.drop()
    await at.die()


async def test_the_server_hears_that_nobody_listens_to_its_stream(yard: Yard, far: Far) -> None:
    at = await near(yard, _tools(far))
    agent = await at.agent()
    said = STREAM_HEAD + b"a\r\ndata: {}\n\n\r\n"

    async def notify(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(said)

    far.script = [notify]
    async with at.session.get(f"{at.urls['r1']}/shop") as response:
        assert await response.content.readuntil(b"\n\n") == _event(b"{}")
        assert far.writers
    await until(lambda: not far.writers)  # it read to the end of the connection
    await agent.drop()
    await at.die()


async def test_a_tool_call_goes_on_when_its_agent_hangs_up(yard: Yard, far: Far) -> None:
    """From 2026-07-28 on, hanging up would cancel it."""
    at = await near(yard, _tools(far))
    agent = await at.agent()
    opened, slow = gate(answer(200, _response()))
    far.script = [slow]
    asking = asyncio.get_running_loop().create_task(_call(at))
    await until(lambda: bool(far.seen))
    asking.cancel()
    await asyncio.sleep(0.05)
    opened.set()
    got = await _call(at, 2)
    assert (got.decision in ("joined", "replayed"), got.body) == (True, _response(2))
    assert len(far.seen) == 1
    await agent.drop()
    await at.die()


# Streams that are taken up again, up to revision 2025-11-25


PRIMING = b"id: e1\nretry: 20\ndata:\n\n"


async def test_a_stream_that_the_server_ends_is_taken_up(yard: Yard, far: Far) -> None:
    """For the record, whether or not the agent comes back; and for the agent that does."""
    at = await near(yard, _tools(far))
    agent = await at.agent()
    session = {"Mcp-Session-Id": "s1", "Authorization": "Bearer b"}
    back = session | {"Last-Event-ID": "e1"}
    opened, rest = gate(_streamed(_event(b'{"method":"n"}', event_id="e2"), _event(_response())))
    far.script = [_streamed(PRIMING), rest]
    got = await at.ask("shop", json=_asking(), headers=session)
    assert got.body == PRIMING
    await until(lambda: len(far.seen) == 2)
    again = far.seen[1]
    assert (again.method, again.headers["last-event-id"]) == ("GET", "e1")
    assert (again.headers["mcp-session-id"], again.headers["authorization"]) == ("s1", "Bearer b")
    coming = asyncio.get_running_loop().create_task(at.ask("shop", method="GET", headers=back))
    await asyncio.sleep(0.05)
    opened.set()
    expected = _event(b'{"method":"n"}', event_id="e2") + _event(_response())
    assert (await coming).body == expected
    late = await at.ask("shop", method="GET", headers=back)
    assert late.body == expected
    assert len(far.seen) == 2
    await agent.drop()
    await at.die()


async def test_a_stream_that_is_not_given_again(yard: Yard, far: Far) -> None:
    at = await near(yard, _tools(far))
    agent = await at.agent()
    far.script = [_streamed(PRIMING), answer(405)]
    await _call(at)
    await until(lambda: len(far.seen) == 2)
    assert _known(await _call(at, 2))["outcome"] == "unknown"
    await agent.drop()
    await at.die()


async def test_a_stream_that_says_nothing_new(
    yard: Yard, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_upstream, "IDLE_RESUMES_MAX", 2)
    monkeypatch.setattr(mcp_upstream, "RESUME_DELAY_MAX_S", 0.01)
    at = await near(yard, _tools(far))
    agent = await at.agent()
    far.script = [_streamed(PRIMING, end=False), _streamed(b": ping\n\n"), _streamed(end=False)]
    await _call(at)
    await until(lambda: len(far.seen) == 3)
    assert _known(await _call(at, 2))["outcome"] == "unknown"
    await agent.drop()
    await at.die()


async def test_an_event_of_nobody_passes(yard: Yard, far: Far) -> None:
    """The sidecar may have been restarted since: the server knows its own events."""
    at = await near(yard, _tools(far))
    agent = await at.agent()
    far.script = [_streamed(_event(_response()))]
    got = await at.ask("shop", method="GET", headers={"Last-Event-ID": "e9"})
    assert got.body == _event(_response())
    assert far.seen[0].headers["last-event-id"] == "e9"
    await agent.drop()
    await at.die()


async def test_with_too_many_events_an_agent_must_ask_anew(
    yard: Yard, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_call, "KEPT_BYTES_MAX", 10)
    monkeypatch.setattr(server, "CALLS_KEPT", 1)
    at = await near(yard, _tools(far, repeats=True))
    agent = await at.agent()
    far.script = [_streamed(PRIMING, _event(_response())), _streamed(_event(_response(2)))]
    assert (await _call(at)).body == PRIMING + _event(_response())
    assert (await _call(at, 2)).body == _event(_response(2))
    far.script = [answer(404)]
    got = await at.ask("shop", method="GET", headers={"Last-Event-ID": "e1"})
    assert got.status == 404
    await agent.drop()
    await at.die()
