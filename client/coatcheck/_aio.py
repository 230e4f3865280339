"""The asyncio driver: one connection to the sidecar, kept up; any number of requests at once."""

import asyncio
import inspect
from typing import Any

from coatcheck import _ops
from coatcheck._desk import BackOff, Desk
from coatcheck._session import HANDSHAKE_S, Ask, Session
from coatcheck._tool import Invoke
from coatcheck.errors import CoatcheckError, ProtocolError, Unavailable
from coatcheck.wire import Assembler, FrameReader, Message, Request, WireError, encode_message


class _Socket(asyncio.Protocol):
    """One life of the socket. `greetings` are the replies that the handshake waits for."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._reader, self._assembler = FrameReader(), Assembler()
        self._transport: asyncio.WriteTransport | None = None
        self.greetings: dict[int, asyncio.Future[Message]] = {}
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - a stream's is one
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                message = self._assembler.add(frame)
                if message is not None:
                    self._connection.received(self, message)
        except WireError as error:
            self._connection.fail(ProtocolError(f"the sidecar sent what is no frame: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        for future in self.greetings.values():
            if not future.done():
                future.set_exception(ConnectionError("the sidecar closed the connection"))
        self._connection.lost(self)

    def send(self, number: int, ask: Ask) -> None:
        if self._transport is not None:
            self._transport.writelines(encode_message(ask.type, number, ask.body, ask.attachment))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Connection:
    """Performs operations for one session; connects, and connects again, by itself."""

    def __init__(self, session: Session, *, path: str) -> None:
        """`path` is the sidecar's socket. Nothing is sent before the first operation."""
        self._session = session
        self._path = path
        self._desk = Desk(session)
        self._socket: _Socket | None = None
        self._keeper: asyncio.Task[None] | None = None
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
            return self._send(command, None)
        if command.type is not Request.CALL:
            return await self._request(command)
        async with self._calls:
            return await self._request(command)

    async def _request(self, ask: Ask) -> Message:
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._send(ask, future)
        return await future

    def _send(self, ask: Ask, future: asyncio.Future[Message] | None) -> None:
        number = self._desk.take(ask, future)
        if self._socket is not None:
            self._socket.send(number, ask)
        else:
            self._keep_up()

    def _keep_up(self) -> None:
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._connect())  # noqa: TID251 - awaited by close

    async def _connect(self) -> None:
        back_off = BackOff(self._path)
        try:
            while True:
                failure = await self._try_to_connect()
                if failure is None:
                    return
                await asyncio.sleep(back_off.delay_s(failure))
        except CoatcheckError as error:
            self.fail(error)

    async def _try_to_connect(self) -> Exception | None:
        socket = _Socket(self)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                loop = asyncio.get_running_loop()
                await loop.create_unix_connection(lambda: socket, self._path)
                await self._greet(socket)
            # From here to the end nothing is awaited: it can't be lost unnoticed.
            if not socket.is_lost:
                self._socket = socket
                self._calls = asyncio.Semaphore(self._session.calls_max)
                for number, ask in self._desk.again():
                    socket.send(number, ask)
                return None
        except (OSError, CoatcheckError) as error:  # a TimeoutError is an OSError
            return error
        finally:
            if self._socket is not socket:
                socket.close()
        return ConnectionError("the sidecar closed the connection")

    async def _greet(self, socket: _Socket) -> None:
        greeting = _ops.handshake(self._session)
        try:
            ask = next(greeting)
            while True:
                number = self._session.next_id()
                socket.greetings[number] = asyncio.get_running_loop().create_future()
                socket.send(number, ask)
                reply = await socket.greetings[number]
                self._session.settle(ask, reply)
                ask = greeting.send(reply)
        except StopIteration:
            return

    def received(self, socket: _Socket, message: Message) -> None:
        """Take what came; send what must be said because of it."""
        future = socket.greetings.get(message.id)
        if future is not None:
            if not future.done():
                future.set_result(message)
            return
        for number, ask in self._desk.received(message):
            socket.send(number, ask)
        if self._desk.error is not None:
            socket.close()

    def lost(self, socket: _Socket) -> None:
        """The socket closed: connect again if there is a need."""
        if socket is self._socket:
            self._socket = None
            if self._desk.is_needed:
                self._keep_up()

    def fail(self, error: CoatcheckError) -> None:
        """Give up for good."""
        self._desk.fail(error)
        if self._socket is not None:
            self._socket.close()

    async def close(self) -> None:
        """End the connection; what still waits is refused."""
        self.fail(Unavailable("the connection was closed"))
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
