"""A small HTTP server, health and metrics for the cluster; and who may ask on loopback.

aiohttp is imported when a server starts, not before: it takes longer than all else together.
"""

import ipaddress
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol

from coatcheck_sidecar.servers.hooks import Hooks

if TYPE_CHECKING:
    from ssl import SSLContext

    from aiohttp import web

    Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

AUTHORITY: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9.-]+))(?::[0-9]{1,5})?", re.ASCII
)
"""A host and its port and nothing around them: no user, no path, no second name."""
SCHEME: Final = re.compile(r"https?://", re.IGNORECASE)
SHUTDOWN_S: Final = 1.0
"""How long a request in flight may hold up the end of the process."""


class SidecarView(Protocol):
    """What the servers see of the engine. None of it waits."""

    @property
    def is_started(self) -> bool:
        """It takes agents."""

    @property
    def journal_is_dead(self) -> bool:
        """An I/O error ended the journal."""


Render = Callable[[str], tuple[bytes, str]]
"""From a scraper's `Accept` to the metrics and their content type."""


class HttpServer:
    """One listener, from `start` to `close`."""

    def __init__(
        self,
        app: "web.Application | Handler",
        *,
        host: str,
        port: int,
        tls: "SSLContext | None" = None,
    ) -> None:
        """Port 0 takes any that is free. A handler is asked for every request as it came."""
        self._app = app
        self._runner: web.BaseRunner | None = None
        self._tls = tls
        self.host = host
        self.port = port

    async def start(self) -> None:
        """Listen; `port` is the one taken. Raises `OSError`."""
        from aiohttp import web

        if isinstance(self._app, web.Application):
            self._runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        else:
            from coatcheck_sidecar.servers.connection import Server

            server = Server(self._app, access_log=None, auto_decompress=False)
            self._runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port, ssl_context=self._tls).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop listening, and end what is open."""
        if self._runner is not None:
            await self._runner.cleanup()


def admin_server(
    view: SidecarView, render: Render, *, hooks: Hooks, host: str, port: int
) -> HttpServer:
    """Health, metrics and the kubelet's two hooks, nothing else: the cluster can reach this port.

    `/readyz` is red for a dead journal alone. A native sidecar's readiness is its pod's: were it
    red while the store is away, the whole fleet would leave its Services at once.
    """
    from aiohttp import web

    async def livez(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        if view.journal_is_dead:
            return web.Response(status=503, text="the journal is dead: an I/O error was seen\n")
        return web.Response(text="ok\n")

    async def startupz(_request: web.Request) -> web.Response:
        if not view.is_started:
            return web.Response(status=503, text="starting\n")
        return web.Response(text="ok\n")

    async def metrics(request: web.Request) -> web.Response:
        body, content_type = render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/startupz", startupz)
    app.router.add_get("/metrics", metrics)
    # Not by HEAD, which aiohttp would let in: whoever only looks must not begin a drain.
    app.router.add_get("/drain", hooks.drain, allow_head=False)
    app.router.add_post("/drain", hooks.drain)
    app.router.add_get("/drain/barrier", hooks.barrier, allow_head=False)
    return HttpServer(app, host=host, port=port)


def foreign(hosts: list[str], *, origins: list[str]) -> str | None:
    """Why a request to a loopback port comes from elsewhere, or `None`.

    A page in a browser reaches loopback under a name of its own (DNS rebinding), or says where it
    is from.
    """
    if len(hosts) != 1 or not _is_loopback(hosts[0]):
        return "the Host header must be one loopback name: reach this port as 127.0.0.1"
    if len(origins) > 1 or not all(_is_loopback(SCHEME.sub("", one, count=1)) for one in origins):
        return "pages from elsewhere may not use this port"
    return None


def _is_loopback(authority: str) -> bool:
    found = AUTHORITY.fullmatch(authority)
    if found is None:
        return False
    host = (found["v6"] or found["host"]).lower()
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
