"""The one writer of a journal's file: takes what waits, batch by batch, and tidies in between."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from coatcheck_sidecar.ports import JournalDead, Row
from coatcheck_sidecar.stores.journal_folder import SpaceWatch
from coatcheck_sidecar.stores.journal_queue import Append, Job, WriteQueue
from coatcheck_sidecar.stores.journal_rows import RowIndex
from coatcheck_sidecar.stores.sqlite_file import FileDamaged, JournalFile, is_full

T = TypeVar("T")

TIDY_INTERVAL_S: Final = 0.5
"""Trims gather this long: one DELETE for many of them."""

TIDY_ROWS_MAX: Final = 500
"""Rows deleted at once, and enough to begin: about 1 ms that an append may have to wait."""

WAL_IDLE_BYTES: Final = 512 * 1024
"""From here a checkpoint is made when nothing waits."""

WAL_BUSY_BYTES: Final = 2 * 1024 * 1024
"""From here it is made although appends wait: later, it would cost them more."""

SHRINK_FREE_BYTES: Final = 4 * 1024 * 1024
"""Free pages worth giving back; fewer are soon used again."""

SHRINK_FREE_FRACTION: Final = 0.75
"""Giving back costs writing what stays, which must be the smaller part."""


CLOSED: Final = "the journal is closed"


class JournalWriter:
    """Writes for `SqliteJournal`. Its task runs from `start` to `stop`."""

    def __init__(
        self,
        file: JournalFile,
        *,
        index: RowIndex,
        queue: WriteQueue,
        space: SpaceWatch,
        bytes_max: int,
    ) -> None:
        self.file = file
        self.index = index
        self.space = space
        self.bytes_max = bytes_max
        self.written_id = index.last_id
        """All rows up to this id are in the file."""
        self.death: str | None = None
        self._queue = queue
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._tidy_timer: asyncio.TimerHandle | None = None
        self._is_tidy_due = False
        self._is_stopping = False

    def start(self) -> None:
        """Begin to write."""
        self.space.lay_ballast()
        self._check_space()
        self._task = asyncio.create_task(  # noqa: TID251 - held here, awaited by `stop`
            self._work(), name="journal writer"
        )

    async def stop(self) -> None:
        """Write what was let in and close the file; may be called again, and at once."""
        self._is_stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task})
        await self.file.close(is_sound=self.death is None)

    def check_open(self) -> None:
        """Raise `JournalDead` when nothing more is taken."""
        if self.death is not None:
            raise JournalDead(self.death)
        if self._is_stopping:
            raise JournalDead(CLOSED)

    def append(self, entry: Append) -> None:
        """Have rows written in their turn, or refuse them."""
        if self.death is not None or self._is_stopping:
            _refuse([entry], self.death or CLOSED)
        elif not entry.rows:
            entry.done.set_result(None)
        else:
            self._queue.put(entry)
            self._wake.set()

    async def in_turn(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something with the file after what was asked before."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put_job(Job(work, done))
        self._wake.set()
        return await done

    def forgot(self) -> None:
        """Rows were doomed in the index: there may be room, and there is something to delete."""
        self._queue.admit()
        self._wake.set()
        if self.index.doomed_count >= TIDY_ROWS_MAX:
            self._is_tidy_due = True
        else:
            self._tidy_soon()

    async def load(self) -> list[Row]:
        """All rows of the file that are not doomed, by run, epoch, seq."""
        while await self._delete_some():
            pass
        rows = [record.row async for record in self.file.records()]
        rows.sort(key=lambda row: (row.run, row.epoch, row.seq))
        return rows

    async def set_aside(self, run: str, *, reason: str, at_ms: int) -> int:
        """Move a run's written rows to the table `aside`."""
        ids = self.index.withdraw(run, written_id=self.written_id)
        if ids:
            await self._with_ballast(lambda: self.file.set_aside(ids, reason=reason, at_ms=at_ms))
        return len(ids)

    async def _work(self) -> None:
        try:
            while True:
                if self._queue:
                    await self._turn()
                elif self._is_tidy_due or self._is_stopping:
                    await self._tidy()
                    if self._is_stopping:
                        break
                else:
                    self._wake.clear()
                    await self._wake.wait()
                # Callers just answered append again before the next batch is taken.
                await asyncio.sleep(0)
        except (sqlite3.Error, FileDamaged) as exc:
            self.death = f"the journal died: {exc}"
            await self.file.close(is_sound=False)
        finally:
            self._end()

    async def _turn(self) -> None:
        taken = self._queue.take()
        if isinstance(taken, Job):
            await self._do(taken)
        else:
            await self._write(taken)
        if self.file.wal_bytes >= WAL_BUSY_BYTES:
            await self._with_ballast(self.file.checkpoint)
        elif self._is_tidy_due:
            self._is_tidy_due = await self._delete_some()

    async def _write(self, batch: list[Append]) -> None:
        records = [record for entry in batch for record in entry.records]
        is_synced = any(entry.is_synced for entry in batch)
        try:
            await self._with_ballast(lambda: self.file.insert(records, is_synced=is_synced))
        except BaseException as exc:
            message = f"the journal died, and the rows may or may not be kept: {exc}"
            _refuse(batch, message)
            raise
        self.written_id = records[-1].id
        for entry in batch:
            if not entry.done.done():
                entry.done.set_result(None)
        self._tidy_soon()

    async def _do(self, job: Job) -> None:
        try:
            result = await job.work()
        except BaseException as exc:
            _refuse([job], f"the journal died: {exc}")
            raise
        if not job.done.done():
            job.done.set_result(result)

    async def _tidy(self) -> None:
        """One round; what is left asks for another."""
        self._is_tidy_due = False
        if await self._delete_some():
            self._is_tidy_due = True
            return
        if self.file.wal_bytes >= WAL_IDLE_BYTES:
            await self._with_ballast(self.file.checkpoint)
            await self._shrink()
        self.space.lay_ballast()
        self._check_space()

    async def _delete_some(self) -> bool:
        """Delete doomed rows; whether there may be more."""
        ids = self.index.take_doomed(written_id=self.written_id, limit=TIDY_ROWS_MAX)
        if ids:
            await self._with_ballast(lambda: self.file.delete(ids))
        return len(ids) == TIDY_ROWS_MAX

    async def _shrink(self) -> None:
        size = self.file.file_bytes()
        if size < SHRINK_FREE_BYTES:
            return
        free = await self.file.free_bytes()
        if free >= SHRINK_FREE_BYTES and free >= SHRINK_FREE_FRACTION * size:
            await self._with_ballast(self.file.shrink)

    async def _with_ballast(self, work: Callable[[], Awaitable[None]]) -> None:
        """On a full disk release the ballast and try once more, in its room.

        That is safe, unlike after any other error: SQLite found no room for a write, rolled back
        whole, and no fsync had a part in it.
        """
        try:
            await work()
        except sqlite3.Error as exc:
            if not is_full(exc) or not self.space.release_ballast():
                raise
            self._check_space()
            await work()

    def _check_space(self) -> None:
        self.space.check(kept_bytes=self.index.kept_bytes, bytes_max=self.bytes_max)

    def _tidy_soon(self) -> None:
        if self._tidy_timer is None and not self._is_stopping:
            loop = asyncio.get_running_loop()
            self._tidy_timer = loop.call_later(TIDY_INTERVAL_S, self._tidy_now)

    def _tidy_now(self) -> None:
        self._tidy_timer = None
        self._is_tidy_due = True
        self._wake.set()

    def _end(self) -> None:
        """Whatever ended the writer, nobody waits for it any longer."""
        self._is_stopping = True
        if self._tidy_timer is not None:
            self._tidy_timer.cancel()
            self._tidy_timer = None
        _refuse(self._queue.clear(), self.death or CLOSED)


def _refuse(entries: list[Append] | list[Job] | list[Append | Job], message: str) -> None:
    for entry in entries:
        if not entry.done.done():
            entry.done.set_exception(JournalDead(message))
            entry.done.exception()  # A future that its caller dropped is not worth a log line.
