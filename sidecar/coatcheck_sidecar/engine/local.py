"""The pod's own copy of its logs: the journal, and a spool for rows too big for it."""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import msgpack

from coatcheck_sidecar.core.model import Level
from coatcheck_sidecar.core.record import BadRecord, Record, decode_record, encode_record
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.ports import Journal, JournalDead, Observer, Row

ROW_BYTES_MAX: Final = 262_144
"""A bigger row costs SQLite milliseconds (1 MB: 3 to 4, p99 22); a file of its own does not."""


class Spool(Protocol):
    """Files beside the journal, one a row that is too big for it."""

    async def write(self, data: bytes) -> str:
        """Keep bytes, fsynced; their name. Raises `OSError`."""

    async def read(self, name: str) -> bytes:
        """The bytes, checked; raises `OSError`."""

    async def clean(self, keep: set[str]) -> object:
        """Remove all files but these."""


class LocalLog:
    """Takes every record first; when its journal died, everything goes to the store alone."""

    def __init__(self, journal: Journal, spool: Spool, *, tasks: TaskSet, note: Observer) -> None:
        """The journal is open, the spool's folder exists."""
        self._journal = journal
        self._spool = spool
        self._tasks = tasks
        self._observer = note
        self._is_mourned = False
        self._behind: dict[str, asyncio.Task[None]] = {}
        self._spooled: dict[str, list[tuple[int, int, str]]] = {}

    @property
    def is_dead(self) -> bool:
        """Nothing more can be kept here."""
        return self._journal.is_dead

    def mourn(self, error: JournalDead) -> None:
        """Say once that everything goes to the store alone from now on."""
        if not self._is_mourned:
            self._is_mourned = True
            self._observer.note("journal_dead", error=str(error))

    def write(self, run: str, records: Sequence[Record], *, level: Level) -> "asyncio.Future[None]":
        """Take records in order; done when durable at `level`, or fails with `JournalDead`."""
        rows = [Row(run, record.epoch, record.seq, encode_record(record)) for record in records]
        local = Level.NODE if level is Level.REMOTE else level
        behind = self._behind.get(run)
        if behind is None and max(len(row.data) for row in rows) <= ROW_BYTES_MAX:
            return self._journal.append(rows, level=local)
        task = self._tasks.start(
            self._write_big(rows, behind=behind, level=local), name=f"spool {run}"
        )
        self._behind[run] = task
        task.add_done_callback(lambda done: self._caught_up(run, done))
        return asyncio.shield(task)

    def _caught_up(self, run: str, task: "asyncio.Task[None]") -> None:
        if self._behind.get(run) is task:
            del self._behind[run]

    async def _write_big(
        self, rows: list[Row], *, behind: "asyncio.Task[None] | None", level: Level
    ) -> None:
        if behind is not None:
            await asyncio.wait([behind])
        await self._journal.append([await self._slim(row) for row in rows], level=level)

    async def _slim(self, row: Row) -> Row:
        if len(row.data) <= ROW_BYTES_MAX:
            return row
        try:
            name = await self._spool.write(row.data)
        except OSError as error:
            self._observer.note("spool_failed", run=row.run, error=str(error))
            raise JournalDead(f"the spool failed: {error}") from error
        self._spooled.setdefault(row.run, []).append((row.epoch, row.seq, name))
        return Row(row.run, row.epoch, row.seq, msgpack.packb(["spool", name]))

    async def load(self) -> dict[str, list[Record]]:
        """What a former life of the sidecar left, by run, in order.

        A run's records end before the first that can't be read; that is noted.
        """
        logs: dict[str, list[Record]] = {}
        broken: set[str] = set()
        for row in await self._journal.load():
            if row.run in broken:
                continue
            try:
                record = decode_record(await self._fat(row))
            except (BadRecord, OSError) as error:
                broken.add(row.run)
                self._observer.note("row_damaged", run=row.run, seq=row.seq, error=str(error))
                continue
            logs.setdefault(row.run, []).append(record)
        return logs

    async def _fat(self, row: Row) -> bytes:
        try:
            raw = msgpack.unpackb(row.data)
        except ValueError as error:
            raise BadRecord(f"row {row.seq} is not msgpack: {error}") from error
        match raw:
            case ["spool", str(name)]:
                self._spooled.setdefault(row.run, []).append((row.epoch, row.seq, name))
                return await self._spool.read(name)
            case _:
                return row.data

    def trim(self, run: str, *, epoch: int, seq: int) -> None:
        """Forget what is shipped."""
        if self._journal.is_dead:
            return
        self._journal.trim(run, up_to_epoch=epoch, up_to_seq=seq)
        spooled = self._spooled.get(run)
        if spooled:
            kept = [entry for entry in spooled if entry[:2] > (epoch, seq)]
            if len(kept) < len(spooled):
                self._spooled[run] = kept
                self._tasks.start(self._clean(), name="clean spool")

    async def _clean(self) -> None:
        keep = {name for entries in self._spooled.values() for _, _, name in entries}
        await self._spool.clean(keep)

    async def set_aside(self, run: str, *, reason: str) -> None:
        """Keep a run's rows out of the way: they belong to a log that went on elsewhere."""
        if self._journal.is_dead:
            return
        count = await self._journal.set_aside(run, reason=reason)
        if count:
            self._observer.note("set_aside", run=run, records=count, reason=reason)
