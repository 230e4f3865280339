"""The journal's SQLite file: its statements, its checkpoints, and what is done about damage.

Every verb but a big insert is one statement in autocommit mode: one hop to the thread of aiosqlite.
"""

import functools
import itertools
import json
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import aiosqlite

from coatcheck_sidecar.core.space import WAL_KEPT_BYTES
from coatcheck_sidecar.ports import JournalDead
from coatcheck_sidecar.stores.journal_rows import Record

FILE_NAME: Final = "journal.db"
SCHEMA_VERSION: Final = 1

STATEMENT_ROWS_MAX: Final = 500
"""Rows of one INSERT: 3,000 variables, far below SQLite's 32,766."""

STATEMENTS_CACHED: Final = 64
"""Prepared statements differ by their number of rows, and the usual numbers are few."""

COMMIT_WAL_BYTES: Final = 3 * 4096
"""Pages that a commit rewrites beside its data: the header, the last leaf, the free list."""

DELETE_WAL_BYTES: Final = 64
"""WAL of a deleted row, on average: rows that were appended together share pages."""

SCAN_ROWS: Final = 64
"""Rows read in one hop: 16 MiB when all are as big as a row may sensibly be."""

DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
PRIMARY_CODE: Final = 0xFF
"""The low byte of SQLite's error codes; the rest refines it."""

# `run` names, not ids: a file must be readable by itself, with the sqlite3 shell.
SCHEMA: Final = (
    "CREATE TABLE row (id INTEGER PRIMARY KEY, run TEXT NOT NULL, epoch INTEGER NOT NULL,"
    " seq INTEGER NOT NULL, crc INTEGER NOT NULL, data BLOB NOT NULL)",
    "CREATE TABLE aside (id INTEGER PRIMARY KEY, run TEXT NOT NULL, epoch INTEGER NOT NULL,"
    " seq INTEGER NOT NULL, crc INTEGER NOT NULL, data BLOB NOT NULL,"
    " reason TEXT NOT NULL, at_ms INTEGER NOT NULL)",
    f"PRAGMA user_version={SCHEMA_VERSION}",
)

# After exclusive locking, which keeps the WAL's index in memory: 35 µs less a commit.
SETTINGS: Final = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",
    "PRAGMA wal_autocheckpoint=0",
    f"PRAGMA journal_size_limit={WAL_KEPT_BYTES}",
    "PRAGMA secure_delete=OFF",
    "PRAGMA temp_store=MEMORY",
)


class JournalFromFuture(Exception):  # noqa: N818 - a refusal is an answer, not an error
    """The file was written by a newer release in a layout that this one can't read."""


class FileDamaged(Exception):  # noqa: N818 - names a state, as its users do
    """SQLite, or a row's checksum, says that the file isn't what was written."""


def is_damage(exc: sqlite3.Error) -> bool:
    """The content is wrong, rather than the device."""
    code: int | None = getattr(exc, "sqlite_errorcode", None)
    return code is not None and code & PRIMARY_CODE in DAMAGED


def is_full(exc: sqlite3.Error) -> bool:
    """A write found no room: SQLite rolled back whole, and no fsync was involved."""
    code: int | None = getattr(exc, "sqlite_errorcode", None)
    return code is not None and code & PRIMARY_CODE == sqlite3.SQLITE_FULL


@functools.lru_cache(maxsize=STATEMENT_ROWS_MAX)
def _insert_sql(count: int) -> str:
    values = ",".join(["(?,?,?,?,?,?)"] * count)
    return f"INSERT INTO row (id, run, epoch, seq, crc, data) VALUES {values}"  # noqa: S608


def _connect(path: Path) -> aiosqlite.Connection:
    """A connection whose thread never holds up the interpreter's exit.

    A thread inherits being a daemon from the one that makes it; aiosqlite has no setting for it.
    """
    made: list[aiosqlite.Connection] = []

    def make() -> None:
        made.append(
            aiosqlite.connect(path, isolation_level=None, cached_statements=STATEMENTS_CACHED)
        )

    maker = threading.Thread(target=make, daemon=True)
    maker.start()
    maker.join()
    return made[0]


