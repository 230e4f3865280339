"""Implements `ports.Upstream` on aiohttp's connections and parser, below its session.

A session sends idempotent requests again by itself when a pooled connection turns out to be stale,
and does not tell whether a byte was written. Here each attempt is one write on one connection: what
fails before it is `NotSent`, all that follows is `Lost`. No redirects, no cookies, nothing decoded.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Self

from aiohttp import ClientRequest, ClientTimeout, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.streams import StreamReader
from yarl import URL

from coatcheck_sidecar.core import address
from coatcheck_sidecar.core.relay import end_to_end
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.ports import Clock, Headers, Lost, NotSent, Outgoing

KEEPALIVE_S: Final = 4.0
"""Common servers hang up after 5 s: a connection is not used again when that is near."""
LINE_BYTES_MAX: Final = 65_536
"""Of an answer's header: cookies and policies of some upstreams are that long."""
HEADERS_MAX: Final = 256
BUFFER_BYTES: Final = 65_536
"""Read ahead of the agent, for each answer."""
FILE_BYTES: Final = 262_144
ORIGINS_MAX: Final = 256
"""Connection templates kept; a tool has one, the forward proxy some."""
WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
"""RFC 9110, section 8.6: these say the length of their body even if there is none."""


class _Resolver(AbstractResolver):
    """Names -> addresses that the tool may reach, kept until one of them fails."""

    def __init__(self, *, is_private_ok: bool) -> None:
        self._is_private_ok = is_private_ok
        self._pinned: dict[tuple[str, int], list[ResolveResult]] = {}

    async def resolve(  # noqa: PLR0917 - aiohttp's signature
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = self._pinned.get((host, port))
        if found is None:
            loop = asyncio.get_running_loop()
            infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
            addresses = [str(info[4][0]) for info in infos]
            address.pick(addresses, is_private_ok=self._is_private_ok)
            found = [
                ResolveResult(
                    hostname=host,
                    host=str(info[4][0]),
                    port=port,
                    family=info[0],
                    proto=info[2],
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
                for info in infos
            ]
            self._pinned[host, port] = found
        return found

    def forget(self) -> None:
        """What was pinned does not answer: upstreams move."""
        self._pinned.clear()

    async def close(self) -> None:
        self.forget()


class HttpUpstream:
    """The connections of one tool."""

    def __init__(self, tool: Tool, *, clock: Clock) -> None:
        """Connects when it is first asked to send."""
        self._tool = tool
        self.clock = clock
        self._resolver = _Resolver(is_private_ok=tool.private)
        self._pool: TCPConnector | None = None
        self._alone: TCPConnector | None = None
        self._origins: dict[str, ClientRequest] = {}

    def send(self, request: Outgoing) -> "_Attempt":
        """Make one attempt; see `ports.Upstream`."""
        return _Attempt(self, request)

    async def connect(self, request: Outgoing, origin: str) -> Connection:
        """A connection to `origin`, a new one if the request is alone; raises `NotSent`."""
        try:
            connector = self._connector(is_alone=request.is_alone)
            return await connector.connect(
                self._template(origin), traces=[], timeout=ClientTimeout(connect=request.connect_s)
            )
        except address.Forbidden as error:
            raise NotSent(f"{origin}: {error}") from error
        except (OSError, TimeoutError, ValueError, ssl.SSLError) as error:
            self._resolver.forget()
            raise NotSent(f"no connection to {origin}: {_said(error)}") from error

    def _connector(self, *, is_alone: bool) -> TCPConnector:
        if self._pool is None or self._alone is None:
            common: dict[str, Any] = {
                "limit": 0,
                "resolver": self._resolver,
                "use_dns_cache": False,
                "ssl": ssl.create_default_context(cafile=self._tool.ca_file or None),
            }
            self._pool = TCPConnector(keepalive_timeout=KEEPALIVE_S, **common)
            self._alone = TCPConnector(force_close=True, **common)
        return self._alone if is_alone else self._pool

    def _template(self, origin: str) -> ClientRequest:
        """What aiohttp finds connections by."""
        found = self._origins.get(origin)
        if found is None:
            url = URL(origin)
            literal = address.literal(url.raw_host or "")
            if literal is not None:
                address.pick([literal], is_private_ok=self._tool.private)
                url = url.with_host(literal)
            if len(self._origins) >= ORIGINS_MAX:
                self._origins.clear()
            found = ClientRequest("GET", url, loop=asyncio.get_running_loop())
            self._origins[origin] = found
        return found

    async def close(self) -> None:
        """Release connections."""
        for connector in (self._pool, self._alone):
            if connector is not None:
                await connector.close()


class _Attempt:
    """One attempt, from the connection to the end of the answer. Implements `UpstreamAnswer`."""

    def __init__(self, upstream: HttpUpstream, request: Outgoing) -> None:
        self._upstream = upstream
        self._request = request
        self._feeding: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        request = self._request
        scheme, _, rest = request.url.partition("://")
        authority, slash, path = rest.partition("/")
        head = _head(request, authority=authority, target=slash + path or "/")
        self._connection = await self._upstream.connect(request, f"{scheme}://{authority}")
        try:
            self._message, self._payload = await self._exchange(head)
        except BaseException as error:
            self._close()
            if isinstance(error, Exception) and not isinstance(error, NotSent):
                raise Lost(f"{request.method} {authority}: {_said(error)}") from error
            raise
        return self

    async def _exchange(self, head: bytes) -> tuple[RawResponseMessage, StreamReader]:
        request, protocol = self._request, self._connection.protocol
        if protocol is None or not protocol.is_connected():
            raise NotSent("the connection was closed before anything was written")
        protocol.set_response_params(
            skip_payload=request.method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_timeout=request.head_s,
            read_bufsize=BUFFER_BYTES,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
        )
        until_s = request.until_boot_s
        if until_s is not None and self._upstream.clock.boottime() > until_s:
            raise NotSent("the lease lapsed before anything was written")
        loop = asyncio.get_running_loop()
        writer = StreamWriter(protocol, loop)
        if isinstance(request.body, Path):
            await writer.write(head, drain=False)
            feeding = _feed(writer, request.body, protocol=protocol)
            self._feeding = asyncio.create_task(  # noqa: TID251 - held here, ended by _close
                feeding
            )
        else:
            await writer.write(head + request.body if request.body else head, drain=False)
            protocol.start_timeout()
        while True:
            message, payload = await protocol.read()
            if not 100 <= message.code < 200 or message.code == 101:
                break
        if not payload.is_eof():
            protocol.read_timeout = request.idle_s
            protocol.start_timeout()
        return message, payload

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        is_fed = self._feeding is None or self._feeding.done()
        if kind is None and is_fed and self._payload.is_eof():
            self._connection.release()
        else:
            self._close()

    def _close(self) -> None:
        if self._feeding is not None:
            self._feeding.cancel()
        self._connection.close()

    @property
    def status(self) -> int:
        """Three digits."""
        return self._message.code

    @property
    def headers(self) -> Headers:
        """As they came, hop-by-hop ones left out."""
        return end_to_end(self._message.headers.items())

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, still encoded as it came; raises `Lost` if it is cut."""
        try:
            while data := await self._payload.readany():
                yield data
        except Exception as error:
            raise Lost(f"the answer was cut: {_said(error)}") from error


def _head(request: Outgoing, *, authority: str, target: str) -> bytes:
    """The request's first bytes; raises `NotSent` for what would be read otherwise."""
    body = request.body
    length = body.stat().st_size if isinstance(body, Path) else len(body)
    lines = [f"{request.method} {target} HTTP/1.1", f"Host: {authority}"]
    lines += [f"{name}: {value}" for name, value in request.headers]
    if length or request.method in WITH_BODY:
        lines.append(f"Content-Length: {length}")
    if request.is_alone:
        lines.append("Connection: close")
    text = "\r\n".join(lines)
    ends = len(lines) - 1
    if text.count("\n") != ends or text.count("\r") != ends or "\0" in text:
        raise NotSent("a header has a line end or NUL in it")
    return f"{text}\r\n\r\n".encode("utf-8", "surrogateescape")


async def _feed(writer: StreamWriter, path: Path, *, protocol: ResponseHandler) -> None:
    """Send a body that lies in a file; what fails is told by the reading side."""
    try:
        with path.open("rb") as file:
            while data := await asyncio.to_thread(file.read, FILE_BYTES):
                await writer.write(data)
        protocol.start_timeout()
    except OSError as error:
        protocol.set_exception(error)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


class HttpUpstreams:
    """The connections of all tools; one is made when it is first asked for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._made: dict[tuple[str, str, bool], HttpUpstream] = {}

    def of(self, tool: Tool) -> HttpUpstream:
        """The tool's own; the forward proxy has tools that no configuration names."""
        key = (tool.name, tool.upstream or tool.mcp, tool.private)
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = HttpUpstream(tool, clock=self._clock)
        return found

    async def close(self) -> None:
        """Release connections."""
        for upstream in self._made.values():
            await upstream.close()
