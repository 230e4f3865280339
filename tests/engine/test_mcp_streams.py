"""MCP streams that are taken up again, up to revision 2025-11-25, and those that break."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from coatcheck_sidecar.core import mcp
from coatcheck_sidecar.core.model import Effect
from coatcheck_sidecar.engine import mcp_call, mcp_upstream
from coatcheck_sidecar.engine.mcp_call import McpCall
from coatcheck_sidecar.servers import mcp as server
from tests.engine.harness import Yard, until
from tests.engine.mcp_far import asking, call_of, event, known_of, response, streamed, tools
from tests.engine.proxying import Far, answer, far_server, gate, near


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    async with far_server() as made:
        yield made


PRIMING = b"id: e1\nretry: 20\ndata:\n\n"


async def test_a_stream_that_the_server_ends_is_taken_up(yard: Yard, far: Far) -> None:
    """For the record, whether or not the agent comes back; and for the agent that does."""
    at = await near(yard, tools(far))
    agent = await at.agent()
    session = {"Mcp-Session-Id": "s1", "Authorization": "Bearer b"}
    back = session | {"Last-Event-ID": "e1"}
    opened, rest = gate(streamed(event(b'{"method":"n"}', event_id="e2"), event(response())))
    far.script = [streamed(PRIMING), rest]
    got = await at.ask("shop", json=asking(), headers=session)
    assert got.body == PRIMING
    await until(lambda: len(far.seen) == 2)
    again = far.seen[1]
    assert (again.method, again.headers["last-event-id"]) == ("GET", "e1")
    assert (again.headers["mcp-session-id"], again.headers["authorization"]) == ("s1", "Bearer b")
    async with asyncio.TaskGroup() as group:
        coming = group.create_task(at.ask("shop", method="GET", headers=back))
        await asyncio.sleep(0.05)
        opened.set()
    expected = event(b'{"method":"n"}', event_id="e2") + event(response())
    assert coming.result().body == expected
    late = await at.ask("shop", method="GET", headers=back)
    assert late.body == expected
    assert len(far.seen) == 2
    await agent.drop()
    await at.die()


async def test_a_stream_that_is_not_given_again(yard: Yard, far: Far) -> None:
    at = await near(yard, tools(far))
    agent = await at.agent()
    far.script = [streamed(PRIMING), answer(405)]
    await call_of(at)
    await until(lambda: len(far.seen) == 2)
    assert known_of(await call_of(at, 2))["outcome"] == "unknown"
    await agent.drop()
    await at.die()


async def test_a_stream_that_says_nothing_new(
    yard: Yard, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_upstream, "IDLE_RESUMES_MAX", 2)
    monkeypatch.setattr(mcp_upstream, "RESUME_DELAY_MAX_S", 0.01)
    at = await near(yard, tools(far))
    agent = await at.agent()
    far.script = [streamed(PRIMING, end=False), streamed(b": ping\n\n"), streamed(end=False)]
    await call_of(at)
    await until(lambda: len(far.seen) == 3)
    assert known_of(await call_of(at, 2))["outcome"] == "unknown"
    await agent.drop()
    await at.die()


async def test_an_event_of_nobody_passes(yard: Yard, far: Far) -> None:
    """The sidecar may have been restarted since: the server knows its own events."""
    at = await near(yard, tools(far))
    agent = await at.agent()
    far.script = [streamed(event(response()))]
    got = await at.ask("shop", method="GET", headers={"Last-Event-ID": "e9"})
    assert got.body == event(response())
    assert far.seen[0].headers["last-event-id"] == "e9"
    await agent.drop()
    await at.die()


async def test_with_too_many_events_an_agent_must_ask_anew(
    yard: Yard, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_call, "KEPT_BYTES_MAX", 10)
    monkeypatch.setattr(server, "CALLS_KEPT", 1)
    at = await near(yard, tools(far, repeats=True))
    agent = await at.agent()
    far.script = [streamed(PRIMING, event(response())), streamed(event(response(2)))]
    assert (await call_of(at)).body == PRIMING + event(response())
    assert (await call_of(at, 2)).body == event(response(2))
    far.script = [answer(404)]
    got = await at.ask("shop", method="GET", headers={"Last-Event-ID": "e1"})
    assert got.status == 404
    await agent.drop()
    await at.die()


async def test_what_comes_of_a_retry_in_a_stream_that_has_begun(yard: Yard, far: Far) -> None:
    """Its head is out: a status can only be told in words."""
    at = await near(yard, tools(far, effects={"look": Effect.READ}, record=True))
    agent = await at.agent()
    far.script = [streamed(event(b'{"method":"n"}')), answer(404)]
    got = await call_of(at, 1, "look")
    assert got.body.startswith(event(b'{"method":"n"}'))
    assert known_of(got)["outcome"] == "not_applied"
    assert len(far.seen) == 2
    await agent.drop()
    await at.die()


class _Reply:
    """An agent's end that keeps what it gets."""

    def __init__(self) -> None:
        self.said = b""
        self.is_gone = False

    async def start(self, _status: int, _headers: object) -> None:
        self.said += b"head "

    async def write(self, data: bytes) -> None:
        self.said += data

    async def end(self) -> None:
        self.said += b" end"

    def cut(self) -> None:
        raise AssertionError("a result says it better")


async def test_an_answer_that_is_cut_is_told_as_a_result() -> None:
    reply = _Reply()
    asked = mcp.read_call(b'{"id":1,"method":"tools/call","params":{"name":"charge"}}')
    call = McpCall(asked, reply, has_schema=False)
    await call.start(200, ())
    call.cut()
    assert call.is_cut
    await call.lose()
    assert b'"outcome": "unknown"' in reply.said
    assert not call.is_gone


async def test_an_answer_that_its_agent_did_not_wait_for_is_not_given() -> None:
    reply = _Reply()
    asked = mcp.read_call(b'{"id":1,"method":"tools/call","params":{"name":"charge"}}')
    call = McpCall(asked, reply, has_schema=False)
    reply.is_gone = True
    await call.lose()
    assert call.is_gone
