"""The asyncio driver: one connection to the sidecar, kept up; any number of requests at once."""

import asyncio
import inspect
from collections.abc import Coroutine
from contextlib import nullcontext
from functools import cached_property
from typing import Any, cast

from coatcheck._desk import HANDSHAKE_S, Desk, performed
from coatcheck._ops import Command, ToolOp
from coatcheck._session import Ask, Session, Value
from coatcheck._tool import Invoke
from coatcheck.errors import CoatcheckError, Unavailable
from coatcheck.wire import Message, Request


class Connection(asyncio.Protocol):
    """Performs operations for one session; connects, and connects again, by itself.

    It is the protocol of one transport after another: the next is made after `connection_lost`.
    """

    def __init__(self, session: Session, path: str) -> None:
        """`path` is the sidecar's socket. Nothing is sent before the first operation."""
        self._session = session
        self._path = path
        self._desk = Desk(session, path)
        self._transport: asyncio.Transport | None = None
        self._failure: Exception | None = None
        self._ended: asyncio.Future[Exception] | None = None
        self._keeper: asyncio.Task[None] | None = None

    def perform(self, operation: ToolOp[Value]) -> Coroutine[Any, Any, Value]:
        """Do what `operation` yields until it returns. Raises what it raises."""
        return performed(operation, self._do)

    async def _do(self, command: Command) -> Any:
        if isinstance(command, Invoke):
            return await _invoke(command)
        if command is None:
            return await self._close()
        limit = self._calls if command.type is Request.CALL else nullcontext()
        async with asyncio.timeout(command.within_s), limit:
            return await self._request(command)

    @cached_property
    def _calls(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(self._session.calls_max)  # known since the greeting

    def _request(self, ask: Ask) -> asyncio.Future[Message]:
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        frames = self._desk.asked(ask, future)
        if not future.done():
            self._send(frames)
        return future

    def _send(self, frames: list[bytes]) -> None:
        if self._transport is not None:
            self._transport.writelines(frames)
        elif self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep_up())  # noqa: TID251 - awaited by _close

    async def _keep_up(self) -> None:
        """Connect, and connect again, as long as anybody needs it."""
        loop = asyncio.get_running_loop()
        delay_s: float | None = 0.0
        while delay_s is not None:
            await asyncio.sleep(delay_s)
            self._ended, self._failure = loop.create_future(), None
            try:
                await loop.create_unix_connection(lambda: self, self._path)
                await asyncio.wait({self._ended}, timeout=HANDSHAKE_S)
                if not self._desk.is_ready:
                    self._abort(TimeoutError("the sidecar takes connections and says nothing"))
                failure = await self._ended
            except OSError as error:
                failure = error
            delay_s = self._desk.lost(failure)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses of it
        self._send(self._desk.connected())

    def data_received(self, data: bytes) -> None:
        """Hand it out, and send what must be said because of it."""
        try:
            self._send(self._desk.received(data))
        except CoatcheckError as error:
            self._abort(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the keeper."""
        self._transport = None
        if self._ended is not None and not self._ended.done():
            closed = ConnectionError("the sidecar closed the connection")
            self._ended.set_result(self._failure or exc or closed)

    def _abort(self, failure: Exception) -> None:
        self._failure = failure
        if self._transport is not None:
            self._transport.abort()

    async def _close(self) -> None:
        """End the connection; what still waits is refused."""
        self._desk.fail(Unavailable("the connection was closed"))
        if self._transport is not None:
            self._transport.close()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})


async def _invoke(invoke: Invoke) -> Any:
    function = invoke.call.function
    called = getattr(function, "__call__", None)  # noqa: B004 - an object's may be async
    with invoke:
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called):
            return await invoke.start()
        value = await asyncio.to_thread(invoke.start)
        return await value if inspect.isawaitable(value) else value
