"""An answer on its way to the agent, written straight to its connection."""

from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from aiohttp.http import HttpVersion11, StreamWriter
from multidict import CIMultiDict

from coatcheck_sidecar.core.problem import Problem
from coatcheck_sidecar.ports import Headers

if TYPE_CHECKING:
    from aiohttp import web

REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
BODILESS: Final = frozenset({204, 304})
"""RFC 9110, section 6.4.1."""


class HttpReply:
    """Implements `ports.AgentReply` for one request; is what its handler returns to the server."""

    def __init__(self, request: "web.BaseRequest") -> None:
        self._writer = cast(StreamWriter, request.writer)
        self._protocol = request.protocol
        self._is_head = request.method == "HEAD"
        self._can_chunk = request.version >= HttpVersion11
        self._is_lost = False
        self.is_started = False
        self.keep_alive = request.keep_alive
        """What the server asks of an answer, with `prepare` and `write_eof`."""

    @property
    def is_gone(self) -> bool:
        """The agent hung up."""
        transport = self._protocol.transport
        return self._is_lost or transport is None or transport.is_closing()

    async def start(self, status: int, headers: Headers) -> None:
        """The head, once; it leaves with the first piece if the length is known."""
        self.is_started = True
        if self.is_gone:
            return
        out = CIMultiDict(headers)
        length = out.get("Content-Length")
        has_body = not self._is_head and status not in BODILESS and status >= 200
        if has_body and length is not None:
            self._writer.length = int(length)
        elif has_body and self._can_chunk:
            out["Transfer-Encoding"] = "chunked"
            self._writer.enable_chunking()
        elif has_body:
            self.keep_alive = False
        if not self.keep_alive:
            out["Connection"] = "close"
        line = f"HTTP/1.1 {status} {REASONS.get(status, '')}"
        await self._writer.write_headers(line, out)
        if has_body and length is None:
            self._writer.send_headers()

    async def write(self, data: bytes) -> None:
        """A piece of the body; waits while the agent reads slowly."""
        if self.is_gone:
            return
        try:
            await self._writer.write(data)
        except ConnectionError:
            self._is_lost = True

    async def end(self) -> None:
        """The answer is whole."""
        if self.is_gone:
            return
        try:
            await self._writer.write_eof()
        except ConnectionError:
            self._is_lost = True

    def cut(self) -> None:
        """It never will be."""
        self.keep_alive = False
        self._protocol.force_close()

    async def give(self, problem: Problem) -> None:
        """An error of ours."""
        length = ("Content-Length", str(len(problem.body)))
        await self.start(problem.status, (*problem.headers, length))
        await self.write(problem.body)
        await self.end()

    async def prepare(self, _request: "web.BaseRequest") -> None:
        """Asked by the server once the handler is done: all is written by then."""

    async def write_eof(self) -> None:
        """Likewise."""

    def as_response(self) -> "web.StreamResponse":
        """What a handler returns."""
        return cast("web.StreamResponse", self)
