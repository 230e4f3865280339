"""A journal in memory, with the same semantics and no threads: for simulations and tests."""

from asyncio import Future, get_running_loop
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from coatcheck_sidecar.core.model import Level
from coatcheck_sidecar.ports import JournalDead, Row
from coatcheck_sidecar.stores.journal_rows import check_rows

Key = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Aside:
    """Rows of a run that were moved out of the way."""

    run: str
    reason: str
    rows: tuple[Row, ...]


def _key(row: Row) -> Key:
    return (row.run, row.epoch, row.seq)


class MemoryJournal:
    """Implements `ports.Journal`. Each verb is done at once, within one turn of the loop.

    What a crash leaves is asked of `survivors`; an I/O error is made by `die`.
    """

    def __init__(self) -> None:
        self._rows: dict[Key, Row] = {}
        self._unsynced: dict[Key, Row | None] = {}
        """Keys written since the last sync, with the synced row that each replaced."""
        self._trimmed: dict[Key, Row] = {}
        """Trims are lazy: until the journal is closed a crash may bring these back."""
        self._is_closed = False
        self.is_inherited = False
        """It is what another left: see `survivors`."""
        self.death: str | None = None
        """The error that killed the journal, as a sentence."""
        self.asides: list[Aside] = []
        """What `set_aside` moved, oldest first."""

    @property
    def is_dead(self) -> bool:
        """`die` was called."""
        return self.death is not None

    def append(self, rows: Sequence[Row], *, level: Level) -> "Future[None]":
        """Keep rows; a row with the key of an earlier one replaces it. The future is done.

        It failed with `JournalDead`, or `ValueError` is raised for a row or level that can't be.
        """
        check_rows(rows, level=level)
        done: Future[None] = get_running_loop().create_future()
        try:
            self._check_open()
        except JournalDead as exc:
            done.set_exception(exc)
            done.exception()  # A future that its caller dropped is not worth a log line.
            return done
        for row in rows:
            key = _key(row)
            self._unsynced.setdefault(key, self._rows.get(key))
            self._rows[key] = row
            self._trimmed.pop(key, None)
        if rows and level is Level.NODE:
            self._unsynced.clear()
        done.set_result(None)
        return done

    def trim(self, run: str, *, up_to_epoch: int, up_to_seq: int) -> None:
        """Forget rows at or before (epoch, seq)."""
        self._check_open()
        for key in [key for key in self._rows if key[0] == run]:
            if key[1:] <= (up_to_epoch, up_to_seq):
                self._trimmed[key] = self._rows.pop(key)

    async def load(self) -> list[Row]:
        """All rows kept, ordered by run, epoch, seq."""
        self._check_open()
        return [self._rows[key] for key in sorted(self._rows)]

    async def set_aside(self, run: str, *, reason: str) -> int:
        """Move a run's rows to `asides`; how many there were."""
        self._check_open()
        keys = sorted(key for key in self._rows if key[0] == run)
        if keys:
            rows = tuple(self._rows.pop(key) for key in keys)
            self.asides.append(Aside(run, reason, rows))
            self._unsynced.clear()
        return len(keys)

    async def close(self) -> None:
        """Take nothing more; may be called again."""
        self._is_closed = True
        if not self.is_dead:
            self._unsynced.clear()
            self._trimmed.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def die(self, reason: str) -> None:
        """Meet an I/O error: from here on every verb raises `JournalDead`."""
        self.death = reason

    def survivors(self, *, reboot: bool, with_trimmed: bool = False) -> "MemoryJournal":
        """The journal as the next life finds it: a new one, without an error.

        A process's death leaves all rows; a `reboot` of the node those before the last append at
        level `node`. `with_trimmed` brings trimmed rows back.
        """
        heir = MemoryJournal()
        heir.is_inherited = True
        heir.asides = list(self.asides)
        heir._rows = (self._trimmed if with_trimmed else {}) | self._rows
        if reboot:
            for key in self._unsynced.keys() & heir._rows.keys():
                before = self._unsynced[key]
                if before is None:
                    del heir._rows[key]
                else:
                    heir._rows[key] = before
        return heir

    def _check_open(self) -> None:
        if self.death is not None:
            raise JournalDead(self.death)
        if self._is_closed:
            raise JournalDead("the journal is closed")
