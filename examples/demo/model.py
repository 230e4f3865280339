"""A model that speaks the OpenAI chat completions API, here and now, and always says the same.

    python -m examples.demo.model --port 8081 --delay-s 0.2

Given a conversation whose first user message holds lines such as `inv-7/3: 1250 cents`, it asks
for the first of the offered tools with the next line's `ref` and `cents`, until each has a tool
message; then it says so and stops. `GET /count` tells how many completions it sold.
"""

import argparse
import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from aiohttp import web

from examples.demo.payments import serve

LINE: Final = re.compile(r"^(\S+): (\d+) cents$", re.MULTILINE)
CHARS_PER_TOKEN: Final = 4
"""A rule of thumb, good enough for a bill in a demo."""
PIECE_CHARS: Final = 24
"""A streamed answer comes in pieces of this size."""

Answer = dict[str, Any]


def answer(request: Mapping[str, Any]) -> tuple[Answer, str]:
    """The assistant's message and its finish reason: a pure function of the conversation."""
    messages = request["messages"]
    asked = next((str(m["content"]) for m in messages if m["role"] == "user"), "")
    lines = LINE.findall(asked)
    done = sum(1 for message in messages if message["role"] == "tool")
    if request.get("tools") and done < len(lines):
        ref, cents = lines[done]
        name = request["tools"][0]["function"]["name"]
        arguments = json.dumps({"ref": ref, "cents": int(cents)})
        function = {"name": name, "arguments": arguments}
        call = {"id": f"call_{_digest(messages)}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
    total = sum(int(cents) for _, cents in lines)
    text = f"Charged {done} lines, {total / 100:.2f} in all."
    return {"role": "assistant", "content": text}, "stop"


def completion(request: Mapping[str, Any]) -> Answer:
    """The whole answer of `POST /chat/completions`."""
    message, reason = answer(request)
    return {
        "id": f"chatcmpl-{_digest(request['messages'])}",
        "object": "chat.completion",
        "created": 0,
        "model": request.get("model", "demo"),
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": usage(request, message),
    }


def usage(request: Mapping[str, Any], message: Answer) -> dict[str, int]:
    """Tokens, as far as the bill goes."""
    prompt = len(json.dumps(request["messages"])) // CHARS_PER_TOKEN
    reply = len(json.dumps(message)) // CHARS_PER_TOKEN
    return {
        "prompt_tokens": prompt,
        "completion_tokens": reply,
        "total_tokens": prompt + reply,
    }


def chunks(request: Mapping[str, Any]) -> Iterator[Answer]:
    """The same answer as a stream of `chat.completion.chunk`."""
    message, reason = answer(request)
    yield _chunk(request, {"role": "assistant"})
    text = message["content"] or ""
    for at in range(0, len(text), PIECE_CHARS):
        yield _chunk(request, {"content": text[at : at + PIECE_CHARS]})
    for index, call in enumerate(message.get("tool_calls", ())):
        function = {"name": call["function"]["name"], "arguments": ""}
        head = {"index": index, "id": call["id"], "type": "function", "function": function}
        yield _chunk(request, {"tool_calls": [head]})
        arguments = call["function"]["arguments"]
        for at in range(0, len(arguments), PIECE_CHARS):
            piece = {"arguments": arguments[at : at + PIECE_CHARS]}
            yield _chunk(request, {"tool_calls": [{"index": index, "function": piece}]})
    yield _chunk(request, {}, reason=reason)
    if (request.get("stream_options") or {}).get("include_usage"):
        last = _chunk(request, {})
        yield last | {"choices": [], "usage": usage(request, message)}


def _chunk(request: Mapping[str, Any], delta: Answer, *, reason: str | None = None) -> Answer:
    return {
        "id": f"chatcmpl-{_digest(request['messages'])}",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": request.get("model", "demo"),
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
    }


def _digest(messages: object) -> str:
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16]


class Model:
    """The routes, and the meter."""

    def __init__(self, *, delay_s: float) -> None:
        self._delay_s = delay_s
        self._sold = 0
        self._asked: set[str] = set()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._post_completion),
                web.get("/v1/models", self._get_models),
                web.get("/count", self._get_count),
            ]
        )
        return app

    async def _post_completion(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        # Sold when it begins: a model's makers bill a completion that nobody waits for any more.
        self._sold += 1
        self._asked.add(_digest(body["messages"]))
        await asyncio.sleep(self._delay_s)
        if not body.get("stream"):
            return web.json_response(completion(body))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for chunk in chunks(body):
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _get_models(self, _: web.Request) -> web.Response:
        data = [{"id": "demo", "object": "model", "created": 0, "owned_by": "demo"}]
        return web.json_response({"object": "list", "data": data})

    async def _get_count(self, _: web.Request) -> web.Response:
        return web.json_response({"completions": self._sold, "distinct": len(self._asked)})


def run(description: str, make: Callable[[float], web.Application]) -> None:
    """`--port`, `--delay-s` a completion; until SIGTERM."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay-s", type=float, default=0.2)
    options = parser.parse_args()
    asyncio.run(serve(make(options.delay_s), options.port))


if __name__ == "__main__":
    run(__doc__ or "", lambda delay_s: Model(delay_s=delay_s).application())