class JournalFile:
    """One open file, driven by one caller at a time. Its verbs raise `sqlite3.Error`."""

    def __init__(self, path: Path, connection: aiosqlite.Connection) -> None:
        self._path = path
        self._connection: aiosqlite.Connection | None = connection
        self._is_synced = False
        self.wal_bytes = 0
        """What was written since the last checkpoint, roughly."""

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or create the file.

        Raises `sqlite3.Error`, `OSError`, `JournalFromFuture`, and `FileDamaged` after it moved
        the file out of the way.
        """
        restore_moved(path)
        connection = _connect(path)
        file = cls(path, connection)
        try:
            check_pair(path)
            # aiosqlite leaves its thread to itself when SQLite can't open; the system says it too.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            await connection
            await file._prepare()
        except BaseException as exc:
            raise await file.abandon(exc) from exc
        return file

    async def _prepare(self) -> None:
        await self._run("PRAGMA locking_mode=EXCLUSIVE")
        version = await self._number("PRAGMA user_version")
        if version > SCHEMA_VERSION:
            message = (
                f"{self._path} has layout {version} of a newer release; this one reads up to "
                f"{SCHEMA_VERSION}. Run the newer release, or move the file away."
            )
            raise JournalFromFuture(message)
        if not version and await self._number("SELECT count(*) FROM sqlite_schema"):
            raise FileDamaged(f"{self._path} is not a journal: tables without a layout version")
        for setting in SETTINGS:
            await self._run(setting)
        verdict = str((await self._fetch("PRAGMA quick_check(1)"))[0][0])
        if verdict != "ok":
            raise FileDamaged(verdict)
        if not version:
            await self._create()

    async def _create(self) -> None:
        await self._set_synced(True)
        await self._run("BEGIN IMMEDIATE")
        for statement in SCHEMA:
            await self._run(statement)
        await self._run("COMMIT")

    async def insert(self, records: Sequence[Record], *, is_synced: bool) -> None:
        """Write records together; with `is_synced`, they and all before them are on the disk."""
        await self._set_synced(is_synced)
        self.wal_bytes += sum(len(record.data) for record in records) + COMMIT_WAL_BYTES
        if len(records) <= STATEMENT_ROWS_MAX:
            await self._insert(records)
            return
        await self._run("BEGIN IMMEDIATE")
        try:
            for start in range(0, len(records), STATEMENT_ROWS_MAX):
                await self._insert(records[start : start + STATEMENT_ROWS_MAX])
            await self._run("COMMIT")
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                await self._run("ROLLBACK")
            raise

    async def delete(self, ids: Sequence[int]) -> None:
        """Remove rows, without a sync: after a reboot some may be back."""
        await self._set_synced(False)
        self.wal_bytes += DELETE_WAL_BYTES * len(ids)
        await self._fetch(
            "DELETE FROM row WHERE id IN (SELECT value FROM json_each(?))", json.dumps(ids)
        )

    async def set_aside(self, ids: Sequence[int], *, reason: str, at_ms: int) -> None:
        """Move rows to the table `aside`, synced."""
        await self._set_synced(True)
        chosen = json.dumps(ids)
        await self._run("BEGIN IMMEDIATE")
        try:
            await self._fetch(
                "INSERT INTO aside (run, epoch, seq, crc, data, reason, at_ms)"
                " SELECT run, epoch, seq, crc, data, ?, ? FROM row"
                " WHERE id IN (SELECT value FROM json_each(?))",
                reason,
                at_ms,
                chosen,
            )
            await self._fetch(
                "DELETE FROM row WHERE id IN (SELECT value FROM json_each(?))", chosen
            )
            await self._run("COMMIT")
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                await self._run("ROLLBACK")
            raise

    async def records(self) -> AsyncIterator[Record]:
        """All rows in the order of ids. Raises `FileDamaged` at one that isn't as written."""
        last_id = 0
        while True:
            rows = await self._fetch(
                "SELECT id, run, epoch, seq, crc, data FROM row WHERE id > ? ORDER BY id LIMIT ?",
                last_id,
                SCAN_ROWS,
            )
            for columns in rows:
                record = Record(*columns)
                if not record.is_intact:
                    message = f"row {record.id} of run {record.run} fails its checksum"
                    raise FileDamaged(message)
                last_id = record.id
                yield record
            if len(rows) < SCAN_ROWS:
                return

    async def checkpoint(self) -> None:
        """Bring the WAL into the file; the next write begins the WAL anew."""
        await self._run("PRAGMA wal_checkpoint(PASSIVE)")
        self.wal_bytes = 0

    async def shrink(self) -> None:
        """Give pages back to the file system; costs as much as there is left to keep."""
        await self._run("VACUUM")
        await self._run("PRAGMA wal_checkpoint(TRUNCATE)")
        self.wal_bytes = 0

    async def free_bytes(self) -> int:
        """Pages in the file that hold nothing."""
        pages = await self._number("PRAGMA freelist_count")
        return pages * await self._number("PRAGMA page_size")

    def file_bytes(self) -> int:
        """Size of the file and its WAL."""
        total = 0
        for path in (self._path, wal_path(self._path)):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    async def close(self, *, is_sound: bool) -> None:
        """Close the connection; may be called again.

        After a failed fsync the page cache can't be trusted, and a checkpoint would carry it over
        good pages. SQLite leaves that out, and keeps the WAL, when the file isn't at its name.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if not is_sound:
            with suppress(OSError):
                os.replace(self._path, moved_path(self._path))
        try:
            with suppress(sqlite3.Error, ValueError):
                await connection.close()
        finally:
            if not is_sound:
                restore_moved(self._path)

    async def abandon(self, exc: BaseException) -> BaseException:
        """Close after an error while opening; the error to raise.

        For damage file and WAL are moved to a new name, and nothing is deleted.
        """
        damage = str(exc) if isinstance(exc, FileDamaged) else None
        if isinstance(exc, sqlite3.Error) and is_damage(exc):
            damage = str(exc)
        if damage is None:
            await self.close(is_sound=False)
            return exc
        number = 1
        while has_any(aside := damaged_path(self._path, number)):
            number += 1
        for path, target in ((self._path, aside), (wal_path(self._path), wal_path(aside))):
            with suppress(FileNotFoundError):
                os.replace(path, target)
        await self.close(is_sound=True)
        return FileDamaged(f"{damage}; the file was set aside as {aside}")

    async def _insert(self, records: Sequence[Record]) -> None:
        await self._fetch(_insert_sql(len(records)), *itertools.chain.from_iterable(records))

    async def _set_synced(self, is_synced: bool) -> None:
        if is_synced != self._is_synced:
            await self._run(f"PRAGMA synchronous={'FULL' if is_synced else 'NORMAL'}")
            self._is_synced = is_synced

    async def _number(self, sql: str) -> int:
        return int((await self._fetch(sql))[0][0])

    async def _run(self, sql: str) -> None:
        await self._fetch(sql)

    async def _fetch(self, sql: str, *parameters: object) -> list[sqlite3.Row]:
        if self._connection is None:
            raise JournalDead("the journal's file is closed")
        return list(await self._connection.execute_fetchall(sql, parameters))


def wal_path(path: Path) -> Path:
    """SQLite's name for the WAL of a file."""
    return path.with_name(f"{path.name}-wal")


def check_pair(path: Path) -> None:
    """Raise `FileDamaged` for a WAL whose file is gone or empty: SQLite would delete it."""
    is_gone = not path.exists() or not path.stat().st_size
    if is_gone and wal_path(path).exists():
        raise FileDamaged(f"{wal_path(path)} is there without its file")


def damaged_path(path: Path, number: int) -> Path:
    """Where a damaged file is kept for an operator."""
    return path.with_name(f"{path.name}.damaged-{number}")


def has_any(path: Path) -> bool:
    """A file or a WAL has this name."""
    return path.exists() or wal_path(path).exists()


def moved_path(path: Path) -> Path:
    """Where a file is for the moment of an unsound close."""
    return path.with_name(f"{path.name}.closing")


def restore_moved(path: Path) -> None:
    """Put a file back that an unsound close moved, in this life or an earlier one."""
    if not path.exists():
        with suppress(FileNotFoundError):
            os.replace(moved_path(path), path)
