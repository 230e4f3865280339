"""The sidecar's side of wrapped stdio servers, by a wrapper that says what a test wants."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from coatcheck_sidecar.core.mcp import STDIO_TOOL
from coatcheck_sidecar.core.mcp_link import Frame, Kind, decode, encode
from coatcheck_sidecar.core.model import Effect
from coatcheck_sidecar.core.tool import Tool
from tests.engine.harness import Wire, Yard
from tests.engine.proxying import Near, near

RESULT = b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}'
TOOLS = {
    "stdio": STDIO_TOOL,
    "files": Tool(name="files", mcp="stdio:", effects={"look": Effect.READ}, trust_hints=True),
    "quick": Tool(name="quick", mcp="stdio:", head_s=0.05),
}


def asking(name: str = "write", **more: Any) -> bytes:
    params = {"name": name, "arguments": {"path": "a"}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return json.dumps(message | more).encode()


@dataclass
class Wrapper:
    socket: aiohttp.ClientWebSocketResponse

    async def say(self, kind: Kind, number: int = 1, message: bytes = b"") -> None:
        await self.socket.send_bytes(encode(Frame(kind, number, message)))

    async def hear(self) -> Frame:
        return decode(await self.socket.receive_bytes(timeout=5))

    async def outcome(self) -> Any:
        """Of an answer, what is known of a call without one."""
        frame = await self.hear()
        assert frame.kind is Kind.ANSWER
        return json.loads(frame.message)["result"]["_meta"]["dev.coatcheck/outcome"]["outcome"]


@pytest.fixture
async def at(yard: Yard) -> AsyncIterator[Near]:
    made = await near(yard, TOOLS)
    yield made
    await made.die()


@pytest.fixture
async def agent(at: Near) -> AsyncIterator[Wire]:
    made = await at.agent()
    yield made
    await made.drop()


async def wrapper(at: Near, tool: str = "files", *, server: str = "") -> Wrapper:
    url = f"{at.urls['r1']}/{tool}?server={server}"
    return Wrapper(await at.session.ws_connect(url))


@pytest.mark.usefixtures("agent")
async def test_a_call_is_made_once(at: Near) -> None:
    first = await wrapper(at)
    await first.say(Kind.CALL, 1, asking())
    assert await first.hear() == Frame(Kind.GO, 1)
    await first.say(Kind.CAME, 1, RESULT)
    assert await first.hear() == Frame(Kind.ANSWER, 1, RESULT)
    await first.socket.close()
    again = await wrapper(at)
    await again.say(Kind.CALL, 5, asking(id="x"))
    answer = await again.hear()
    assert (answer.kind, answer.number) == (Kind.ANSWER, 5)
    assert answer.message == RESULT.replace(b'"id":1', b'"id":"x"')


@pytest.mark.usefixtures("agent")
async def test_servers_of_one_tool_are_told_apart(at: Near) -> None:
    for server in ("a", "b"):
        one = await wrapper(at, "stdio", server=server)
        await one.say(Kind.CALL, 1, asking())
        assert (await one.hear()).kind is Kind.GO
        await one.say(Kind.CAME, 1, RESULT)
        assert (await one.hear()).kind is Kind.ANSWER


@pytest.mark.usefixtures("agent")
async def test_a_server_that_dies_in_a_call_leaves_doubt(at: Near) -> None:
    one = await wrapper(at)
    await one.say(Kind.CALL, 1, asking())
    assert (await one.hear()).kind is Kind.GO
    await one.say(Kind.LOST)
    assert await one.outcome() == "unknown"


@pytest.mark.usefixtures("agent")
async def test_a_server_that_was_gone_before_leaves_none(at: Near) -> None:
    """It is tried again while the agent has patience: another server may be there by then."""
    one = await wrapper(at)
    await one.say(Kind.CALL, 1, asking())
    assert (await one.hear()).kind is Kind.GO
    await one.say(Kind.UNMADE)
    assert (await one.hear()).kind is Kind.GO


@pytest.mark.usefixtures("agent")
async def test_a_server_that_never_answers(at: Near) -> None:
    one = await wrapper(at, "quick")
    await one.say(Kind.CALL, 1, asking())
    assert (await one.hear()).kind is Kind.GO
    assert await one.outcome() == "unknown"
    await one.say(Kind.CAME, 1, RESULT)  # too late: nobody waits
    await one.say(Kind.CALL, 2, asking())
    assert await one.outcome() == "unknown"


@pytest.mark.usefixtures("agent")
async def test_a_wrapper_that_goes_leaves_doubt(at: Near, yard: Yard) -> None:
    one = await wrapper(at)
    await one.say(Kind.CALL, 1, asking())
    assert (await one.hear()).kind is Kind.GO
    await one.socket.close()
    again = await wrapper(at)
    await again.say(Kind.CALL, 1, asking())
    assert await again.outcome() == "unknown"


@pytest.mark.usefixtures("agent")
async def test_a_wrapper_that_comes_back_goes_on(at: Near) -> None:
    """A read does no harm twice: it is told to make it, and may say what it has."""
    one = await wrapper(at)
    await one.say(Kind.CALL, 1, asking("look"))
    assert (await one.hear()).kind is Kind.GO
    one.socket._writer.transport.abort()
    again = await wrapper(at)
    await again.say(Kind.CALL, 1, asking("look"))
    assert (await again.hear()).kind is Kind.GO
    await again.say(Kind.CAME, 1, RESULT)
    assert await again.hear() == Frame(Kind.ANSWER, 1, RESULT)


@pytest.mark.usefixtures("agent")
async def test_hints_of_a_list(at: Near, yard: Yard) -> None:
    one = await wrapper(at)
    tools = [{"name": "find", "annotations": {"readOnlyHint": True}}]
    listed = {"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}}
    await one.say(Kind.LISTED, 0, json.dumps(listed).encode())
    await one.say(Kind.CALL, 1, asking("find"))
    assert (await one.hear()).kind is Kind.GO
    await one.say(Kind.CAME, 1, RESULT)
    assert (await one.hear()).kind is Kind.ANSWER
    assert not (await yard.log()).state.calls


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("message", [b"{", b'{"method":"ping","id":1}'])
async def test_what_is_no_tool_call(at: Near, message: bytes) -> None:
    one = await wrapper(at)
    await one.say(Kind.CALL, 3, message)
    answer = await one.hear()
    assert answer.number == 3
    assert json.loads(answer.message)["error"]["code"] < 0


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("said", [b"", encode(Frame(Kind.GO, 1)), encode(Frame(Kind.ANSWER, 1))])
async def test_a_wrapper_that_speaks_otherwise_is_let_go(at: Near, said: bytes) -> None:
    one = await wrapper(at)
    await one.socket.send_str("ignored")
    await one.socket.send_bytes(said)
    assert (await one.socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE


@pytest.mark.usefixtures("agent")
async def test_the_route_is_for_wrappers_alone(at: Near) -> None:
    assert (await at.ask("files", json={})).status == 400
    assert (await at.ask("files?server=a/b", method="GET")).status == 400
