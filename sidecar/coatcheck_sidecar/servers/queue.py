"""The queues over HTTP, for scalers: at zero replicas no sidecar runs that they could ask.

It has a listener of its own and only looks: what is behind it may not even write to the store. An
answer is never older than `every_s`; while the store is away there is none (503), and a scaler that
gets none leaves things as they are.
"""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Protocol

from coatcheck_sidecar.core.model import RUN_ID
from coatcheck_sidecar.core.waiting import Waiting
from coatcheck_sidecar.engine.lookout import Look
from coatcheck_sidecar.ports import Clock, StoreError
from coatcheck_sidecar.servers.admin import HttpServer
from coatcheck_sidecar.servers.problems import problem_of

if TYPE_CHECKING:
    from aiohttp import web

EVERY_S: Final = 5.0
"""However many ask, the store is looked at so often at most: a scaler asks every 30 s."""
READY_AGE_S: Final = 60.0
"""A look that went well proves so long that the store is there: probes cost no looks of theirs."""
NO_STORE: Final = {"Cache-Control": "no-store"}


class Looks(Protocol):
    """Who looks."""

    async def look(self) -> Look:
        """Count all queues; raises `StoreError`."""


class Desk:
    """One look for all who ask within a moment."""

    def __init__(self, looks: Looks, clock: Clock, *, every_s: float = EVERY_S) -> None:
        """`looks` is asked when the last answer is older than `every_s`."""
        self._looks = looks
        self._clock = clock
        self._every_s = every_s
        self._turn = asyncio.Lock()
        self._seen: tuple[float, Look] | None = None

    async def look(self, *, age_s_max: float | None = None) -> Look:
        """What waits, as of a moment ago or of `age_s_max` before; raises `StoreError`."""
        age_s_max = self._every_s if age_s_max is None else age_s_max
        async with self._turn:
            now_s = self._clock.monotonic()
            if self._seen is None or now_s - self._seen[0] >= age_s_max:
                self._seen = None
                self._seen = (now_s, await self._looks.look())
            return self._seen[1]


def looked(look: Look, queue: str | None = None) -> dict[str, Any]:
    """What was seen as the API says it: of all queues, or of one, which need not be there."""
    if queue is None:
        lines = [_line(waiting) for waiting in look.queues]
        return {"wanted": look.wanted, "queues": lines, "is_cut": look.is_cut}
    found = [waiting for waiting in look.queues if waiting.queue == queue]
    return _line(*found or [Waiting(queue=queue)]) | {"is_cut": look.is_cut}


def _line(waiting: Waiting) -> dict[str, Any]:
    return asdict(waiting) | {"wanted": waiting.wanted}


def queue_server(desk: Desk, *, host: str, port: int) -> HttpServer:
    """`/v1/queue`, `/v1/queues/<queue>` and two probes, all of them GET, and nothing else."""
    from aiohttp import web

    async def answered(request: "web.Request") -> "web.Response":
        try:
            told = looked(await desk.look(), request.match_info.get("queue"))
        except StoreError as error:
            return problem_of(error).response()
        return web.json_response(told, headers=NO_STORE)

    async def readyz(_request: "web.Request") -> "web.Response":
        try:
            await desk.look(age_s_max=READY_AGE_S)
        except StoreError as error:
            return web.Response(status=503, text=f"{error}\n")
        return web.Response(text="ok\n")

    async def livez(_request: "web.Request") -> "web.Response":
        return web.Response(text="ok\n")

    app = web.Application()
    app.router.add_get("/v1/queue", answered)
    app.router.add_get(f"/v1/queues/{{queue:{RUN_ID.pattern}}}", answered)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    return HttpServer(app, host=host, port=port)
