"""The agent's end of an answer, over HTTP."""

from aiohttp import web
from multidict import CIMultiDict

from coatcheck_sidecar.ports import Headers


class Reply:
    """The agent's end of an answer. Nothing is raised when it hangs up."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._is_lost = False
        self.response: web.StreamResponse | None = None

    @property
    def is_gone(self) -> bool:
        """It hung up."""
        transport = self._request.transport
        return self._is_lost or transport is None or transport.is_closing()

    async def start(self, status: int, headers: Headers) -> None:
        """The head, once."""
        self.response = web.StreamResponse(status=status, headers=CIMultiDict(headers))
        try:
            await self.response.prepare(self._request)
        except ConnectionError:
            self._is_lost = True

    async def write(self, data: bytes) -> None:
        """A piece of the body."""
        if self.response is None or self.is_gone or not data:
            return
        try:
            await self.response.write(data)
        except ConnectionError:
            self._is_lost = True

    async def end(self) -> None:
        """The answer is whole."""
        if self.response is None or self.is_gone:
            return
        try:
            await self.response.write_eof()
        except ConnectionError:
            self._is_lost = True

    def cut(self) -> None:
        """It is not, and never will be."""
        self._is_lost = True
        if self._request.transport is not None:
            self._request.transport.abort()

    def given(self) -> web.StreamResponse:
        """What a handler returns; a head that was never sent is that of a lost connection."""
        return self.response or web.Response(status=499)
