"""A pod's journal on the virtual loop: rows wait a moment for their commit, and die with it."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Final

import msgpack

from coatcheck_sidecar.core.model import Level
from coatcheck_sidecar.ports import Row
from coatcheck_sidecar.stores.memory_journal import MemoryJournal
from tests.sim.loop import VirtualLoop

COMMIT_S: Final = (0.0003, 0.02)
"""SQLite's, with a slow disk now and then."""

Waiting = tuple[Sequence[Row], Level, "asyncio.Future[None]"]


class PodJournal:
    """Implements `ports.Journal` over what is kept on the pod's disk, for one process's life."""

    def __init__(self, kept: MemoryJournal, loop: VirtualLoop, random: Random) -> None:
        self.kept = kept
        self.is_inherited = kept.is_inherited
        self._loop = loop
        self._random = random
        self._queue: list[Waiting] = []

    @property
    def is_dead(self) -> bool:
        return self.kept.is_dead

    def append(self, rows: Sequence[Row], *, level: Level) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = self._loop.create_future()
        if not self._queue:
            self._loop.call_later(self._random.uniform(*COMMIT_S), self._commit)
        self._queue.append((rows, level, done))
        return done

    def _commit(self) -> None:
        queue, self._queue = self._queue, []
        for rows, level, done in queue:
            kept = self.kept.append(rows, level=level)
            if not done.done():
                _copy(kept.exception(), done)

    def trim(self, run: str, *, up_to_epoch: int, up_to_seq: int) -> None:
        if not self._queue:
            self.kept.trim(run, up_to_epoch=up_to_epoch, up_to_seq=up_to_seq)

    async def load(self) -> list[Row]:
        return await self.kept.load()

    async def set_aside(self, run: str, *, reason: str) -> int:
        return await self.kept.set_aside(run, reason=reason)

    async def close(self) -> None:
        self._commit()
        await self.kept.close()


def _copy(error: BaseException | None, done: "asyncio.Future[None]") -> None:
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


class MemorySpool:
    """Implements the engine's `Spool`: files on the pod's disk."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}

    async def write(self, data: bytes) -> str:
        name = f"{len(self._files)}"
        self._files[name] = data
        return name

    async def read(self, name: str) -> bytes:
        if name not in self._files:
            raise OSError(f"no file {name}")
        return self._files[name]

    def whole(self, data: bytes) -> bytes:
        """A row's record, wherever it lies; for judges alone."""
        match msgpack.unpackb(data):
            case ["spool", str(name)]:
                return self._files[name]
            case _:
                return data

    async def clean(self, keep: set[str]) -> None:
        for name in self._files.keys() - keep:
            del self._files[name]
