"""A model that speaks the Anthropic messages API, here and now, and always says the same.

    python -m tests.e2e.anthropic_model --port 8082

It plays the same scene as `examples.demo.model`, whose meter it has as well: `GET /count`.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from examples.demo.model import PIECE_CHARS, answer, run, usage

Map = dict[str, Any]


def as_chat(body: Map) -> Map:
    """The same conversation as the chat completions API has it."""
    messages: list[Map] = []
    for message in body["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for block in blocks:
            kind = {"tool_result": "tool", "tool_use": "call"}.get(block["type"], message["role"])
            text = block.get("text") or block.get("content") or block.get("input")
            messages.append({"role": kind, "content": text})
    tools = [{"function": {"name": tool["name"]}} for tool in body.get("tools", ())]
    return {"messages": messages, "tools": tools}


def reply(body: Map) -> Map:
    """The whole answer of `POST /v1/messages`."""
    chat = as_chat(body)
    message, reason = answer(chat)
    blocks: list[Map] = [{"type": "text", "text": message["content"] or "One more."}]
    for call in message.get("tool_calls", ()):
        given = json.loads(call["function"]["arguments"])
        name = call["function"]["name"]
        block = {"type": "tool_use", "id": call["id"].replace("call", "toolu"), "name": name}
        blocks.append({**block, "input": given})
    tokens = usage(chat, message)
    spent = {"input_tokens": tokens["prompt_tokens"], "output_tokens": tokens["completion_tokens"]}
    return {
        "id": f"msg_{len(chat['messages'])}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": blocks,
        "stop_reason": "tool_use" if reason == "tool_calls" else "end_turn",
        "stop_sequence": None,
        "usage": spent,
    }


def events(body: Map) -> Iterator[Map]:
    """The same answer, streamed."""
    whole = reply(body)
    begun = {**whole, "content": [], "stop_reason": None}
    yield {"type": "message_start", "message": begun}
    yield {"type": "ping"}
    for index, block in enumerate(whole["content"]):
        is_text = block["type"] == "text"
        empty: Map = {"text": ""} if is_text else {"input": {}}
        yield {"type": "content_block_start", "index": index, "content_block": {**block, **empty}}
        text = block["text"] if is_text else json.dumps(block["input"])
        for at in range(0, len(text), PIECE_CHARS):
            piece = text[at : at + PIECE_CHARS]
            delta = {"type": "text_delta", "text": piece}
            if not is_text:
                delta = {"type": "input_json_delta", "partial_json": piece}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": whole["usage"]}
    yield {"type": "message_stop"}


class Model:
    """The route, and the meter."""

    def __init__(self, *, delay_s: float) -> None:
        self._delay_s = delay_s
        self._sold = 0
        self._asked: set[str] = set()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        app.add_routes([web.post("/v1/messages", self._post), web.get("/count", self._get_count)])
        return app

    async def _post(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if not {"x-api-key", "authorization"} & {name.lower() for name in request.headers}:
            raise web.HTTPUnauthorized
        self._sold += 1
        self._asked.add(json.dumps(body["messages"]))
        await asyncio.sleep(self._delay_s)
        if not body.get("stream"):
            return web.json_response(reply(body))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events(body):
            data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
            await response.write(data.encode())
        return response

    async def _get_count(self, _: web.Request) -> web.Response:
        return web.json_response({"completions": self._sold, "distinct": len(self._asked)})


if __name__ == "__main__":
    run(__doc__ or "", lambda delay_s: Model(delay_s=delay_s).application())
