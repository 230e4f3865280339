"""Values too big for a journal row: one file each, checked by digest when read."""

import asyncio
import hashlib
import itertools
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from coatcheck_sidecar.core.model import Level

T = TypeVar("T")

NAME: Final = re.compile(r"[0-9a-f]{64}-[0-9]{1,9}")
"""SHA-256 of the content, and a number: equal contents have several owners."""


class SpoolError(OSError):
    """A file of the spool can't be written or read. The message names it."""


class SpoolFull(SpoolError):  # noqa: N818 - a refusal is an answer, not an error
    """The value would exceed the spool's limit."""


class SpoolDamaged(SpoolError):  # noqa: N818 - names a state, as its users do
    """The content of a file isn't what its name says."""


class Spool:
    """A folder of files, each written once. A name is valid until it is removed.

    A file that was never acknowledged (its writer died) stays until `clean`. After an error the
    next write begins a new file, so that a failed fsync leaves nothing to distrust.
    """

    def __init__(self, folder: Path, *, bytes_max: int) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._folder = folder
        self._bytes_max = bytes_max
        self._lengths = {
            entry.name: entry.stat().st_size
            for entry in os.scandir(folder)
            if NAME.fullmatch(entry.name)
        }
        self._reserved_bytes = 0
        numbers = (int(name.partition("-")[2]) for name in self._lengths)
        self._numbers = itertools.count(max(numbers, default=0) + 1)

    @property
    def bytes_used(self) -> int:
        """Sum of all files, those being written included."""
        return sum(self._lengths.values()) + self._reserved_bytes

    @property
    def bytes_max(self) -> int:
        """The limit of `bytes_used`."""
        return self._bytes_max

    async def write(self, data: bytes, *, level: Level = Level.NODE) -> str:
        """Write a value, durable at `level` when this returns; its name.

        Raises `SpoolFull`, `SpoolError`. What a cancelled call wrote is removed.
        """
        if level is Level.REMOTE:
            raise ValueError("a spool reaches the levels process and node, not remote")
        if self.bytes_used + len(data) > self._bytes_max:
            message = (
                f"the spool {self._folder} holds {self.bytes_used} of {self._bytes_max} bytes; "
                f"{len(data)} more do not fit"
            )
            raise SpoolFull(message)
        self._reserved_bytes += len(data)
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(None, self._write, data, level is Level.NODE)
        writing.add_done_callback(lambda _: self._settle(len(data)))
        try:
            name = await asyncio.shield(writing)
        except asyncio.CancelledError:
            writing.add_done_callback(self._discard)
            raise
        except OSError as exc:
            raise SpoolError(f"can't write to the spool {self._folder}: {exc}") from exc
        self._lengths[name] = len(data)
        return name

    async def read(self, name: str) -> bytes:
        """The value of that name. Raises `SpoolDamaged`, and `SpoolError` if there is none."""
        path = self._path(name)

        def read() -> bytes:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != name.partition("-")[0]:
                raise SpoolDamaged(f"the content of {path} fails its digest")
            return data

        return await self._in_thread(read, f"can't read {path}")

    async def remove(self, name: str) -> None:
        """Delete a file; nothing happens if there is none."""
        path = self._path(name)
        await self._in_thread(lambda: path.unlink(missing_ok=True), f"can't remove {path}")
        self._lengths.pop(name, None)

    async def clean(self, keep: set[str]) -> None:
        """Delete every file but those of `keep` and those whose write has not returned."""
        for name in [name for name in self._lengths if name not in keep]:
            await self.remove(name)

    def _write(self, data: bytes, is_synced: bool) -> str:
        name = f"{hashlib.sha256(data).hexdigest()}-{next(self._numbers)}"
        fd = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(fd, "wb", buffering=0) as file:
                _write_all(file.fileno(), data)
                if is_synced:
                    os.fsync(fd)
            if is_synced:
                _sync_folder(self._folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(self._folder / name)
            raise
        return name

    def _settle(self, length: int) -> None:
        self._reserved_bytes -= length

    def _discard(self, writing: asyncio.Future[str]) -> None:
        """Nobody has learnt the name: the file goes."""
        if not writing.cancelled() and writing.exception() is None:
            with suppress(OSError):
                os.unlink(self._folder / writing.result())

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a name of the spool")
        return self._folder / name

    async def _in_thread(self, work: Callable[[], T], complaint: str) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(None, work)
        except SpoolError:
            raise
        except OSError as exc:
            raise SpoolError(f"{complaint}: {exc}") from exc


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sync_folder(folder: Path) -> None:
    """Without it a reboot may forget the name of a file whose content is on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
