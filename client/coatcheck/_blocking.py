"""The driver without asyncio: one connection to the sidecar, which any thread may use.

It has no thread of its own: whoever waits for a reply reads for all, and pushes are read with it.
"""

import math
import socket
import threading
from contextlib import suppress
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

READ_BYTES = 262_144  # a unix socket's default buffer and a bit


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
            for frame in encode_message(ask.type, number, ask.body, ask.attachment):
                self._socket.sendall(frame)
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


class _Waiter:
    """A request under way: then its reply, or its error."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.is_abandoned = ask.is_posted
        self.reply: Message | None = None
        self.error: CoatcheckError | None = None

    @property
    def is_done(self) -> bool:
        return self.reply is not None or self.error is not None


class Connection:
    """Performs operations for one session; connects, and connects again, when asked something."""

    def __init__(self, session: Session, *, path: str) -> None:
        """`path` is the sidecar's socket. Nothing is sent before the first operation."""
        self._session = session
        self._path = path
        self._turn = threading.Condition()
        self._calls = threading.Semaphore(session.calls_max)
        self._waiters: dict[int, _Waiter] = {}
        self._is_reading = False
        self._link: _Link | None = None
        self._error: CoatcheckError | None = None
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
        if command.type is not Request.CALL:
            return self._request(command)
        with self._calls:
            return self._request(command)

    def _request(self, ask: Ask) -> Message | None:
        waiter = _Waiter(ask)
        with self._turn:
            self._send(waiter)
        try:
            while not (waiter.is_done or ask.is_posted):
                self._read_or_wait(waiter)
        except BaseException:
            waiter.is_abandoned = True
            raise
        if waiter.error is not None:
            raise waiter.error
        return waiter.reply

    def _send(self, waiter: _Waiter) -> None:
        if self._error is not None:
            self._session.refused(waiter.ask)
            raise self._error
        number = self._session.next_id()
        self._waiters[number] = waiter
        if self._link is not None:
            self._link.send(number, waiter.ask)

    def _read_or_wait(self, waiter: _Waiter) -> None:
        """Read for all if nobody does; else wait until something came."""
        with self._turn:
            if waiter.is_done:
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
                for message in messages:
                    self._received(message)
                if error is not None:
                    self._fail(error)
                self._turn.notify_all()

    def _left_s(self, most_s: float) -> float | None:
        """How long the socket may be silent; `None` for ever."""
        left_s = min(most_s, self.give_up_at_s - _clock.monotonic())
        return None if left_s == math.inf else max(0.001, left_s)

    def _connect(self) -> _Link:
        started_s, delay_s = _clock.monotonic(), BACK_OFF_S_MIN
        while True:
            try:
                return self._try_to_connect()
            except CoatcheckError as error:
                if error.retry is not Retry.LATER:
                    raise
                failure: Exception = error
            except OSError as error:
                failure = error
            now_s = _clock.monotonic()
            if now_s + delay_s > min(started_s + RECONNECT_S, self.give_up_at_s):
                text = f"no sidecar answers at {self._path} for {now_s - started_s:.0f} s: "
                raise Unavailable(text + str(failure), socket=self._path)
            _clock.sleep(_clock.uniform(delay_s / 2, delay_s))
            delay_s = min(delay_s * 2, BACK_OFF_S_MAX)

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
            for number, waiter in sorted(self._waiters.items()):
                waiter.ask = waiter.ask.whole or waiter.ask
                link.send(number, waiter.ask)
        return link

    def _greet(self, link: _Link) -> None:
        greeting = _ops.handshake(self._session)
        try:
            ask = next(greeting)
            while True:
                number = self._session.next_id()
                link.send(number, ask)
                reply = self._reply_to(link, number)
                self._session.settle(ask, reply)
                ask = greeting.send(reply)
        except StopIteration:
            return

    def _reply_to(self, link: _Link, number: int) -> Message:
        while True:
            for message in link.read(self._left_s(HANDSHAKE_S)):
                if message.id == number:
                    return message
                self._received(message)

    def _received(self, message: Message) -> None:
        """Hand a reply to who waits for it, a push to the session."""
        waiter = self._waiters.pop(message.id, None)
        if waiter is not None:
            self._settle(waiter, message)
        elif message.id == PUSH_ID and message.type == Reply.ERROR:
            self._fail(from_wire(message.body))
        elif message.id == PUSH_ID:
            self._session.push(message)

    def _settle(self, waiter: _Waiter, message: Message) -> None:
        is_abandoned = waiter.is_abandoned
        try:
            follow_up = self._session.settle(waiter.ask, message, is_abandoned=is_abandoned)
        except CoatcheckError as error:
            waiter.error = error
            return
        waiter.reply = message
        if follow_up is not None:
            self._send(_Waiter(follow_up))

    def _drop(self) -> None:
        with self._turn:
            if self._link is not None:
                self._link.close()
            self._link = None

    def _fail(self, error: CoatcheckError) -> None:
        """Give up for good: everything that waits, and all that comes, gets `error`."""
        self._error = self._error or error
        for waiter in self._waiters.values():
            self._session.refused(waiter.ask)
            waiter.error = error
        self._waiters.clear()

    def close(self) -> None:
        """End the connection; what still waits is refused."""
        with self._turn:
            self._fail(Unavailable("the connection was closed"))
            self._turn.notify_all()
        self._drop()
