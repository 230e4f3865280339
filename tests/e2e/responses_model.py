"""A model that speaks the OpenAI responses API, streamed or not, and always says the same.

    python -m tests.e2e.responses_model --port 8081 --delay-s 0.2

As `examples.demo.model`: it asks for the next line of the first message until each has an output.
`GET /count` tells how many responses it sold.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web

from examples.demo.model import LINE, PIECE_CHARS, run

EVENT_S: Final = 0.03
"""Between events: long enough for a kill to find a stream that is half out."""

Map = dict[str, Any]


def reply(body: Map) -> Map:
    """The whole answer: a pure function of the conversation."""
    lines = LINE.findall(body["input"][0]["content"])
    done = sum(1 for item in body["input"] if item.get("type") == "function_call_output")
    name = digest(body)
    if done < len(lines):
        ref, cents = lines[done]
        item: Map = {
            "type": "function_call",
            "id": f"fc_{name}",
            "call_id": f"call_{name}",
            "name": body["tools"][0]["name"],
            "arguments": json.dumps({"ref": ref, "cents": int(cents)}),
        }
    else:
        total = sum(int(cents) for _, cents in lines) / 100
        text = f"Charged {done} lines, {total:.2f} in all."
        part = {"type": "output_text", "text": text, "annotations": []}
        item = {"type": "message", "id": f"msg_{name}", "role": "assistant", "content": [part]}
    asked, said = len(json.dumps(body["input"])) // 4, len(json.dumps(item)) // 4
    details: Map = {"cached_tokens": 0}
    return {
        "id": f"resp_{name}",
        "object": "response",
        "created_at": 0,
        "status": "completed",
        "model": body["model"],
        "output": [{**item, "status": "completed"}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": body["tools"],
        "usage": {
            "input_tokens": asked,
            "input_tokens_details": details,
            "output_tokens": said,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": asked + said,
        },
    }


def digest(body: Map) -> str:
    return hashlib.sha256(json.dumps(body["input"], sort_keys=True).encode()).hexdigest()[:16]


def events(body: Map) -> Iterator[Map]:
    """The same answer, streamed."""
    whole = reply(body)
    (item,) = whole["output"]
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    empty: Map = {"status": "in_progress"}
    if item["type"] == "message":
        empty["content"] = []
    else:
        empty["arguments"] = ""
    yield {"type": "response.output_item.added", "output_index": 0, "item": {**item, **empty}}
    yield from parts(item)
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    yield {"type": "response.completed", "response": whole}


def parts(item: Map) -> Iterator[Map]:
    """What comes piece by piece."""
    at: Map = {"item_id": item["id"], "output_index": 0}
    if item["type"] == "function_call":
        kind, text, done = "response.function_call_arguments", item["arguments"], "arguments"
    else:
        kind, text, done = "response.output_text", item["content"][0]["text"], "text"
        at |= {"content_index": 0, "logprobs": []}
        empty = {**item["content"][0], "text": ""}
        yield {**at, "type": "response.content_part.added", "part": empty}
    for start in range(0, len(text), PIECE_CHARS):
        yield {**at, "type": f"{kind}.delta", "delta": text[start : start + PIECE_CHARS]}
    yield {**at, "type": f"{kind}.done", done: text, "name": item.get("name")}
    if item["type"] == "message":
        yield {**at, "type": "response.content_part.done", "part": item["content"][0]}


class Model:
    """The route, and the meter."""

    def __init__(self, *, delay_s: float) -> None:
        self._delay_s = delay_s
        self._sold = 0
        self._asked: set[str] = set()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        app.add_routes([web.post("/v1/responses", self._post), web.get("/count", self._get_count)])
        return app

    async def _post(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self._sold += 1
        self._asked.add(digest(body))
        await asyncio.sleep(self._delay_s)
        if not body.get("stream"):
            return web.json_response(reply(body))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number, event in enumerate(events(body)):
            data = json.dumps({**event, "sequence_number": number})
            await response.write(f"event: {event['type']}\ndata: {data}\n\n".encode())
            await asyncio.sleep(EVENT_S)
        return response

    async def _get_count(self, _: web.Request) -> web.Response:
        return web.json_response({"completions": self._sold, "distinct": len(self._asked)})


if __name__ == "__main__":
    run(__doc__ or "", lambda delay_s: Model(delay_s=delay_s).application())
