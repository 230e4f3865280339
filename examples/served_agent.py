"""A chat service: one process, any number of conversations, each of them a run.

    python examples/served_agent.py --port 8000 --address http://$POD_IP:8000
    curl -L http://localhost:8000/chats/anna -d '{"text": "Hello"}'

An answer is in the checkpoint before anybody reads it. A pod that gets a message for a conversation
that another one has sends the client there; one that died has nothing that the next can't go on
with.
"""

import argparse
import asyncio
import json
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Any

from aiohttp import web
from openai import AsyncOpenAI

import coatcheck

BUSY = {"Retry-After": "1"}


@coatcheck.tool(effect="read", record=True)
async def ask_model(messages: Any) -> str:
    reply = await client.chat.completions.create(model="gpt-4o-mini", messages=messages)
    return reply.choices[0].message.content or ""


class Chats:
    """The conversations that this process has."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._open: dict[str, tuple[coatcheck.Run, AsyncExitStack]] = {}
        self._turn: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def post_message(self, request: web.Request) -> web.Response:
        chat, text = request.match_info["chat"], json.loads(await request.text())["text"]
        async with self._turn[chat]:
            try:
                run = await self._run(chat)
                step, answer = run.step_number, await self._answer(run, text)
            except coatcheck.OwnedElsewhere as elsewhere:
                if elsewhere.address:
                    raise web.HTTPTemporaryRedirect(elsewhere.address + request.path) from None
                raise web.HTTPServiceUnavailable(headers=BUSY) from None
            except coatcheck.CoatcheckError as error:  # fenced, draining, no store: ask again
                await self._leave(chat)
                raise web.HTTPServiceUnavailable(text=str(error), headers=BUSY) from None
        return web.json_response({"step": step, "answer": answer})

    async def _answer(self, run: coatcheck.Run, text: str) -> str:
        messages = [*(run.state or []), {"role": "user", "content": text}]
        answer: str = await run.step.tool(ask_model)(messages)
        try:
            await run.commit(
                [*messages, {"role": "assistant", "content": answer}], durability="remote"
            )
        except coatcheck.Draining:  # the pod stops, and the answer is safe
            await self._leave(run.id)
        return answer

    async def _run(self, chat: str) -> coatcheck.Run:
        """Open it on its first message here; it stays open, so that the next one costs nothing."""
        if chat not in self._open:
            stack = AsyncExitStack()
            opening = coatcheck.open_run(chat, schema=1, address=self._address, wait_s=0)
            self._open[chat] = (await stack.enter_async_context(opening), stack)
        return self._open[chat][0]

    async def _leave(self, chat: str) -> None:
        if chat in self._open:
            _, stack = self._open.pop(chat)
            await stack.aclose()

    async def close(self, _: web.Application) -> None:
        """Release all, so that other pods can have them at once."""
        await asyncio.gather(*map(self._leave, list(self._open)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--address", required=True, help="URL at which other pods' clients find us")
    options = parser.parse_args()
    chats, app = Chats(options.address), web.Application()
    app.router.add_post("/chats/{chat}", chats.post_message)
    app.on_shutdown.append(chats.close)
    web.run_app(app, port=options.port)


if __name__ == "__main__":
    client = AsyncOpenAI()
    main()
