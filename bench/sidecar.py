"""sidecar: how soon it is ready, and what it takes of the node's memory."""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from contextlib import AsyncExitStack

import coatcheck
from bench.measure import Line
from bench.pod import pod
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.stores.directory import DirectoryStore
from coatcheck_sidecar.stores.probe import probe

STARTS = 10
IDLE_S = 2.0
RUNS = 64
STATE_BYTES = 1_000_000
COMMITS = 3
SETTLE_S = 3.0
READY_S_MAX, ANON_MAX, RSS_MAX, LOADED_RSS_MAX = 0.5, 48.0, 80.0, 220.0
MIB = 1_048_576
PARTS = "import aiosqlite, asyncio, dataclasses, msgpack, pydantic_core, uvloop"


def _bare_s() -> float:
    """An interpreter that only imports the libraries that a first answer takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", PARTS], check=True)
    return time.perf_counter() - began


async def _probe_s() -> float:
    with pod(is_started=False) as made:
        store = DirectoryStore(made.store, clock=SystemClock())
        began = time.perf_counter()
        await probe(store, clock=SystemClock())
        took_s = time.perf_counter() - began
        await store.close()
    return took_s


def _starts(rounds: int) -> Line:
    floors, ours, probes = [], [], []
    with pod():
        pass  # the first start compiles
    for _ in range(rounds):
        floors.append(_bare_s())
        with pod(is_started=False) as made:
            ours.append(made.start())
        probes.append(asyncio.run(_probe_s()))
    probe_s = statistics.median(probes)
    return Line(
        what="sidecar, start to ready",
        ours=statistics.median(ours),
        floor=statistics.median(floors),
        unit="s",
        limit=READY_S_MAX,
        note=f"{probe_s:.3f} s of it to probe the store; floor: importing libraries",
    )


async def _load() -> None:
    async with AsyncExitStack() as stack:
        runs = [
            await stack.enter_async_context(coatcheck.open_run(f"big-{n}", schema=1))
            for n in range(RUNS)
        ]
        for run in runs:
            data = os.urandom(STATE_BYTES // 2).hex()
            for step in range(COMMITS):
                await run.commit({"step": step, "data": data})
        await asyncio.sleep(SETTLE_S)
        stack.pop_all()  # left open: their memory is what is measured


def _memory() -> list[Line]:
    with pod() as made:
        time.sleep(IDLE_S)
        anon, rss = made.memory_bytes("RssAnon"), made.memory_bytes("VmRSS")
        asyncio.run(_load())
        loaded, peak = made.memory_bytes("VmRSS"), made.memory_bytes("VmHWM")
        loaded_anon = made.memory_bytes("RssAnon")
    return [
        Line(what="sidecar, idle RssAnon", ours=anon / MIB, unit="MiB", limit=ANON_MAX),
        Line(what="sidecar, idle VmRSS", ours=rss / MIB, unit="MiB", limit=RSS_MAX),
        Line(
            what=f"sidecar, VmRSS with {RUNS} runs of 1 MB",
            ours=loaded / MIB,
            floor=RUNS * STATE_BYTES / MIB,
            unit="MiB",
            limit=LOADED_RSS_MAX,
            note=f"RssAnon {loaded_anon / MIB:.0f}, peak {peak / MIB:.0f}; floor: the states",
        ),
    ]


def run(*, is_quick: bool) -> list[Line]:
    """Lines of the table."""
    return [_starts(3 if is_quick else STARTS), *_memory()]
