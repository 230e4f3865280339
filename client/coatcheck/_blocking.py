"""The driver without asyncio: one connection to the sidecar, which any thread may use.

It has no thread of its own: whoever waits for a reply reads for all, and pushes are read with it.
"""

import math
import socket
import threading
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from functools import cached_property
from typing import Any, Final

from coatcheck import _clock
from coatcheck._desk import HANDSHAKE_S, Desk, performed
from coatcheck._ops import Command, ToolOp
from coatcheck._session import Ask, Session, Value
from coatcheck._tool import Invoke
from coatcheck.errors import CoatcheckError, Unavailable
from coatcheck.wire import Message, Request

READ_BYTES: Final = 262_144
"""A unix socket's buffer, and a bit."""


class Connection:
    """Performs operations for one session; connects, and connects again, when asked something."""

    def __init__(self, session: Session, path: str) -> None:
        """`path` is the sidecar's socket. Nothing is sent before the first operation."""
        self._session = session
        self._path = path
        self._desk = Desk(session, path)
        self._turn = threading.Condition()
        self._is_reading = False
        self._socket: socket.socket | None = None
        self._greet_by_s = math.inf

    def perform(self, operation: ToolOp[Value]) -> Value:
        """Do what `operation` yields until it returns. Raises what it raises."""
        try:
            performed(operation, self._do).send(None)
        except StopIteration as stop:
            result: Value = stop.value
            return result
        raise AssertionError("an operation without asyncio awaits nothing that suspends it")

    async def _do(self, command: Command) -> Any:
        if isinstance(command, Invoke):
            with command:
                return command.start()
        if command is None:
            return self._close()
        with self._calls if command.type is Request.CALL else nullcontext():
            return self._request(command)

    @cached_property
    def _calls(self) -> threading.Semaphore:
        return threading.Semaphore(self._session.calls_max)  # known since the greeting

    def _request(self, ask: Ask) -> Message:
        future: Future[Message] = Future()
        end_s = math.inf if ask.within_s is None else _clock.monotonic() + ask.within_s
        with self._turn:
            self._send(self._desk.asked(ask, future))
        try:
            while not future.done():
                self._read_or_wait(future, end_s)
        except BaseException:
            with self._turn:
                future.cancel()
            raise
        return future.result()

    def _read_or_wait(self, future: Future[Message], end_s: float) -> None:
        """Read for all if nobody does; else wait until something came."""
        with self._turn:
            if self._is_reading and not (future.done() or self._turn.wait(_left_s(end_s))):
                raise TimeoutError("the sidecar did not answer in time")
            if self._is_reading or future.done():
                return
            self._is_reading = True
        try:
            self._read(end_s)
        finally:
            with self._turn:
                self._is_reading = False
                self._turn.notify_all()

    def _read(self, end_s: float) -> None:
        """One look at the socket, or one try to connect. Raises `TimeoutError` at `end_s`."""
        try:
            link = self._socket or self._connect()
            link.settimeout(_left_s(end_s if self._desk.is_ready else min(end_s, self._greet_by_s)))
            data = link.recv(READ_BYTES)
            if not data:
                raise ConnectionError("the sidecar closed the connection")
            with self._turn:
                self._send(self._desk.received(data))
        except (OSError, CoatcheckError) as failure:
            if _clock.monotonic() >= end_s:
                raise TimeoutError(f"the sidecar did not answer in time: {failure}") from failure
            with self._turn:
                self._hang_up()
                delay_s = self._desk.lost(failure)
            _clock.sleep(delay_s or 0.0)

    def _connect(self) -> socket.socket:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with self._turn:
            self._socket = link
        self._greet_by_s = _clock.monotonic() + HANDSHAKE_S
        link.settimeout(HANDSHAKE_S)
        link.connect(self._path)
        with self._turn:
            self._send(self._desk.connected())
        return link

    def _send(self, frames: list[bytes]) -> None:
        """Never raises: whoever reads finds the socket closed, and sends all again."""
        if self._socket is not None and frames:
            try:
                self._socket.sendall(b"".join(frames))
            except OSError:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _close(self) -> None:
        with self._turn:
            self._desk.fail(Unavailable("the connection was closed"))
            self._hang_up()
            self._turn.notify_all()


def _left_s(end_s: float) -> float | None:
    """How long to wait; `None` for ever, and at least a moment: 0 would mean not to wait at all."""
    return None if end_s == math.inf else max(0.001, end_s - _clock.monotonic())
