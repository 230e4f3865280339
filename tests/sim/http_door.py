"""How a sidecar reaches the world's HTTP server: `ports.Upstream` on the virtual loop.

What left arrives, whatever becomes of its sender. A reset, a time-out and a cut are told as the
real one tells them; the clock is looked at right before the bytes go.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import Context
from random import Random
from typing import Final

from coatcheck_sidecar.ports import Headers, Lost, NotSent, Outgoing, UpstreamAnswer
from tests.sim.http_server import HttpServer, Line
from tests.sim.loop import Process, VirtualLoop, this_process
from tests.sim.upstream import BEFORE_WRITE_S, FLIGHT_S, LATE_S, RESET_S

CONNECT_S: Final = (0.0, 0.05)

Moment = Callable[[Process, str], None]
"""Told of `asked`, `sent`, `head`, `body` and `whole`: where a crash would matter; of what takes a
call back with `undo` before it."""


class HttpDoor:
    """Implements `ports.Upstream` for the process that calls."""

    def __init__(self, loop: VirtualLoop, random: Random, server: HttpServer) -> None:
        self.on_moment: Moment = lambda process, what: None
        self.on_asked: Callable[[Process, Outgoing], None] = lambda process, request: None
        """An attempt is to be made."""
        self.on_leaving: Callable[[Process, Outgoing], None] = lambda process, request: None
        """Its first byte is about to be written."""
        self._loop = loop
        self._random = random
        self._server = server
        self._nobody = Context()

    @asynccontextmanager
    async def send(self, request: Outgoing) -> AsyncGenerator[UpstreamAnswer, None]:
        process, habits = this_process(), self._server.habits
        self.on_asked(process, request)
        undo = "undo " if self._server.undone_by(request) else ""
        self.on_moment(process, f"{undo}asked")
        await asyncio.sleep(self._random.uniform(*CONNECT_S))
        if self._random.random() < habits.refused:
            raise NotSent("connection refused")
        until_s = request.until_boot_s
        if until_s is not None and process.clock.boottime() >= until_s:
            raise NotSent("the lease is over")
        self.on_leaving(process, request)
        process.windows += 1
        try:
            await asyncio.sleep(self._random.uniform(0.0, BEFORE_WRITE_S))
        finally:
            process.windows -= 1
        line = Line(self._loop)
        is_reset = self._random.random() < habits.reset
        if is_reset or self._random.random() >= habits.lost:
            self._loop.call_later(
                self._flight_s(is_reset=is_reset), self._server.arrive, request, line,
                context=self._nobody,
            )  # fmt: skip
        self.on_moment(process, f"{undo}sent")
        if is_reset:
            await asyncio.sleep(self._random.uniform(*RESET_S))
            raise Lost("connection reset")
        yield await self._head(process, request, line)

    def _flight_s(self, *, is_reset: bool) -> float:
        if is_reset:
            return self._random.uniform(*LATE_S)
        return self._random.uniform(*FLIGHT_S) * self._random.random()

    async def _head(self, process: Process, request: Outgoing, line: Line) -> "_Answer":
        try:
            async with asyncio.timeout(request.head_s):
                _, status, headers = await line.next()
        except TimeoutError:
            raise Lost("no head in time") from None
        self.on_moment(process, "head")
        return _Answer(self, process, line, status=status, headers=headers, idle_s=request.idle_s)

    async def close(self) -> None:
        """Nothing to release."""


class _Answer:
    def __init__(
        self,
        door: HttpDoor,
        process: Process,
        line: Line,
        *,
        status: int,
        headers: Headers,
        idle_s: float,
    ) -> None:
        self.status, self.headers = status, headers
        self._door, self._process, self._line, self._idle_s = door, process, line, idle_s

    async def pieces(self) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self._idle_s):
                    event = await self._line.next()
            except TimeoutError:
                raise Lost("silence") from None
            if event[0] == "reset":
                raise Lost("cut")
            self._door.on_moment(self._process, "whole" if event[0] == "end" else "body")
            if event[0] == "end":
                return
            yield event[1]
