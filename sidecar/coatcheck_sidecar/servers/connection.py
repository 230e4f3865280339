"""aiohttp's server, but for its errors: what can't be read is answered by a problem as well."""

import asyncio
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader

from coatcheck_sidecar.servers.problems import Problem

DETAIL_CHARS_MAX: Final = 200
"""Of what the parser says, which ends with what it could not read."""
BAD_REQUEST: Final = 400


class _Connection(web.RequestHandler):
    """Refuses what the parser can't read, and what a handler failed on, as all else is refused."""

    __slots__ = ("_body",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._body: StreamReader | None = None
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Whoever waits for the rest of a body learns that it can't be read.

        The parser's error alone would wait behind the request whose body it is, for ever.
        """
        super().data_received(data)
        if not self._messages:
            return
        message, body = self._messages[-1]
        error = getattr(message, "exc", None)
        if error is None:
            self._body = body
        elif self._body is not None and not self._body.is_eof():
            self._body.set_exception(error)

    def handle_error(  # noqa: PLR0917 - aiohttp's signature
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer; the connection ends with it, for nobody knows what follows."""
        super().handle_error(request, status, exc, message)  # logs, or raises if it is too late
        if isinstance(exc, HttpProcessingError):
            why = " ".join((message or exc.message).split())
            return _refused(BAD_REQUEST, "protocol_error", why=f"this can't be read: {why}")
        return _refused(status, "internal", why="this failed here: see the sidecar's log")


def _refused(status: int, code: str, *, why: str) -> web.Response:
    problem = Problem(status, code, detail=why[:DETAIL_CHARS_MAX], close=True)
    response = problem.response()
    response.headers["Connection"] = "close"
    return response


class Server(web.Server):
    """As aiohttp's, with connections that answer by problems."""

    def __call__(self) -> web.RequestHandler:
        """A new connection."""
        return _Connection(self, loop=asyncio.get_running_loop(), **self._kwargs)
