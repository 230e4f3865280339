"""The journal on SQLite against kills, lost syncs, full disks and hasty exits: real ones."""

import asyncio
import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.model import Level
from coatcheck_sidecar.ports import JournalDead, Row
from coatcheck_sidecar.stores.journal_folder import BALLAST_NAME
from coatcheck_sidecar.stores.sqlite import SqliteJournal
from tests.contract.journal_suite import row, seqs

ROOT = Path(__file__).parents[2]
EXIT_S = 2.0
"""An exit must not take longer; an open connection of aiosqlite would hold it up for ever."""

LIVES = 5
"""Kills at random moments of one journal: each costs the start of an interpreter."""


async def opened(folder: Path) -> SqliteJournal:
    return await SqliteJournal.open(folder, clock=SystemClock())


def start(kind: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.contract.journal_lives", kind, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )


def test_what_was_acknowledged_survives_kills(tmp_path: Path) -> None:
    chance = random.Random(4711)
    acknowledged: dict[tuple[str, int, int], int] = {}
    for life in range(1, LIVES + 1):
        process = start("write_for_ever", tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == f"life {life}\n"
        time.sleep(chance.uniform(0.0, 0.3))
        process.kill()
        for line in process.stdout.read().splitlines():
            run, epoch, seq, count = line.split()
            acknowledged[run, int(epoch), int(seq)] = int(count)
        process.wait()
        process.stdout.close()
    assert len(acknowledged) > LIVES
    check_survivors(acknowledged, asyncio.run(load(tmp_path)))


async def load(folder: Path) -> list[Row]:
    async with await opened(folder) as journal:
        return await journal.load()


def check_survivors(acknowledged: dict[tuple[str, int, int], int], rows: list[Row]) -> None:
    kept = {(row.run, row.epoch, row.seq): row for row in rows}
    for (run, epoch, seq), count in acknowledged.items():
        for number in range(count):
            assert kept[run, epoch, seq + number].data[:4] == count.to_bytes(4)
    starts: dict[tuple[str, int], int] = {}
    for survivor in rows:
        # Appends begin where the one before ended: a torn one would end between two starts.
        key = (survivor.run, survivor.epoch)
        begin = starts.setdefault(key, 0)
        assert survivor.seq >= begin
        if survivor.seq == begin + int.from_bytes(survivor.data[:4]) - 1:
            starts[key] = survivor.seq + 1
    for (run, epoch), end in starts.items():
        assert max(seq for r, e, seq in kept if (r, e) == (run, epoch)) == end - 1


@pytest.mark.parametrize("kind", ["exit_inside", "exit_without_close", "exit_in_a_callback"])
def test_no_exit_hangs(tmp_path: Path, kind: str) -> None:
    with start(kind, tmp_path) as process:
        try:
            # The interpreter's own start is not what is measured.
            assert process.wait(EXIT_S + 3) == 3
        finally:
            process.kill()
    assert seqs(asyncio.run(load(tmp_path))) == [1]


@pytest.mark.parametrize(("kind", "code"), [("wait_for_signal", -15), ("handle_signal", 3)])
def test_no_signal_is_held_up(tmp_path: Path, kind: str, code: int) -> None:
    with start(kind, tmp_path) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(EXIT_S) == code
        finally:
            process.kill()
    assert seqs(asyncio.run(load(tmp_path))) == [1]


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to build the shim that fails fsync")
    library = tmp_path_factory.mktemp("shim") / "fsync.so"
    source = Path(__file__).with_name("fsync_shim.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return str(library)


def test_a_lost_fsync_kills_the_journal_for_good(tmp_path: Path, shim: str) -> None:
    folder = tmp_path / "data"
    switch = str(tmp_path / "fail")
    with start("lose_fsync", folder, LD_PRELOAD=shim, FAIL_FSYNC=switch) as process:
        out, _ = process.communicate(timeout=10)
    died, *refused, no_load, wal = out.splitlines()
    assert died == "died True True"
    assert len(refused) == 2
    assert all("disk I/O error" in line for line in refused)
    assert no_load == "no load"
    assert wal == "wal True", "a checkpoint would have trusted the page cache"
    rows = asyncio.run(load(folder))
    assert seqs(rows, "kept") == [1, 2]
    assert seqs(rows, "late") == []


def test_level_node_is_synced_and_level_process_is_not(tmp_path: Path, shim: str) -> None:
    log = str(tmp_path / "count")
    with start("count_fsyncs", tmp_path / "data", LD_PRELOAD=shim, COUNT_FSYNC=log) as process:
        out, _ = process.communicate(timeout=10)
    assert out.splitlines() == ["process 0", "node 1", "process 0", "node 1"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk(tiny_disk: Path) -> None:
    alarms: list[str | None] = []
    journal = await SqliteJournal.open(tiny_disk, clock=SystemClock(), on_alarm=alarms.append)
    assert alarms == []
    await journal.append([row("a", seq) for seq in range(10)], level=Level.NODE)
    fill(tiny_disk / "neighbour")

    # The ballast's room: writes, reads and trims go on, and somebody is told.
    seq = 10
    while (tiny_disk / BALLAST_NAME).exists():
        await journal.append([row("a", seq, data=b"x" * 4096)], level=Level.NODE)
        seq += 1
    assert journal.death is None
    assert journal.alarm is not None
    assert alarms == [journal.alarm]
    assert "ballast" in journal.alarm
    assert seqs(await journal.load()) == list(range(seq))
    journal.trim("a", up_to_epoch=1, up_to_seq=4)
    assert seqs(await journal.load()) == list(range(5, seq))

    # Without it the end comes, and takes nothing that was acknowledged along.
    last = seq
    with contextlib.suppress(JournalDead):
        while seq < last + 100:
            await journal.append([row("a", seq, data=b"x" * 65536)], level=Level.NODE)
            seq += 1
    assert "full" in str(journal.death)
    await journal.close()
    (tiny_disk / "neighbour").unlink()
    async with await opened(tiny_disk) as heir:
        assert seqs(await heir.load()) == list(range(5, seq))
        assert (tiny_disk / BALLAST_NAME).exists()


async def test_a_disk_that_is_full_at_the_start(tiny_disk: Path) -> None:
    async with await opened(tiny_disk) as journal:
        await journal.append([row("a", 1)], level=Level.NODE)
    fill(tiny_disk / "neighbour")
    async with await opened(tiny_disk) as journal:
        assert seqs(await journal.load()) == [1]
        await journal.append([row("a", 2)], level=Level.NODE)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return


def test_a_write_that_fails_otherwise_is_the_end(tmp_path: Path) -> None:
    """A file size limit: SQLite reports an I/O error, and there is no second try.

    The first of the append's three statements fits: nothing of it may stay.
    """

    async def life() -> None:
        journal = await opened(tmp_path)
        await journal.append([row("a", 1)], level=Level.NODE)
        rows = [row("a", seq, data=b"x" * 400) for seq in range(2, 1402)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (512 * 1024, resource.RLIM_INFINITY))
        with pytest.raises(JournalDead):
            await journal.append(rows, level=Level.NODE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert (tmp_path / BALLAST_NAME).exists()
        with pytest.raises(JournalDead):
            await journal.append([row("a", 2)], level=Level.NODE)
        await journal.close()

    child = os.fork()
    if not child:
        try:
            asyncio.run(life())
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert seqs(asyncio.run(load(tmp_path))) == [1]
