"""The asyncio driver: one connection to the sidecar, kept up; any number of requests at once."""

import asyncio
import inspect
from typing import Any

from coatcheck import _clock, _ops
from coatcheck._session import (
    BACK_OFF_S_MAX,
    BACK_OFF_S_MIN,
    HANDSHAKE_S,
    RECONNECT_S,
    Ask,
    Session,
)
from coatcheck._tool import Invoke
from coatcheck.errors import CoatcheckError, ProtocolError, Unavailable, from_wire
from coatcheck.wire import (
    PUSH_ID,
    Assembler,
    FrameReader,
    Message,
    Reply,
    Request,
    Retry,
    WireError,
    encode_message,
)

Waiter = asyncio.Future[Message] | None


class _Socket(asyncio.Protocol):
    """One life of the socket. `pending` is what the handshake asked on it."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._reader, self._assembler = FrameReader(), Assembler()
        self._transport: asyncio.WriteTransport | None = None
        self.is_lost = False
        self.pending: dict[int, asyncio.Future[Message]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                message = self._assembler.add(frame)
                if message is not None:
                    self._connection.received(self, message)
        except WireError as error:
            self._connection.failed(ProtocolError(f"the sidecar sent what is no frame: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        for future in self.pending.values():
            if not future.done():
                future.set_exception(ConnectionError("the sidecar closed the connection"))
        self._connection.lost(self)

    def send(self, number: int, ask: Ask) -> None:
        if self._transport is not None:
            self._transport.writelines(encode_message(ask.type, number, ask.body, ask.attachment))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def ask(self, number: int, ask: Ask) -> Message:
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.pending[number] = future
        self.send(number, ask)
        return await future


class Connection:
    """Performs operations for one session; connects, and connects again, by itself."""

    def __init__(self, session: Session, *, path: str) -> None:
        """`path` is the sidecar's socket. Nothing is sent before the first operation."""
        self._session = session
        self._path = path
        self._pending: dict[int, tuple[Ask, Waiter]] = {}
        self._socket: _Socket | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._error: CoatcheckError | None = None
        self._calls = asyncio.Semaphore(session.calls_max)

    async def perform(self, operation: _ops.ToolOp[_ops.Result]) -> _ops.Result:
        """Do what `operation` yields until it returns. Raises what it raises."""
        try:
            command = next(operation)
            while True:
                try:
                    reply = await self._do(command)
                except BaseException as error:
                    command = operation.throw(error)
                else:
                    command = operation.send(reply)
        except StopIteration as stop:
            result: _ops.Result = stop.value
            return result

    async def _do(self, command: Ask | Invoke) -> Any:
        if isinstance(command, Invoke):
            return await _invoke(command)
        if command.is_posted:
            return self._post(command, None)
        if command.type is not Request.CALL:
            return await self._request(command)
        async with self._calls:
            return await self._request(command)

    async def _request(self, ask: Ask) -> Message:
        # A future that was cancelled tells, when the reply comes, that nobody waits for it.
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._post(ask, future)
        return await future

    def _post(self, ask: Ask, future: Waiter) -> None:
        if self._error is not None:
            self._session.refused(ask)
            raise self._error
        number = self._session.next_id()
        self._pending[number] = (ask, future)
        if self._socket is not None:
            self._socket.send(number, ask)
        else:
            self._keep_up()

    def _keep_up(self) -> None:
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        started_s, delay_s = _clock.monotonic(), BACK_OFF_S_MIN
        while True:
            error = await self._try_to_connect()
            if error is None:
                return
            if isinstance(error, CoatcheckError) and error.retry is not Retry.LATER:
                self.failed(error)
                return
            if _clock.monotonic() - started_s + delay_s > RECONNECT_S:
                text = f"no sidecar answers at {self._path} for {RECONNECT_S:.0f} s: {error}"
                self.failed(Unavailable(text, socket=self._path))
                return
            await asyncio.sleep(_clock.uniform(delay_s / 2, delay_s))
            delay_s = min(delay_s * 2, BACK_OFF_S_MAX)

    async def _try_to_connect(self) -> Exception | None:
        socket = _Socket(self)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                loop = asyncio.get_running_loop()
                await loop.create_unix_connection(lambda: socket, self._path)
                await self._greet(socket)
            # From here to the end nothing is awaited: it can't be lost unnoticed.
            if not socket.is_lost:
                self._adopt(socket)
                return None
        except (OSError, CoatcheckError) as error:  # a TimeoutError is an OSError
            return error
        finally:
            if self._socket is not socket:
                socket.close()
        return ConnectionError("the sidecar closed the connection")

    def _adopt(self, socket: _Socket) -> None:
        self._socket = socket
        self._calls = asyncio.Semaphore(self._session.calls_max)
        for number, (ask, future) in sorted(self._pending.items()):
            again = ask.whole or ask
            self._pending[number] = (again, future)
            socket.send(number, again)

    async def _greet(self, socket: _Socket) -> None:
        greeting = _ops.handshake(self._session)
        try:
            ask = next(greeting)
            while True:
                reply = await socket.ask(self._session.next_id(), ask)
                self._session.settle(ask, reply)
                ask = greeting.send(reply)
        except StopIteration:
            return

    def received(self, socket: _Socket, message: Message) -> None:
        """Hand a reply to who waits for it, a push to the session."""
        if message.id in socket.pending:
            future = socket.pending.pop(message.id)
            if not future.done():
                future.set_result(message)
        elif message.id in self._pending:
            self._settle(*self._pending.pop(message.id), message)
        elif message.id == PUSH_ID and message.type == Reply.ERROR:
            self.failed(from_wire(message.body))
        elif message.id == PUSH_ID:
            self._session.push(message)

    def _settle(self, ask: Ask, future: Waiter, message: Message) -> None:
        is_awaited = future is not None and not future.cancelled()
        try:
            follow_up = self._session.settle(ask, message, is_abandoned=not is_awaited)
        except CoatcheckError as error:
            if future is not None and is_awaited:
                future.set_exception(error)
            return
        if future is not None and is_awaited:
            future.set_result(message)
        if follow_up is not None:
            self._post(follow_up, None)

    def lost(self, socket: _Socket) -> None:
        """The socket closed: connect again if the run is still ours, or a reply is due."""
        if socket is not self._socket:
            return
        self._socket = None
        is_needed = self._pending or (self._session.is_open and not self._session.is_ended)
        if is_needed and self._error is None:
            self._keep_up()

    def failed(self, error: CoatcheckError) -> None:
        """Give up for good: everything that waits, and all that comes, gets `error`."""
        self._error = self._error or error
        pending, self._pending = self._pending, {}
        for ask, future in pending.values():
            self._session.refused(ask)
            if future is not None and not future.done():
                future.set_exception(error)
        if self._socket is not None:
            self._socket.close()

    async def close(self) -> None:
        """End the connection; what still waits is refused."""
        self.failed(Unavailable("the connection was closed"))
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})


async def _invoke(invoke: Invoke) -> Any:
    function = invoke.call.function
    with invoke:
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
        ):
            return await invoke.start()
        value = await asyncio.to_thread(invoke.start)
        return await value if inspect.isawaitable(value) else value
