"""What the journal on SQLite does beyond the contract: its folder, its limits, damaged files."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.model import Level
from coatcheck_sidecar.ports import JournalDead
from coatcheck_sidecar.stores.journal_folder import ALARM_FRACTION, BALLAST_NAME, FolderInUse
from coatcheck_sidecar.stores.journal_writer import TIDY_INTERVAL_S
from coatcheck_sidecar.stores.sqlite import JournalSettings, SqliteJournal
from coatcheck_sidecar.stores.sqlite_file import FILE_NAME, JournalFromFuture
from tests.contract.journal_suite import row, seqs

DISK_BYTES_MAX = 1_300_000
"""Two hundred messages of chat, trimmed as they ship, may take no more after a checkpoint."""


async def opened(folder: Path, **settings: float) -> SqliteJournal:
    limits = JournalSettings(**settings)  # type: ignore[arg-type]
    return await SqliteJournal.open(folder, clock=SystemClock(), settings=limits)


def bytes_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name != BALLAST_NAME)


async def test_two_cannot_share_a_folder(tmp_path: Path) -> None:
    async with await opened(tmp_path):
        with pytest.raises(FolderInUse, match=str(tmp_path)):
            await opened(tmp_path, lock_wait_s=0.1)
    await (await opened(tmp_path)).close()


async def test_an_older_sidecar_is_waited_for(tmp_path: Path) -> None:
    older = await opened(tmp_path)
    newer = asyncio.ensure_future(opened(tmp_path, lock_wait_s=5))
    await asyncio.sleep(0.1)
    assert not newer.done()
    await older.close()
    await (await newer).close()


async def test_a_journal_that_cannot_be_opened_is_dead(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(JournalDead, match=str(tmp_path)):
        await opened(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(JournalDead, match=str(tmp_path / "file")):
        await opened(tmp_path / "file" / "data")


async def test_a_journal_from_the_future_is_refused_and_left_alone(tmp_path: Path) -> None:
    await (await opened(tmp_path)).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("PRAGMA user_version=2")
    connection.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    for _ in range(2):
        with pytest.raises(JournalFromFuture, match="layout 2"):
            await opened(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def spoil_header(path: Path) -> None:
    path.write_bytes(b"not a database" + path.read_bytes()[14:])


def spoil_tree(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:8192] + b"\xff" * 4096 + data[12288:])


def spoil_data(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"mark", b"mArk"))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9000])


def put_a_stranger(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()


def lose_the_file(path: Path) -> None:
    path.rename(path.with_name("journal.db-wal"))


@pytest.mark.parametrize(
    "spoil", [spoil_header, spoil_tree, spoil_data, cut_off, put_a_stranger, lose_the_file]
)
async def test_a_damaged_file_is_set_aside(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = tmp_path / FILE_NAME
    for number in (1, 2):
        async with await opened(tmp_path) as journal:
            rows = [row("a", seq, data=b"mark" * 300) for seq in range(50)]
            await journal.append(rows, level=Level.NODE)
        spoil(path)
        damaged = next(path for path in (path, tmp_path / "journal.db-wal") if path.exists())
        content = damaged.read_bytes()
        async with await opened(tmp_path) as journal:
            aside = damaged.name.replace(FILE_NAME, f"{FILE_NAME}.damaged-{number}")
            assert journal.damage is not None
            assert f"{FILE_NAME}.damaged-{number}" in journal.damage
            assert (tmp_path / aside).read_bytes() == content
            assert await journal.load() == []
            await journal.append([row("a", 1)], level=Level.NODE)
        async with await opened(tmp_path) as journal:
            assert journal.damage is None
            assert seqs(await journal.load()) == [1]


async def test_rows_set_aside_stay_in_the_file(tmp_path: Path) -> None:
    async with await opened(tmp_path) as journal:
        await journal.append([row("a", 1), row("a", 2), row("b", 1)], level=Level.NODE)
        await journal.set_aside("a", reason="the head went on")
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        found = connection.execute("SELECT run, epoch, seq, data, reason, at_ms FROM aside")
        rows = found.fetchall()
    connection.close()
    assert [row[:5] for row in rows] == [
        ("a", 1, seq, b"data", "the head went on") for seq in (1, 2)
    ]
    assert abs(rows[0][5] - SystemClock().wall_ms()) < 60_000


async def test_a_full_queue_makes_appends_wait_in_order(tmp_path: Path) -> None:
    async with await opened(tmp_path, queue_rows_max=4) as journal:
        waiting = [journal.append([row("a", n), row("b", n)], level=Level.NODE) for n in range(9)]
        waiting[8].cancel()
        await asyncio.gather(*waiting[:8])
        rows = await journal.load()
        # The one given up before there was room was never let in.
        assert seqs(rows) == seqs(rows, "b") == list(range(8))


async def test_more_than_the_limit_waits_for_a_trim(tmp_path: Path) -> None:
    async with await opened(tmp_path, bytes_max=10_000) as journal:
        await journal.append([row("a", 1, data=b"x" * 9_000)], level=Level.NODE)
        usage = journal.usage()
        assert (usage.kept_bytes, usage.bytes_max) == (9_000, 10_000)
        assert usage.file_bytes > usage.kept_bytes
        assert 0 <= usage.disk_fraction <= 1
        waiting = journal.append([row("a", 2, data=b"x" * 20_000)], level=Level.NODE)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert seqs(await journal.load()) == [1]
        journal.trim("a", up_to_epoch=1, up_to_seq=1)
        await waiting
        assert seqs(await journal.load()) == [2]
        last = journal.append([row("a", 3)], level=Level.NODE)
        await journal.close()
        with pytest.raises(JournalDead, match="closed"):
            await last


async def test_an_alarm_comes_before_the_limit_and_goes(tmp_path: Path) -> None:
    alarms: list[str | None] = []
    async with await SqliteJournal.open(
        tmp_path,
        clock=SystemClock(),
        settings=JournalSettings(bytes_max=100_000),
        on_alarm=alarms.append,
    ) as journal:
        start = journal.alarm
        data = b"x" * int(100_000 * ALARM_FRACTION)
        await journal.append([row("a", 1, data=data)], level=Level.NODE)
        await asyncio.sleep(TIDY_INTERVAL_S * 1.5)
        assert journal.alarm is not None
        assert "limit of 100000 bytes" in journal.alarm
        journal.trim("a", up_to_epoch=1, up_to_seq=1)
        await asyncio.sleep(TIDY_INTERVAL_S * 1.5)
        assert journal.alarm == start
        assert alarms[-2:] == [alarms[-2], start]


async def test_a_chat_leaves_little_on_the_disk(tmp_path: Path) -> None:
    async with await opened(tmp_path) as journal:
        for seq in range(200):
            await journal.append([row("a", seq, data=b"x" * 2_150)], level=Level.NODE)
            journal.trim("a", up_to_epoch=1, up_to_seq=seq - 10)
    assert bytes_on_disk(tmp_path) < DISK_BYTES_MAX


async def test_the_file_shrinks_once_a_backlog_is_shipped(tmp_path: Path) -> None:
    async with await opened(tmp_path) as journal:
        for seq in range(100):
            await journal.append([row("a", seq, data=b"x" * 131_072)], level=Level.PROCESS)
        await journal.append([row("b", 1)], level=Level.NODE)
        grown = journal.usage().file_bytes
        assert grown > 13_000_000
        journal.trim("a", up_to_epoch=1, up_to_seq=99)
        for _ in range(2):
            await asyncio.sleep(TIDY_INTERVAL_S * 1.5)
            await journal.append([row("b", 2, data=b"x" * 600_000)], level=Level.PROCESS)
        await asyncio.sleep(TIDY_INTERVAL_S * 1.5)
        assert journal.usage().file_bytes < 4_000_000
        assert seqs(await journal.load(), "b") == [1, 2]
