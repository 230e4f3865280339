"""The control socket: agents' requests in, answers and pushes out."""

import asyncio
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

from coatcheck.wire import (
    PUSH_ID,
    REQUESTS_MAX,
    Assembler,
    AttachmentTooLarge,
    ErrorCode,
    FrameReader,
    Message,
    Push,
    Reply,
    Request,
    Retry,
    WireError,
    encode_message,
)
from coatcheck_sidecar.core.session import Refusal, Session, malformed
from coatcheck_sidecar.engine.restore import Damaged
from coatcheck_sidecar.engine.sidecar import Sidecar
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.ports import StoreError
from coatcheck_sidecar.servers.requests import Requests
from coatcheck_sidecar.servers.routes import Routes

SOCKET_MODE: Final = 0o660
"""Owner and group: the pod's containers share the group, nobody else is let in."""
CONNECTIONS_MAX: Final = 4_096
"""Runs of one pod, and then some."""


class ControlServer:
    """Listens on the unix socket."""

    def __init__(
        self,
        sidecar: Sidecar,
        path: Path,
        *,
        allowed_uids: frozenset[int] = frozenset(),
        routes: Routes | None = None,
    ) -> None:
        """An empty `allowed_uids` lets everybody in whom the socket's mode lets in.

        Without `routes` there is no proxy.
        """
        self._routes = routes
        self._sidecar = sidecar
        self._path = path
        self._allowed_uids = allowed_uids
        self._tasks = TaskSet(self._failed)
        self._server: asyncio.Server | None = None
        self._open: set[Connection] = set()

    def _failed(self, name: str, error: BaseException) -> None:
        self._sidecar.doors.observer.note("task_failed", name=name, error=repr(error))

    async def start(self) -> None:
        """Listen; a socket that a former life left is taken away first."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(self._path.stat().st_mode):
                self._path.unlink()
        loop = asyncio.get_running_loop()
        before = os.umask(0o777 - SOCKET_MODE)
        try:
            self._server = await loop.create_unix_server(self._connection, str(self._path))
        finally:
            os.umask(before)

    def _connection(self) -> "Connection":
        return Connection(
            self._sidecar,
            tasks=self._tasks,
            known=self._open,
            allowed_uids=self._allowed_uids,
            routes=self._routes,
        )

    async def close(self) -> None:
        """Hang up on everybody."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._open):
            connection.hang_up()
        await self._tasks.close()


class Connection(asyncio.Protocol):
    """One agent's connection."""

    def __init__(
        self,
        sidecar: Sidecar,
        *,
        tasks: TaskSet,
        known: "set[Connection]",
        allowed_uids: frozenset[int],
        routes: Routes | None = None,
    ) -> None:
        """`known` are the server's open connections."""
        self._sidecar = sidecar
        self._tasks = tasks
        self._known = known
        self._allowed_uids = allowed_uids
        self._reader = FrameReader()
        self._assembler = Assembler()
        self._session = Session()
        self._requests = Requests(sidecar, self.push, routes=routes)
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the peer in, or not."""
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        self._known.add(self)
        if len(self._known) > CONNECTIONS_MAX:
            self._refuse(0, Refusal(ErrorCode.UNAVAILABLE, "too many connections"))
            self.hang_up()
        elif self._allowed_uids and _peer_uid(transport) not in self._allowed_uids:
            self._refuse(0, Refusal(ErrorCode.PROTOCOL_ERROR, "this uid is not in allowed_uids"))
            self.hang_up()

    def data_received(self, data: bytes) -> None:
        """Take in frames; a bad one ends the connection, after those before it."""
        try:
            frames = self._reader.feed(data)
            bad = None
        except WireError as error:
            frames, bad = list(error.frames), error
        for frame in frames:
            if self._transport is None or self._transport.is_closing():
                return
            self._take(frame)
        if bad is not None:
            self._refuse(0, malformed(str(bad)))
            self.hang_up()

    def pause_writing(self) -> None:
        """The client does not read what it asked for: it may ask for more when it has."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _take(self, frame: Any) -> None:
        try:
            message = self._assembler.add(frame)
        except AttachmentTooLarge as error:
            self._refuse(
                error.refused.id, Refusal(ErrorCode.TOO_LARGE, str(error), limit=error.limit_bytes)
            )
            return
        except WireError as error:
            self._refuse(0, malformed(str(error)))
            self.hang_up()
            return
        if message is not None:
            self._start(message)

    def _start(self, message: Message) -> None:
        if len(self._under_way) >= REQUESTS_MAX or message.id in self._under_way:
            what = "its id is in use" if message.id in self._under_way else "too many in flight"
            self._refuse(message.id, malformed(f"{message.type}: {what}"))
            return
        try:
            request = self._session.receive(message.type, message.body)
        except Refusal as error:
            self._refuse(message.id, error)
            return
        work = self._answer(request, message)
        self._under_way[message.id] = self._tasks.start(work, name=request.value)

    async def _answer(self, request: Request, message: Message) -> None:
        try:
            answered = await self._requests.answer(request, message)
        except Refusal as error:
            self._after(request, is_open=False)
            self._refuse(message.id, error)
        except StoreError as error:
            self._after(request, is_open=False)
            code = ErrorCode.STORE_UNAVAILABLE
            self._refuse(message.id, Refusal(code, str(error), retry=Retry.LATER))
        except Damaged as error:
            self._after(request, is_open=False)
            self._refuse(message.id, Refusal(ErrorCode.DAMAGED, str(error)))
        except Exception as error:
            what = f"{request} failed in the sidecar; its log has more: {error!r}"
            self._refuse(message.id, Refusal(ErrorCode.UNAVAILABLE, what, retry=Retry.LATER))
            raise
        else:
            self._after(request, is_open=answered.is_open)
            self._write(Reply.OK, message.id, body=answered.body, attachment=answered.attachment)
        finally:
            self._under_way.pop(message.id, None)

    def _after(self, request: Request, *, is_open: bool) -> None:
        if request is Request.OPEN:
            self._session.opened(is_open=is_open)
        if self._requests.is_over:
            self._session.closed()

    def push(self, push: Push, body: dict[str, Any]) -> None:
        """Say something unasked."""
        self._write(push, PUSH_ID, body=body)

    def _refuse(self, id_: int, refusal: Refusal) -> None:
        self._write(Reply.ERROR, id_, body=refusal.body())

    def _write(
        self, type_: str, id_: int, *, body: dict[str, Any], attachment: bytes | None = None
    ) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(encode_message(type_, id_, body, attachment))

    def hang_up(self) -> None:
        """Close, after what is written has gone out."""
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The agent left, died, or will be back on a new connection."""
        self._known.discard(self)
        self._transport = None
        for task in list(self._under_way.values()):
            task.cancel()
        self._requests.lost()


def _peer_uid(transport: asyncio.Transport) -> int:
    sock = transport.get_extra_info("socket")
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(raw[4:8], "little")
