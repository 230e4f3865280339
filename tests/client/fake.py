"""A sidecar that follows a script, on a real unix socket and a thread: for both drivers.

A script is a list of lines for each connection, in the order in which they come. Whatever the
client does that the script doesn't say is a fault, and leaving `with` raises it.
"""

# ruff: noqa: RUF012 - nobody changes what a line says

import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgpack

from coatcheck.wire import Assembler, FrameReader, Message, encode_frame, encode_message

PATIENCE_S = 10.0


class Expect(NamedTuple):
    """The next message is of this type, with at least these keys; its reply goes to `name`."""

    type: str
    body: dict[str, Any] = {}
    attachment: Any = ...
    name: str = ""


class Ok(NamedTuple):
    """Answer the message that was expected as `name`, or the last one."""

    body: dict[str, Any] = {}
    attachment: bytes | None = None
    to: str = ""


class Refuse(NamedTuple):
    """Answer by an error."""

    code: str
    more: dict[str, Any] = {}
    to: str = ""


class Push(NamedTuple):
    """Say something unasked."""

    type: str
    body: dict[str, Any] = {}


class Bytes(NamedTuple):
    """Say something that may be no frame."""

    data: bytes


class Pause(NamedTuple):
    """Wait."""

    for_s: float


class Quiet(NamedTuple):
    """The client says nothing for a while."""

    for_s: float


class Drop(NamedTuple):
    """Close the connection; nobody listens for a while."""

    away_s: float = 0.0


class AwaitClose(NamedTuple):
    """The client closes, and says nothing before."""


Line = Expect | Ok | Refuse | Push | Bytes | Pause | Quiet | Drop | AwaitClose

LIMITS = {"frame_bytes": 1_114_112, "part_bytes": 1_048_576, "state_bytes": 1 << 26, "requests": 64}
HELLO: list[Line] = [
    Expect("hello", {"protocol": [1, 1]}),
    Ok({"protocol": 1, "sidecar": "fake", "mode": "enforce", "limits": LIMITS}),
]
LEFT: list[Line] = [Expect("release", {"reason": "left"}), Ok({"seq": 99}), AwaitClose()]


def packed(value: Any) -> bytes:
    """A value as the client's codec writes it."""
    data: bytes = msgpack.packb(value)
    return data


def opened(*, step: int = 1, state: Any = None, epoch: int = 1, **more: Any) -> list[Line]:
    """Hello, and an open that succeeds."""
    body = {"run": "r", "epoch": epoch, "step": step, "draining": False}
    body["has_state"] = state is not None
    data = None if state is None else packed(state)
    return [*HELLO, Expect("open"), Ok({**body, **more}, data)]


class Fake:
    """Plays its script to whoever connects."""

    def __init__(self, path: Path, *connections: Sequence[Line]) -> None:
        self.path = str(path)
        self.seen: list[Message] = []
        self._connections = connections
        self._fault: BaseException | None = None
        self._listener = self._listen()
        self._thread = threading.Thread(target=self._play_all, daemon=True)

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.path)
        listener.listen()
        listener.settimeout(PATIENCE_S)
        return listener

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, Exception):
            self._thread.join(PATIENCE_S)
        self._listener.close()
        Path(self.path).unlink(missing_ok=True)
        if self._fault is not None:
            raise AssertionError(f"the script was left: {self._fault!r}") from self._fault
        if error is None and self._thread.is_alive():
            raise AssertionError("the script was not played to its end")

    def _play_all(self) -> None:
        try:
            for script in self._connections:
                connection, _ = self._listener.accept()
                connection.settimeout(PATIENCE_S)
                with connection:
                    away_s = _Player(connection, self.seen).play(script)
                if away_s:
                    self._listener.close()
                    os.unlink(self.path)
                    time.sleep(away_s)
                    self._listener = self._listen()
        except BaseException as error:
            self._fault = error
            self._listener.close()


class _Player:
    """One connection's script."""

    def __init__(self, connection: socket.socket, seen: list[Message]) -> None:
        self._connection = connection
        self._seen = seen
        self._reader, self._assembler = FrameReader(), Assembler()
        self._read: list[Message] = []
        self._ids: dict[str, int] = {}

    def play(self, script: Sequence[Line]) -> float:  # noqa: C901 - one case for each line
        """How long to be away afterwards."""
        for line in script:
            match line:
                case Expect():
                    self._expect(line)
                case Ok(body, attachment, to):
                    self._say("ok", self._ids[to], body, attachment)
                case Refuse(code, more, to):
                    body = {"code": code, "message": f"it is {code}", "retry": "never", **more}
                    self._say("error", self._ids[to], body, None)
                case Push(kind, body):
                    self._connection.sendall(encode_frame(kind, 0, body))
                case Bytes(data):
                    self._connection.sendall(data)
                case Pause(for_s):
                    time.sleep(for_s)
                case Quiet(for_s):
                    self._hear_nothing(for_s)
                case Drop(away_s):
                    return away_s
                case AwaitClose():
                    self._await_close()
        return 0.0

    def _hear_nothing(self, for_s: float) -> None:
        self._connection.settimeout(for_s)
        with suppress(TimeoutError):
            raise AssertionError(f"it was to be quiet, but: {self._next()}")
        self._connection.settimeout(PATIENCE_S)

    def _await_close(self) -> None:
        message = self._next()
        assert message is None, f"unexpected: {message}"

    def _expect(self, line: Expect) -> None:
        message = self._next()
        assert message is not None, f"closed in place of {line}"
        self._seen.append(message)
        found = {key: message.body.get(key, "(absent)") for key in line.body}
        assert (message.type, found) == (line.type, line.body), f"{message} is not {line}"
        if line.attachment is not ...:
            assert message.attachment == line.attachment, f"{message} is not {line}"
        self._ids[line.name] = self._ids[""] = message.id

    def _next(self) -> Message | None:
        while not self._read:
            data = self._connection.recv(1 << 20)
            if not data:
                return None
            messages = map(self._assembler.add, self._reader.feed(data))
            self._read += [message for message in messages if message is not None]
        return self._read.pop(0)

    def _say(self, kind: str, number: int, body: dict[str, Any], data: bytes | None) -> None:
        for frame in encode_message(kind, number, body, data):
            self._connection.sendall(frame)
