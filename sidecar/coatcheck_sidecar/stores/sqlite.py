"""The local journal on SQLite: one writer, group commit, dead for good after an I/O error.

While one batch is being written the next appends gather; a batch is one INSERT of many rows in
autocommit mode, in one hop to the connection's thread. Where a batch holds a row for level `node`,
its commit is synced, and with it all rows before it: durability has the order of calls.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from coatcheck_sidecar.core.model import Level
from coatcheck_sidecar.ports import Clock, JournalDead, Row
from coatcheck_sidecar.stores.journal_folder import FolderLock, SpaceWatch
from coatcheck_sidecar.stores.journal_queue import Append, WriteQueue
from coatcheck_sidecar.stores.journal_rows import RowIndex, check_rows
from coatcheck_sidecar.stores.journal_writer import JournalWriter
from coatcheck_sidecar.stores.sqlite_file import FILE_NAME, FileDamaged, JournalFile, is_full


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSettings:
    """Limits of the local journal."""

    bytes_max: int = 256 * 1024 * 1024
    """Data of all rows kept; appends that would exceed it wait for a trim."""
    queue_rows_max: int = 10_000
    """Rows let in and not yet written; appends beyond wait: 40 MiB at 4 KiB a row."""
    lock_wait_s: float = 10.0
    """How long an older sidecar may take to leave the data folder."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the journal takes up."""

    kept_bytes: int
    """Data of all rows kept."""
    bytes_max: int
    """The limit of `kept_bytes`."""
    file_bytes: int
    """File and WAL, with pages that are free for use."""
    disk_fraction: float
    """How much of the file system is used, by anybody, from 0 to 1."""


class SqliteJournal:
    """Implements `ports.Journal`. Made by `open`; use it as an async context manager.

    A row with the key (run, epoch, seq) of an earlier one replaces it. Rows of up to 256 KiB are
    cheap; bigger ones are taken too, at 3 to 4 ms a MiB (see `spool.py`).
    """

    def __init__(
        self,
        writer: JournalWriter,
        *,
        lock: FolderLock,
        clock: Clock,
        damage: str | None,
        is_inherited: bool,
    ) -> None:
        self._writer = writer
        self._lock = lock
        self._clock = clock
        self.damage = damage
        """What was wrong with the file found by `open`, and where it was set aside."""
        self.is_inherited = is_inherited
        """`open` found a file."""

    @classmethod
    async def open(
        cls,
        folder: Path,
        *,
        clock: Clock,
        settings: JournalSettings | None = None,
        on_alarm: Callable[[str | None], None] | None = None,
    ) -> Self:
        """Lock the folder, and open or create the journal in it.

        `on_alarm` is told when space runs low, and with `None` when it no longer does. Raises
        `FolderInUse`, `JournalFromFuture`, and `JournalDead` for an I/O error.
        """
        settings = settings or JournalSettings()
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            lock = await FolderLock.acquire(folder, wait_s=settings.lock_wait_s)
        except OSError as exc:
            raise JournalDead(f"the data folder {folder} can't be used: {exc}") from exc
        try:
            space = SpaceWatch(folder, on_alarm=on_alarm)
            is_inherited = (folder / FILE_NAME).exists()
            file, index, damage = await _open_file(folder / FILE_NAME, space)
            queue = WriteQueue(
                index, rows_max=settings.queue_rows_max, bytes_max=settings.bytes_max
            )
            writer = JournalWriter(
                file, index=index, queue=queue, space=space, bytes_max=settings.bytes_max
            )
            writer.start()
        except (sqlite3.Error, OSError) as exc:
            lock.release()
            raise JournalDead(f"the journal in {folder} can't be opened: {exc}") from exc
        except BaseException:
            lock.release()
            raise
        return cls(writer, lock=lock, clock=clock, damage=damage, is_inherited=is_inherited)

    @property
    def is_dead(self) -> bool:
        """An I/O error was seen."""
        return self._writer.death is not None

    @property
    def death(self) -> str | None:
        """The error that killed the journal, as a sentence."""
        return self._writer.death

    @property
    def alarm(self) -> str | None:
        """Why space is low, as a sentence; `None` when it isn't."""
        return self._writer.space.alarm

    def usage(self) -> Usage:
        """For metrics; asks the file system."""
        return Usage(
            kept_bytes=self._writer.index.kept_bytes,
            bytes_max=self._writer.bytes_max,
            file_bytes=self._writer.file.file_bytes(),
            disk_fraction=self._writer.space.disk_fraction(),
        )

    def append(self, rows: Sequence[Row], *, level: Level) -> "asyncio.Future[None]":
        """Take rows, atomic together; the future is done when they are durable at `level`.

        It fails with `JournalDead`. When it is cancelled the rows are written all the same, unless
        they still wait for room. Raises `ValueError` for a row or level that can't be.
        """
        check_rows(rows, level=level)
        entry = Append(
            rows,
            is_synced=level is Level.NODE,
            done=asyncio.get_running_loop().create_future(),
            length=sum(len(row.data) for row in rows),
        )
        self._writer.append(entry)
        return entry.done

    def trim(self, run: str, *, up_to_epoch: int, up_to_seq: int) -> None:
        """Forget rows at or before (epoch, seq). Not synced: after a crash some may be back."""
        self._writer.check_open()
        self._writer.index.forget(run, up_to_epoch=up_to_epoch, up_to_seq=up_to_seq)
        self._writer.forgot()

    async def load(self) -> list[Row]:
        """All rows written and not trimmed, ordered by run, epoch, seq."""
        self._writer.check_open()
        return await self._writer.in_turn(self._writer.load)

    async def set_aside(self, run: str, *, reason: str) -> int:
        """Move a run's rows to the table `aside`, with reason and time; how many there were."""
        self._writer.check_open()
        at_ms = self._clock.wall_ms()
        return await self._writer.in_turn(
            lambda: self._writer.set_aside(run, reason=reason, at_ms=at_ms)
        )

    async def close(self) -> None:
        """Write what was let in, close the file, let the folder go; may be called again."""
        try:
            await self._writer.stop()
        finally:
            self._lock.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _open_file(path: Path, space: SpaceWatch) -> tuple[JournalFile, RowIndex, str | None]:
    """The file and what it keeps, and the damage found on the way. Raises `sqlite3.Error`."""
    try:
        return *await _read_file(path), None
    except FileDamaged as exc:
        return *await _read_file(path), str(exc)
    except sqlite3.Error as exc:
        if not is_full(exc) or not space.release_ballast():
            raise
        return *await _read_file(path), None


async def _read_file(path: Path) -> tuple[JournalFile, RowIndex]:
    file = await JournalFile.open(path)
    index = RowIndex()
    try:
        async for record in file.records():
            index.restore(record)
    except BaseException as exc:
        raise await file.abandon(exc) from exc
    return file, index
