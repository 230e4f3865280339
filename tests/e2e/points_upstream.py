"""A payments server that stops where it is told, so that others can be killed right there.

    python -m tests.e2e.points_upstream --port 8080 --ledger ledger.jsonl

The first request for a `ref` stops at its `point`, until `POST /let-go?ref=` comes; later ones
pass. `GET /seen` tells every arrival and who stands still; `GET /charges?ref=` is for probes, and
no arrival. Money is in the ledger, on disk.

    sent    charged, not one byte answered
    late    arrived, not charged: that comes once it is let go
    lost    arrived, never charged: its connection breaks once it is let go
    head    charged, the head and half of the body are out
    unread  nothing stops: it is answered at once
"""

import asyncio
import json
from collections import defaultdict
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web

from examples.demo.ledger import Charge, Ledger
from tests.e2e.ledger_server import run

KEY: Final = "Idempotency-Key"


class Upstream:
    """The routes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._seen: dict[str, list[str]] = defaultdict(list)
        """Keys of the requests that arrived, "" for none, by ref."""
        self._held: dict[str, asyncio.Event] = {}

    def application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.route("*", "/quotes", self._answer),
                web.post("/charges", self._answer),
                web.put("/charges/{name}", self._answer),
                web.get("/charges", self._probed),
                web.get("/seen", self._tell),
                web.post("/let-go", self._let_go),
            ]
        )
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        ref, point = body["ref"], body["point"]
        key = request.headers.get(KEY, "")
        self._seen[ref].append(key)
        is_first = len(self._seen[ref]) == 1
        if is_first and point in ("late", "lost"):
            await self._stop(ref)
            if point == "lost":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
        made = self._charge(request, body, key=key)
        if is_first and point == "sent":
            await self._stop(ref)
        data = json.dumps({**made, "is": "whole"}).encode()
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(data)
        await response.prepare(request)
        await response.write(data[:10])
        if is_first and point == "head":
            await self._stop(ref)
        await response.write(data[10:])
        return response

    def _charge(self, request: web.Request, body: dict[str, Any], *, key: str) -> dict[str, Any]:
        ref = body["ref"]
        if request.path == "/quotes":
            return {"id": "quote", "ref": ref}
        known: Charge | None = None
        if request.method == "PUT":
            known = next(iter(self._ledger.of(ref)), None)
        elif key:
            known = self._ledger.under(key)
        return asdict(known or self._ledger.add(ref, body["cents"], key=key))

    async def _stop(self, ref: str) -> None:
        event = self._held[ref] = asyncio.Event()
        await event.wait()

    async def _probed(self, request: web.Request) -> web.Response:
        charges = self._ledger.of(request.query["ref"])
        return web.json_response({"charges": [asdict(charge) for charge in charges]})

    async def _tell(self, _: web.Request) -> web.Response:
        held = [ref for ref, event in self._held.items() if not event.is_set()]
        return web.json_response({"arrivals": self._seen, "held": held})

    async def _let_go(self, request: web.Request) -> web.Response:
        self._held[request.query["ref"]].set()
        return web.json_response({})


if __name__ == "__main__":
    run(__doc__ or "", lambda ledger: Upstream(ledger).application())
