"""`GET /ping` as AgentCore asks it, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from coatcheck_sidecar.core import ping
from coatcheck_sidecar.ports import Clock
from coatcheck_sidecar.servers.admin import HttpServer

LOOK_S: Final = 0.5
"""The answer tells seconds: what changes between two requests is seen to the second."""


@asynccontextmanager
async def ping_server(
    runs: Callable[[], int], clock: Clock, *, host: str, port: int
) -> AsyncIterator[HttpServer]:
    """Answers while the block lasts; `runs` are those in flight. Raises `OSError`."""
    from aiohttp import web

    now: ping.Ping | None = None

    def look() -> ping.Ping:
        nonlocal now
        now = ping.look(now, runs=runs(), now_s=clock.wall_ms() // 1000)
        return now

    async def keep_looking() -> None:
        while True:
            look()
            await clock.sleep(LOOK_S)

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(look().body())

    app = web.Application()
    app.router.add_get("/ping", answer)
    server = HttpServer(app, host=host, port=port)
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(keep_looking())
        try:
            await server.start()
            yield server
        finally:
            looking.cancel()
            await server.close()
