"""What tests of MCP say and hear, as agents and as servers."""

import asyncio
import json
from typing import Any

from coatcheck_sidecar.core.tool import Tool
from tests.engine.proxying import STREAM_HEAD, Behaviour, Far, Got, Near, Seen, stream

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
RESULT = {"content": [{"type": "text", "text": "done"}]}


def tools(far: Far, **more: Any) -> dict[str, Tool]:
    said: dict[str, Any] = {"private": True, "patience_s": 1.0, **more}
    return {"shop": Tool(name="shop", mcp=f"{far.url}/mcp?k=1", **said)}


def asking(number: int | str = 1, name: str = "charge", **params: Any) -> dict[str, Any]:
    asked = {"name": name, "arguments": {"invoice": "a"}, **params}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": asked}


def response(number: int | str = 1, **result: Any) -> bytes:
    # The blanks are the server's own: nobody may lay them out anew.
    return b'{"jsonrpc": "2.0",  "id":%s, "result": %s }' % (
        json.dumps(number).encode(),
        json.dumps(RESULT | result).encode(),
    )


def event(data: bytes, *, event_id: str = "") -> bytes:
    return (f"id: {event_id}\n".encode() if event_id else b"") + b"data: " + data + b"\n\n"


def streamed(*events: bytes, end: bool = True) -> Behaviour:
    async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        await stream(writer, *events, end=end)
        if not end:
            writer.close()

    return behave


def known_of(got: Got) -> dict[str, Any]:
    """What the model is told of a call without an answer."""
    data = got.body.decode()
    if got.headers["Content-Type"].startswith("text/event-stream"):
        data = data.strip().rsplit("data: ", 1)[1]
    result = json.loads(data)["result"]
    assert result["isError"] is True
    known: dict[str, Any] = result["_meta"]["dev.coatcheck/outcome"]
    return known


async def call_of(at: Near, *args: Any, **params: Any) -> Got:
    return await at.ask("shop", json=asking(*args, **params))
