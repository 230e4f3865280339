"""A model that never says the same thing twice in the same words, and a bank that fails.

    python -m tests.e2e.reworded_servers --port 8080 --ledger ledger.jsonl

`POST /v1/chat/completions` asks for one and the same charge in ever other words until it has said
all of `WORDINGS`: each completion of a conversation, by its `user`, has the next one. The charges
of `POST /{how}/charges` are made, on disk, and then fail: `error` answers 500, `broken` breaks the
connection, `hang` says nothing more. `GET /arrivals` counts them by order, from `X-Order`.
"""

import asyncio
from collections import Counter
from typing import Any, Final

from aiohttp import web

from examples.demo.ledger import Ledger
from tests.e2e.ledger_server import run

WORDINGS: Final = (
    '{"invoice": "4711", "amount": "42.00", "text": "Invoice 4711"}',
    '{"invoice": "4711", "amount": "42.00", "text": "Payment of invoice no. 4711"}',
    '{"text": "Invoice 4711", "amount": "42.00", "invoice": "4711"}',
    '{"invoice": "4711", "amount": 42, "text": "Invoice 4711"}',
    '{"invoice": "#4711", "amount": "USD 42", "text": "Try again: invoice 4711", "urgent": true}',
)
"""The third is the first one, in another order."""
HANG_S: Final = 600.0


class Servers:
    """Both, over one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._said: Counter[str] = Counter()
        self._arrivals: Counter[str] = Counter()

    def application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._complete),
                web.post("/{how}/charges", self._charge),
                web.get("/arrivals", self._tell),
            ]
        )
        return app

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        number = self._said[body["user"]]
        self._said[body["user"]] += 1
        message: dict[str, Any] = {"role": "assistant", "content": "I give up."}
        if number < len(WORDINGS):
            function = {"name": "charge", "arguments": WORDINGS[number]}
            call = {"id": f"call_{number}", "type": "function", "function": function}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        reason = "tool_calls" if "tool_calls" in message else "stop"
        return web.json_response(
            {
                "id": f"chatcmpl-{number}",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            }
        )

    async def _charge(self, request: web.Request) -> web.Response:
        await request.read()
        order, how = request.headers["X-Order"], request.match_info["how"]
        self._arrivals[order] += 1
        self._ledger.add(order, 4_200, key=None)
        if how == "hang":
            await asyncio.sleep(HANG_S)
        if how == "broken":
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"error": "something went wrong"}, status=500)

    async def _tell(self, _: web.Request) -> web.Response:
        return web.json_response(self._arrivals)


if __name__ == "__main__":
    run(__doc__ or "", lambda ledger: Servers(ledger).application())
