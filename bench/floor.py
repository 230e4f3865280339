"""The floor: what any Python server pays for a socket's round trip and a durable append.

As a program it is that server (asyncio and uvloop): it takes frames of a u32 length and bytes,
appends them to a file, fsyncs, and echoes them. What comes while an fsync is under way shares the
next one, as any group commit does.
"""

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

LENGTH: Final = struct.Struct(">I")
READY_S: Final = 10.0


class _Echo(asyncio.Protocol):
    def __init__(self, disk: "_Disk") -> None:
        self._disk = disk
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            frame, self._buffer = self._buffer[:end], self._buffer[end:]
            self._disk.add(self._transport, frame)


class _Disk:
    """One append and one fsync for all frames that wait."""

    def __init__(self, path: str, *, is_grouped: bool) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._is_grouped = is_grouped
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []
        self._is_busy = False

    def add(self, transport: asyncio.Transport, frame: bytes) -> None:
        self._waiting.append((transport, frame))
        if not self._is_grouped:
            self._answer(self._take())
        elif not self._is_busy:
            self._is_busy = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _take(self) -> list[tuple[asyncio.Transport, bytes]]:
        taken, self._waiting = self._waiting, []
        return taken

    def _write(self, frames: list[bytes]) -> None:
        os.write(self._file, b"".join(frames))
        os.fsync(self._file)

    def _begin(self) -> None:
        taken = self._take()
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, self._write, [frame for _, frame in taken])
        work.add_done_callback(lambda _: self._end(taken))

    def _end(self, taken: list[tuple[asyncio.Transport, bytes]]) -> None:
        for transport, frame in taken:
            transport.write(frame)
        self._is_busy = bool(self._waiting)
        if self._is_busy:
            asyncio.get_running_loop().call_soon(self._begin)

    def _answer(self, taken: list[tuple[asyncio.Transport, bytes]]) -> None:
        self._write([frame for _, frame in taken])
        for transport, frame in taken:
            transport.write(frame)


async def _serve(folder: Path, *, is_grouped: bool) -> None:
    disk = _Disk(str(folder / "log"), is_grouped=is_grouped)
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: _Echo(disk), str(folder / "floor.sock"))
    await server.serve_forever()


@contextlib.contextmanager
def floor_server(*, is_grouped: bool) -> Iterator[str]:
    """The server as a process of its own; its socket's path."""
    with tempfile.TemporaryDirectory(prefix="coatcheck-floor-", ignore_cleanup_errors=True) as name:
        path = f"{name}/floor.sock"
        kind = "grouped" if is_grouped else "single"
        process = subprocess.Popen([sys.executable, "-m", "bench.floor", name, kind])
        try:
            end = time.monotonic() + READY_S
            while not os.path.exists(path) and time.monotonic() < end:
                time.sleep(0.01)
            yield path
        finally:
            process.kill()
            process.wait()


class BlockingFloor:
    """A client on a plain socket."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)

    def round_trip(self, data: bytes) -> None:
        self._socket.sendall(LENGTH.pack(len(data)) + data)
        left = LENGTH.size + len(data)
        while left:
            left -= len(self._socket.recv(left))

    def close(self) -> None:
        self._socket.close()


class AioFloor(asyncio.Protocol):
    """A client on asyncio."""

    def __init__(self) -> None:
        self._left = 0
        self._done: asyncio.Future[None] | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if not self._left and self._done is not None:
            self._done.set_result(None)

    async def round_trip(self, data: bytes) -> None:
        self._left = LENGTH.size + len(data)
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(LENGTH.pack(len(data)) + data)
        await self._done

    def close(self) -> None:
        self._transport.close()


async def aio_floor(path: str) -> AioFloor:
    """Connect."""
    _, client = await asyncio.get_running_loop().create_unix_connection(AioFloor, path)
    return client


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(Path(sys.argv[1]), is_grouped=sys.argv[2] == "grouped"))
