"""Lives of a process with a journal, to be ended from outside: `python -m ... KIND FOLDER`."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.model import Level
from coatcheck_sidecar.ports import JournalDead, Row
from coatcheck_sidecar.stores.sqlite import SqliteJournal

PRODUCERS = 8
MANY = 1200
"""Rows that take several statements: these must be one transaction."""


def say(*words: object) -> None:
    """One write: a kill leaves whole lines."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def size(path: str) -> int:
    return os.stat(path).st_size if os.path.exists(path) else 0


async def opened(folder: str) -> SqliteJournal:
    return await SqliteJournal.open(Path(folder), clock=SystemClock())


async def write_for_ever(folder: str) -> None:
    """Each row tells how many its append has; the line of an append comes once it is durable."""
    journal = await opened(folder)
    life = 1 + max((row.epoch for row in await journal.load()), default=0)
    say("life", life)

    async def produce(number: int) -> None:
        run, seq = f"run-{number}", 0
        level = Level.NODE if number % 2 else Level.PROCESS
        while True:
            count = 1 + seq % 5 if number else MANY
            data = count.to_bytes(4) * (1 + 1500 // count)
            rows = [Row(run, life, seq + n, data) for n in range(count)]
            await journal.append(rows, level=level)
            say(run, life, seq, count)
            seq += count

    await asyncio.gather(*(produce(number) for number in range(PRODUCERS)))


async def exit_inside(folder: str) -> None:
    async with await opened(folder) as journal:
        await journal.append([Row("a", 1, 1, b"data")], level=Level.NODE)
        raise SystemExit(3)


async def exit_without_close(folder: str) -> None:
    """Keeps the journal, so that nothing collects it before the exit."""
    sys.modules[__name__].journal = journal = await opened(folder)  # type: ignore[attr-defined]
    await journal.append([Row("a", 1, 1, b"data")], level=Level.NODE)
    raise SystemExit(3)


async def exit_in_a_callback(folder: str) -> None:
    async with await opened(folder) as journal:
        await journal.append([Row("a", 1, 1, b"data")], level=Level.NODE)
        asyncio.get_running_loop().call_soon(sys.exit, 3)
        await asyncio.Event().wait()


async def wait_for_signal(folder: str) -> None:
    async with await opened(folder) as journal:
        await journal.append([Row("a", 1, 1, b"data")], level=Level.NODE)
        say("ready")
        await asyncio.Event().wait()


async def handle_signal(folder: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    await wait_for_signal(folder)


async def lose_fsync(folder: str) -> None:
    """Under the shim: the file that `FAIL_FSYNC` names makes one sync of the WAL fail."""
    switch = os.environ["FAIL_FSYNC"]
    journal = await opened(folder)
    await journal.append([Row("kept", 1, 1, b"data")], level=Level.NODE)
    os.close(os.open(switch, os.O_CREAT))
    await journal.append([Row("kept", 1, 2, b"data")], level=Level.PROCESS)
    lost = [journal.append([Row("lost", 1, n, b"data")], level=Level.NODE) for n in range(3)]
    lost.append(journal.append([Row("lost", 1, n, b"") for n in range(9_999)], level=Level.NODE))
    errors = await asyncio.gather(*lost, return_exceptions=True)
    say("died", all(isinstance(error, JournalDead) for error in errors), journal.is_dead)
    for level in (Level.NODE, Level.PROCESS):
        try:
            await journal.append([Row("late", 1, 1, b"data")], level=level)
        except JournalDead as exc:
            say("refused", exc)
    try:
        await journal.load()
    except JournalDead:
        say("no load")
    await journal.close()
    say("wal", size(f"{folder}/journal.db-wal") > 0)


async def count_fsyncs(folder: str) -> None:
    log = os.environ["COUNT_FSYNC"]
    async with await opened(folder) as journal:
        for level in (Level.PROCESS, Level.NODE, Level.PROCESS, Level.NODE):
            before = size(log)
            await journal.append([Row("a", 1, 1, b"data")], level=level)
            say(level, size(log) - before)


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](sys.argv[2]))
