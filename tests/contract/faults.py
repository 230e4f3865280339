"""Servers that fail a store in one known way: deaf, cut off, in conflict, or careless."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from aiohttp import web

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.ports import Clock, Store
from coatcheck_sidecar.stores.objects import Limits
from coatcheck_sidecar.stores.s3 import open_s3
from tests.servers import ACCESS_KEY, LOOPBACK, REGION, SECRET_KEY

QUICK = Limits(connect_s=0.5, answer_s=0.5, tries=3, pause_s=0.01)
URL = "s3://bucket/prefix"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def open_at(endpoint: str, *, limits: Limits = QUICK, clock: Clock | None = None) -> Store:
    environ = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    }
    return open_s3(urlsplit(URL), {}, environ=environ, clock=clock or SystemClock(), limits=limits)


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[str]:
    """A server that answers everything by `handler`; its endpoint."""
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{name:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, LOOPBACK, 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def error(status: int, code: str, message: str = "Said by the server.") -> web.Response:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


@asynccontextmanager
async def deaf() -> AsyncIterator[str]:
    """Accepts connections and never says a word."""
    gone = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(listen, LOOPBACK, 0)
    async with server:
        yield f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
        gone.set()


class Cutter:
    """A proxy that, while it `cuts`, drops the answer and not the question."""

    def __init__(self, endpoint: str) -> None:
        self.cuts = False
        self.cut_count = 0
        self._upstream = urlsplit(endpoint)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        async with server:
            yield f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        with contextlib.suppress(OSError):
            await asyncio.gather(
                self._pass(reader, upstream[1]), self._pass(upstream[0], writer, is_answer=True)
            )

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_answer: bool = False
    ) -> None:
        try:
            while data := await source.read(65536):
                if is_answer and self.cuts:
                    self.cut_count += 1
                    break
                sink.write(data)
                await sink.drain()
        finally:
            sink.close()


class CarelessS3:
    """Enough of S3 for a probe, which minds conditions as little as told.

    `ignores`: never looks at them. `is_unlocked`: looks, waits, writes.
    """

    def __init__(self, *, ignores: bool = False, is_unlocked: bool = False) -> None:
        self._ignores = ignores
        self._is_unlocked = is_unlocked
        self.objects: dict[str, bytes] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        name = request.path
        match request.method:
            case "PUT":
                return await self._put(name, request)
            case "DELETE":
                self.objects.pop(name, None)
                return web.Response(status=204)
            case _ if name in self.objects:
                data = self.objects[name]
                modified = "Sun, 22 Nov 2026 12:00:00 GMT"
                return web.Response(
                    body=data, headers={"ETag": tag(data), "Last-Modified": modified}
                )
            case _:
                return error(404, "NoSuchKey")

    async def _put(self, name: str, request: web.Request) -> web.Response:
        data = await request.read()
        if not self._ignores and not self._holds(name, request):
            return error(412, "PreconditionFailed")
        if self._is_unlocked:
            await asyncio.sleep(0.02)
        self.objects[name] = data
        return web.Response(headers={"ETag": tag(data)})

    def _holds(self, name: str, request: web.Request) -> bool:
        kept = self.objects.get(name)
        if request.headers.get("If-None-Match") == "*":
            return kept is None
        wanted = request.headers.get("If-Match")
        return wanted is None or (kept is not None and wanted == tag(kept))


def tag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'
