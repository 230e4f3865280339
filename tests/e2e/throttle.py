"""A slow, far link in front of a server: a token bucket for what goes up, latency both ways.

All connections share the bucket, as they would share a link. `cut` is the end of the link: what is
on its way is lost, as when the machine behind it is.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from coatcheck_sidecar.engine.tasks import TaskSet
from tests.servers import LOOPBACK

CHUNK = 8_192
"""33 ms of a link of 2 Mbit/s."""
IN_FLIGHT_MAX = 16
"""Chunks on their way: a link keeps little, and the sender is made to wait."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a link. None: as fast as it goes."""

    up_bytes_per_s: float | None = None
    latency_s: float = 0.0
    """Each way."""


SLOW = Shape(up_bytes_per_s=250_000.0, latency_s=0.075)
"""2 Mbit/s, and a round trip of 150 ms."""
FREE = Shape()


class Throttle:
    """One link."""

    def __init__(self, target: str, shape: Shape) -> None:
        """`target` is the server's URL."""
        parts = urlsplit(target)
        self._target = (parts.hostname or LOOPBACK, parts.port or 80)
        self._shape = shape
        self._free_s = 0.0
        self._tasks = TaskSet(lambda _name, _error: None)
        self._writers: set[asyncio.StreamWriter] = set()
        self.carried_bytes = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def cut(self) -> None:
        """Nothing goes through any more, nor what is on its way."""
        for writer in self._writers:
            writer.transport.abort()
        self._target = (LOOPBACK, 1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(far_writer)
        self._tasks.start(self._carry(reader, far_writer, is_up=True), name="up")
        self._tasks.start(self._carry(far_reader, writer, is_up=False), name="down")

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_up: bool
    ) -> None:
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(IN_FLIGHT_MAX)
        self._tasks.start(self._deliver(chunks, writer), name="deliver")
        loop = asyncio.get_running_loop()
        data = b"-"
        while data:
            try:
                data = await reader.read(CHUNK)
            except OSError:
                data = b""
            if is_up and self._shape.up_bytes_per_s is not None:
                self._free_s = max(self._free_s, loop.time())
                self._free_s += len(data) / self._shape.up_bytes_per_s
                await asyncio.sleep(self._free_s - loop.time())
            await chunks.put((loop.time() + self._shape.latency_s, data))

    async def _deliver(
        self, chunks: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        data = b"-"
        while data:
            at_s, data = await chunks.get()
            await asyncio.sleep(at_s - loop.time())
            with contextlib.suppress(OSError):
                writer.write(data)
                await writer.drain()
                self.carried_bytes += len(data)
        writer.close()
        self._writers.discard(writer)

    async def close(self) -> None:
        self.cut()
        await self._tasks.close()


@contextlib.asynccontextmanager
async def throttled(target: str, shape: Shape) -> AsyncIterator[Throttle]:
    """A link to the server at `target`."""
    link = Throttle(target, shape)
    server = await asyncio.start_server(link.serve, LOOPBACK, 0, limit=CHUNK)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()
        await link.close()
        await server.wait_closed()
