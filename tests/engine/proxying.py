"""Pods with a proxy, and upstreams that do what a test says: real sockets on loopback."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.accounts import Accounts
from coatcheck_sidecar.engine.bindings import Bindings
from coatcheck_sidecar.engine.exchange import Exchange
from coatcheck_sidecar.engine.mcp_upstream import aware
from coatcheck_sidecar.engine.settings import Settings
from coatcheck_sidecar.engine.undo_request import UndoRequests
from coatcheck_sidecar.ports import Journal
from coatcheck_sidecar.servers.blobs import BlobRoute
from coatcheck_sidecar.servers.bodies import Bodies
from coatcheck_sidecar.servers.mcp import McpProxy
from coatcheck_sidecar.servers.proxy import Listener, Proxy
from coatcheck_sidecar.servers.routes import Routes, reserve
from coatcheck_sidecar.upstreams.http import HttpUpstreams
from tests.engine.harness import FAST, Pod, Wire, Yard

SECRET = b"s" * 32
BLOB_BYTES_MAX = 64 << 20
NO_HEADERS: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())


@dataclass
class Seen:
    """A request as an upstream got it."""

    method: str
    path: str
    headers: dict[str, str]
    """By name in lower case."""
    body: bytes = b""
    length: int = 0
    reader: asyncio.StreamReader = field(default_factory=asyncio.StreamReader)
    """What the connection says after it."""


Behaviour = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


def answer(status: int, body: bytes = b"{}", *headers: str) -> Behaviour:
    """A plain answer with a length."""
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *headers]
    if not any(line.lower().startswith("content-type") for line in headers):
        lines.append("Content-Type: application/json")
    return raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def raw(data: bytes, *, and_close: bool = False) -> Behaviour:
    async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if and_close:
            writer.close()

    return behave


async def reset(_seen: Seen, writer: asyncio.StreamWriter) -> None:
    """After the request was read whole."""
    writer.transport.abort()


def gate(behave: Behaviour) -> tuple[asyncio.Event, Behaviour]:
    """The behaviour, once the event is set."""
    opened = asyncio.Event()

    async def wait(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await opened.wait()
        await behave(seen, writer)

    return opened, wait


async def stream(writer: asyncio.StreamWriter, *pieces: bytes, end: bool = True) -> None:
    """Pieces of a chunked body, each by itself."""
    for piece in pieces:
        writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)
    if end:
        writer.write(b"0\r\n\r\n")


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@dataclass
class Far:
    """An upstream: counts what it gets, and answers by script; then 200 with the count."""

    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    script: list[Behaviour] = field(default_factory=list)
    connections: int = 0
    keeps_bodies: bool = True
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                seen = await self._read(reader)
                self.seen.append(seen)
                n = len(self.seen)
                said = answer(200, json.dumps({"n": n}).encode())
                behave = self.script.pop(0) if self.script else said
                await behave(seen, writer)
        self.writers.discard(writer)
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Seen:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        method, path, _ = first.split(" ")
        pairs = (line.split(": ", 1) for line in lines if line)
        seen = Seen(method, path, {name.lower(): value for name, value in pairs})
        seen.reader = reader
        left = seen.length = int(seen.headers.get("content-length", 0))
        while left:
            data = await reader.read(min(left, 1 << 20))
            if not data:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(data)
            if self.keeps_bodies:
                seen.body += data
        return seen


@asynccontextmanager
async def far_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[Far]:
    far = Far()
    server = await asyncio.start_server(far.serve, "127.0.0.1", 0, ssl=tls)
    far.port = server.sockets[0].getsockname()[1]
    try:
        yield far
    finally:
        server.close()
        for writer in list(far.writers):
            writer.transport.abort()
        await asyncio.sleep(0.01)  # their tasks end


@dataclass
class Got:
    """An answer as the agent got it."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def decision(self) -> str:
        return self.headers.get("Coatcheck-Decision", "")


@dataclass
class Near:
    """A pod whose agents find their tools."""

    pod: Pod
    port: int
    proxy: Proxy
    folder: Path
    session: aiohttp.ClientSession
    exchange: Exchange
    urls: dict[str, str] = field(default_factory=dict)

    async def agent(self, run: str = "r1", **more: Any) -> Wire:
        """An agent with an open run, whose URL is remembered."""
        wire = await self.pod.wire(incarnation=more.pop("incarnation", None))
        reply = await wire.open(run, **more)
        self.urls[run] = str(reply.body["proxy"])
        return wire

    async def ask(
        self, path: str, *, method: str = "POST", run: str = "r1", url: str = "", **more: Any
    ) -> Got:
        """One request to a tool, as `mail/send`."""
        more.setdefault("allow_redirects", False)
        target = f"{url or self.urls[run]}/{path}"
        async with self.session.request(method, target, **more) as response:
            return Got(response.status, response.headers, await response.read())

    async def die(self) -> None:
        """The sidecar's process ends at once."""
        await self.session.close()
        await self._stack.aclose()
        await self.pod.die()

    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)


async def near(
    yard: Yard,
    tools: Mapping[str, Tool],
    *,
    me: str = "pod1.s1",
    journal: Journal | None = None,
    settings: Settings = FAST,
) -> Near:
    """A pod with a proxy for these tools."""
    reserved = reserve("127.0.0.1", 0)
    port: int = reserved.getsockname()[1]
    bindings = Bindings(SECRET)
    routes = Routes(bindings, f"http://127.0.0.1:{port}")
    pod = await yard.pod(me, journal=journal, settings=settings, routes=routes)
    pod.sidecar.on_let_go = bindings.unbind
    stack = AsyncExitStack()
    clock = pod.sidecar.doors.clock
    upstreams = HttpUpstreams(clock)
    stack.push_async_callback(upstreams.close)
    upstream_of = aware(upstreams.of, clock=clock)
    exchange = Exchange(
        upstream_of, clock=clock, observer=pod.notes, accounts=Accounts(pod.notes, {})
    )
    stack.push_async_callback(exchange.close)
    pod.sidecar.undoing.requests = UndoRequests(exchange, tools)
    folder = yard.folder / "bodies"
    bodies = Bodies(folder, clock=clock)
    bodies.clear()
    proxy = Proxy(tools, bindings=bindings, exchange=exchange, bodies=bodies, local=_local)
    mcp = McpProxy(exchange, upstream_of, observer=pod.notes)
    stack.push_async_callback(mcp.close)
    proxy.mcp = mcp.handle
    proxy.blobs = BlobRoute(bytes_max=BLOB_BYTES_MAX).answer
    listener = Listener(proxy, reserved)
    await listener.start()
    stack.push_async_callback(listener.close)
    session = aiohttp.ClientSession(auto_decompress=False)
    made = Near(pod, port, proxy, folder, session, exchange, _stack=stack)
    yard.at_end.push_async_callback(made.die)
    return made


async def _local(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="local")


def tool_of(far: Far, name: str = "mail", **more: Any) -> dict[str, Tool]:
    """One tool with its upstream on loopback."""
    made = Tool(name=name, upstream=f"{far.url}/base", private=True, patience_s=3.0)
    return {name: replace(made, **more)}
