"""Both journals keep the contract; and what only the one in memory can show."""

import tempfile
from pathlib import Path

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.model import Level
from coatcheck_sidecar.ports import Journal, JournalDead
from coatcheck_sidecar.stores.memory_journal import MemoryJournal
from coatcheck_sidecar.stores.sqlite import SqliteJournal
from tests.contract.journal_suite import Home, JournalSuite, row, seqs


class SqliteHome:
    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._journal: SqliteJournal | None = None

    async def open(self) -> Journal:
        path = Path(self._folder.name) / "data"
        self._journal = await SqliteJournal.open(path, clock=SystemClock())
        return self._journal

    async def leave(self) -> None:
        if self._journal is not None:
            await self._journal.close()
        self._folder.cleanup()


class MemoryHome:
    def __init__(self) -> None:
        self._journal: MemoryJournal | None = None

    async def open(self) -> Journal:
        last = self._journal
        self._journal = MemoryJournal() if last is None else last.survivors(reboot=True)
        return self._journal

    async def leave(self) -> None:
        if self._journal is not None:
            await self._journal.close()


class TestSqlite(JournalSuite):
    def make_home(self) -> Home:
        return SqliteHome()


class TestMemory(JournalSuite):
    def make_home(self) -> Home:
        return MemoryHome()

    async def test_a_reboot_loses_what_no_sync_followed(self) -> None:
        journal = MemoryJournal()
        await journal.append([row("a", 1), row("a", 2)], level=Level.PROCESS)
        await journal.append([row("b", 1)], level=Level.NODE)
        await journal.append([row("a", 2, data=b"new"), row("a", 3)], level=Level.PROCESS)
        assert await journal.survivors(reboot=False).load() == await journal.load()
        left = await journal.survivors(reboot=True).load()
        assert left == [row("a", 1), row("a", 2), row("b", 1)]

    async def test_a_crash_may_bring_trimmed_rows_back(self) -> None:
        journal = MemoryJournal()
        await journal.append([row("a", 1)], level=Level.NODE)
        await journal.append([row("a", 2)], level=Level.PROCESS)
        journal.trim("a", up_to_epoch=1, up_to_seq=2)
        assert await journal.load() == []
        assert await journal.survivors(reboot=True).load() == []
        for reboot, kept in ((False, [1, 2]), (True, [1])):
            heir = journal.survivors(reboot=reboot, with_trimmed=True)
            assert seqs(await heir.load()) == kept

    async def test_an_error_is_for_good_and_for_this_life(self) -> None:
        journal = MemoryJournal()
        await journal.append([row("a", 1)], level=Level.NODE)
        journal.die("the disk is gone")
        assert journal.is_dead
        with pytest.raises(JournalDead, match="the disk is gone"):
            await journal.append([row("a", 2)], level=Level.NODE)
        with pytest.raises(JournalDead):
            await journal.load()
        await journal.close()
        heir = journal.survivors(reboot=True)
        assert not heir.is_dead
        assert seqs(await heir.load()) == [1]

    async def test_what_was_set_aside_can_be_looked_at(self) -> None:
        async with MemoryJournal() as journal:
            await journal.append([row("a", 1)], level=Level.NODE)
            await journal.set_aside("a", reason="diverged")
            assert [(aside.run, aside.reason) for aside in journal.asides] == [("a", "diverged")]
            assert journal.survivors(reboot=True).asides[0].rows == (row("a", 1),)
