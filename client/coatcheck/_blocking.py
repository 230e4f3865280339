"""The driver without asyncio: one connection to the sidecar, which any thread may use.

It has no thread of its own: whoever waits for a reply reads for all, and pushes are read with it.
"""

import math
import socket
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final

from coatcheck import _clock, _ops
from coatcheck._desk import BackOff, Desk
from coatcheck._session import HANDSHAKE_S, Ask, Session
from coatcheck._tool import Invoke
from coatcheck.errors import CoatcheckError, ProtocolError, Unavailable
from coatcheck.wire import Assembler, FrameReader, Message, Request, WireError, encode_message

READ_BYTES: Final = 262_144
"""A unix socket's buffer, and a bit."""


class _Link:
    """One life of the socket."""

    def __init__(self, path: str) -> None:
        self._reader, self._assembler = FrameReader(), Assembler()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(HANDSHAKE_S)
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise

    def send(self, number: int, ask: Ask) -> None:
        """Never raises: whoever reads finds the socket closed, and sends all again."""
        try:
            frames = encode_message(ask.type, number, ask.body, ask.attachment)
            for frame in frames[:-2]:
                self._socket.sendall(frame)
            # The last two at once, or the sidecar wakes up for a part and again for its request.
            self._socket.sendall(b"".join(frames[-2:]))
        except OSError:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def read(self, wait_s: float | None) -> list[Message]:
        """What comes next. Raises `OSError` if it is closed or silent, `ProtocolError`."""
        self._socket.settimeout(wait_s)
        data = self._socket.recv(READ_BYTES)
        if not data:
            raise ConnectionError("the sidecar closed the connection")
        try:
            messages = map(self._assembler.add, self._reader.feed(data))
            return [message for message in messages if message is not None]
        except WireError as error:
            raise ProtocolError(f"the sidecar sent what is no frame: {error}") from error

    def close(self) -> None:
        self._socket.close()


class Connection:
    """Performs operations for one session; connects, and connects again, when asked something."""

    def __init__(self, session: Session, *, path: str) -> None:
        """`path` is the sidecar's socket. Nothing is sent before the first operation."""
        self._session = session
        self._path = path
        self._turn = threading.Condition()
        self._desk = Desk(session)
        self._calls = threading.Semaphore(session.calls_max)
        self._is_reading = False
        self._link: _Link | None = None
        self.give_up_at_s = math.inf
        """No reply is waited for, and no sidecar looked for, after this (monotonic)."""

    def perform(self, operation: _ops.ToolOp[_ops.Result]) -> _ops.Result:
        """Do what `operation` yields until it returns. Raises what it raises."""
        try:
            command = next(operation)
            while True:
                try:
                    reply = self._do(command)
                except BaseException as error:
                    command = operation.throw(error)
                else:
                    command = operation.send(reply)
        except StopIteration as stop:
            result: _ops.Result = stop.value
            return result

    def _do(self, command: Ask | Invoke) -> Any:
        if isinstance(command, Invoke):
            with command:
                return command.start()
        if command.is_posted:
            return self._send(command, None)
        if command.type is not Request.CALL:
            return self._request(command)
        with self._calls:
            return self._request(command)

    def _request(self, ask: Ask) -> Message:
        future: Future[Message] = Future()
        self._send(ask, future)
        try:
            while not future.done():
                self._read_or_wait(future)
        except BaseException:
            with self._turn:
                future.cancel()
            raise
        return future.result()

    def _send(self, ask: Ask, future: Future[Message] | None) -> None:
        with self._turn:
            number = self._desk.take(ask, future)
            if self._link is not None:
                self._link.send(number, ask)

    def _read_or_wait(self, future: Future[Message]) -> None:
        """Read for all if nobody does; else wait until something came."""
        with self._turn:
            if future.done():
                return
            if self._is_reading:
                self._turn.wait()
                return
            self._is_reading = True
        messages: list[Message] = []
        error: CoatcheckError | None = None
        try:
            link = self._link or self._connect()
            messages = link.read(self._left_s(math.inf))
        except OSError as failure:
            if _clock.monotonic() >= self.give_up_at_s:
                error = Unavailable(f"the sidecar did not answer in time: {failure}")
            self._drop()
        except CoatcheckError as failure:
            error = failure
        finally:
            with self._turn:
                self._is_reading = False
                self._take(messages)
                if error is not None:
                    self._desk.fail(error)
                self._turn.notify_all()

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            for number, ask in self._desk.received(message):
                if self._link is not None:
                    self._link.send(number, ask)

    def _left_s(self, most_s: float) -> float | None:
        """How long the socket may be silent; `None` for ever."""
        left_s = min(most_s, self.give_up_at_s - _clock.monotonic())
        return None if left_s == math.inf else max(0.001, left_s)

    def _connect(self) -> _Link:
        back_off = BackOff(self._path, give_up_at_s=self.give_up_at_s)
        while True:
            try:
                return self._try_to_connect()
            except (OSError, CoatcheckError) as failure:
                delay_s = back_off.delay_s(failure)
            _clock.sleep(delay_s)

    def _try_to_connect(self) -> _Link:
        link = _Link(self._path)
        try:
            self._greet(link)
        except BaseException:
            link.close()
            raise
        with self._turn:
            self._link = link
            self._calls = threading.Semaphore(self._session.calls_max)
            for number, ask in self._desk.again():
                link.send(number, ask)
        return link

    def _greet(self, link: _Link) -> None:
        greeting = _ops.handshake(self._session)
        try:
            ask = next(greeting)
            while True:
                with self._turn:
                    number = self._session.next_id()
                link.send(number, ask)
                reply = self._reply_to(link, number)
                self._session.settle(ask, reply)
                ask = greeting.send(reply)
        except StopIteration:
            return

    def _reply_to(self, link: _Link, number: int) -> Message:
        while True:
            messages = link.read(self._left_s(HANDSHAKE_S))
            replies = [message for message in messages if message.id == number]
            with self._turn:
                self._take([message for message in messages if message.id != number])
                if self._desk.error is not None:
                    raise self._desk.error
            if replies:
                return replies[0]

    def _drop(self) -> None:
        with self._turn:
            if self._link is not None:
                self._link.close()
            self._link = None

    def close(self) -> None:
        """End the connection; what still waits is refused."""
        with self._turn:
            self._desk.fail(Unavailable("the connection was closed"))
            self._turn.notify_all()
        self._drop()
