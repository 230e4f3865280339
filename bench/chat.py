"""chat: a list of messages that grows by 4 KiB a step, the whole state saved after each of 200.

Random bytes as hex: halving is the best that compression can do, and nothing repeats.
"""

import asyncio
import os
import shutil
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

import msgpack

import coatcheck
from bench.measure import Bar, Line, Times, p
from bench.pod import Pod, pod
from coatcheck_sidecar.stores.journal_folder import BALLAST_NAME

ROUNDS = 5
STEPS = 200
MESSAGE_BYTES = 4_096
SLOW_S = 0.05
EARLY, LATE = slice(20, 40), slice(-20, None)
JOURNAL_MAX, STORE_MAX, TOTAL_S_MAX, GROWTH_MAX = 1.3e6, 8e6, 0.30, 3.0
SETTLE_S = 1.0
"""Until what was committed last is shipped too."""


def _messages() -> list[dict[str, str]]:
    return [{"role": "user", "content": os.urandom(MESSAGE_BYTES // 2).hex()} for _ in range(STEPS)]


async def chat_of(name: str, *, pause_s: float = 0.0) -> Times:
    state: dict[str, Any] = {"count": 0, "messages": []}
    times = []
    async with coatcheck.open_run(name, schema=1) as run:
        for message in _messages():
            state["messages"].append(message)
            state["count"] += 1
            began = time.perf_counter()
            await run.commit(state)
            times.append(time.perf_counter() - began)
            if pause_s:
                await asyncio.sleep(pause_s)
        await asyncio.sleep(SETTLE_S if pause_s else 0)
    return times


def _floor(folder: Path) -> Times:
    """No server: the message alone appended and fsynced, the whole state encoded."""
    state: dict[str, Any] = {"count": 0, "messages": []}
    times = []
    file = os.open(folder / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for message in _messages():
        state["messages"].append(message)
        began = time.perf_counter()
        msgpack.packb(state)
        os.write(file, message["content"].encode())
        os.fsync(file)
        times.append(time.perf_counter() - began)
    os.close(file)
    return times


def _disk_bytes(data: Path, copy: Path) -> int:
    """What a former life left in the data folder, after a WAL checkpoint, without the ballast."""
    shutil.copytree(data, copy)
    with sqlite3.connect(copy / "journal.db") as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.close()
    files = [path for path in copy.rglob("*") if path.is_file() and path.name != BALLAST_NAME]
    return sum(path.stat().st_size for path in files)


def _times(rounds: int) -> list[Line]:
    """Totals and growth, in turns with the floor, in one sidecar's life."""
    floors: list[Times] = []
    ours: list[Times] = []
    with pod() as made:
        for n in range(rounds + 1):
            floors.append(_floor(made.folder))
            ours.append(asyncio.run(chat_of(f"chat-{n}")))
    totals, floor_totals = [sum(t) for t in ours[1:]], [sum(t) for t in floors[1:]]
    early = [p(0.5, times[EARLY]) for times in ours[1:]]
    late = [p(0.5, times[LATE]) for times in ours[1:]]
    pairs = zip(totals, floor_totals, strict=True)
    return [
        Line(
            what="chat, 200 steps of 4 KiB, total",
            ours=statistics.median(totals),
            floor=statistics.median(floor_totals),
            unit="s",
            paired_ratio=statistics.median(mine / floor for mine, floor in pairs),
            limit=TOTAL_S_MAX,
            note="floor: encode, append and fsync, no server",
        ),
        Line(
            what="chat, p50 of the last 20 beside steps 20 to 40",
            ours=statistics.median(late) * 1e3,
            floor=statistics.median(early) * 1e3,
            unit="ms",
            paired_ratio=statistics.median(b / a for a, b in zip(early, late, strict=True)),
            limit=GROWTH_MAX,
            bar=Bar.RATIO_MOST,
            note="floor: our own early steps",
        ),
    ]


def _put_bytes(made: Pod) -> float:
    return made.metric("coatcheck_shipped_bytes_total")


def _bytes(pace: str, *, pause_s: float) -> list[Line]:
    with pod() as made:
        before = _put_bytes(made)
        asyncio.run(chat_of("chat", pause_s=pause_s))
        put = _put_bytes(made) - before
        made.end()
        kept = _disk_bytes(made.data, made.folder / "copy")
        stored = sum(f.stat().st_size for f in made.store.rglob("*") if f.is_file())
    return [
        Line(
            what=f"chat, {pace}: journal on disk",
            ours=kept / 1e6,
            floor=STEPS * MESSAGE_BYTES / 2 / 1e6,
            unit="MB",
            limit=JOURNAL_MAX / 1e6,
            note="floor: the messages, halved",
        ),
        Line(
            what=f"chat, {pace}: put to the store",
            ours=put / 1e6,
            floor=STEPS * MESSAGE_BYTES / 2 / 1e6,
            unit="MB",
            limit=STORE_MAX / 1e6,
            note=f"{stored / 1e6:.1f} MB stay there",
        ),
    ]


def run(*, is_quick: bool) -> list[Line]:
    """Lines of the table."""
    lines = _times(2 if is_quick else ROUNDS) + _bytes("flat out", pause_s=0.0)
    return lines + ([] if is_quick else _bytes(f"a step in {SLOW_S} s", pause_s=SLOW_S))
