"""Bytes both ways between an agent's connection and an upstream's, each as slow as the other."""

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from coatcheck_sidecar.upstreams.dial import BUFFER_BYTES, Streams

if TYPE_CHECKING:
    from aiohttp import web

IDLE_S: Final = 3_600.0
"""A tunnel in which nothing moves for so long is forgotten by both ends, as by most NATs."""


class _Outward:
    """What the agent sends: aiohttp feeds it here, once the connection is upgraded."""

    def __init__(self, request: "web.BaseRequest", writer: asyncio.StreamWriter) -> None:
        self._protocol = request.protocol
        self._writer = writer
        self._waiting = bytearray()
        self._is_over = False
        self._changed = asyncio.Event()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """As aiohttp asks of a parser: (nothing more is wanted, what is left over)."""
        self._waiting += data
        if len(self._waiting) > BUFFER_BYTES:
            self._protocol.pause_reading()
        self._changed.set()
        return False, b""

    def feed_eof(self) -> None:
        """The agent hung up."""
        self._is_over = True
        self._changed.set()

    async def pump(self, limit: "_Limit") -> None:
        """Until the agent hangs up."""
        while self._waiting or not self._is_over:
            await self._changed.wait()
            self._changed.clear()
            data = bytes(self._waiting)
            self._waiting.clear()
            limit.moved()
            self._writer.write(data)
            await self._writer.drain()
            if not self._is_over:
                self._protocol.resume_reading()


class _Limit:
    """Ends a tunnel in which nothing moves."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.timeout = asyncio.timeout(IDLE_S)

    def moved(self) -> None:
        """Bytes went one way or the other."""
        self.timeout.reschedule(self._loop.time() + IDLE_S)


async def tunnel(
    request: "web.BaseRequest", response: "web.StreamResponse", *, streams: Streams
) -> None:
    """Carry bytes until one end hangs up. `response` is the head that opens it; it is prepared."""
    reader, writer = streams
    outward = _Outward(request, writer)
    limit = _Limit()

    async def pump_in() -> None:
        while data := await reader.read(BUFFER_BYTES):
            limit.moved()
            await response.write(data)

    try:
        async with limit.timeout, asyncio.TaskGroup() as group:
            request.protocol.set_parser(cast(Any, outward))
            pumps = [group.create_task(pump_in()), group.create_task(outward.pump(limit))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
    except* (OSError, TimeoutError):
        pass  # one end is gone, or both forgot it: so tunnels end
