"""conc: 50 runs over 50 connections of one process, tiny states at `node`."""

import asyncio
import statistics
import time
from contextlib import AsyncExitStack

import coatcheck
from bench.floor import aio_floor, floor_server
from bench.measure import Bar, Line
from bench.pod import Pod, pod

RUNS = 50
ROUNDS = 8
STEPS = 40
LONG_STEPS = 400
FLOOR_BYTES = 64
COMMITS_MIN = 6_000


async def _rates(pod_: Pod, path: str, *, steps: int, rounds: int) -> list[Line]:
    floors: list[float] = []
    ours: list[float] = []
    cpu_us: list[float] = []
    clients = [await aio_floor(path) for _ in range(RUNS)]
    async with AsyncExitStack() as stack:
        runs = [
            await stack.enter_async_context(coatcheck.open_run(f"conc-{steps}-{n}", schema=1))
            for n in range(RUNS)
        ]

        async def floor(n: int) -> None:
            for _ in range(steps):
                await clients[n].round_trip(bytes(FLOOR_BYTES))

        async def commits(n: int) -> None:
            for step in range(steps):
                await runs[n].commit({"step": step})

        for _ in range(rounds + 1):
            began = time.perf_counter()
            await asyncio.gather(*(floor(n) for n in range(RUNS)))
            floors.append(RUNS * steps / (time.perf_counter() - began))
            began, cpu_s = time.perf_counter(), pod_.cpu_s()
            await asyncio.gather(*(commits(n) for n in range(RUNS)))
            ours.append(RUNS * steps / (time.perf_counter() - began))
            cpu_us.append((pod_.cpu_s() - cpu_s) / (RUNS * steps) * 1e6)
    for client in clients:
        client.close()
    pairs = list(zip(ours, floors, strict=True))[1:]
    return [
        Line(
            what=f"conc, 50 runs of {steps} steps",
            ours=statistics.median(ours[1:]),
            floor=statistics.median(floors[1:]),
            unit="commits/s",
            paired_ratio=statistics.median(mine / bare for mine, bare in pairs),
            limit=COMMITS_MIN,
            bar=Bar.OURS_LEAST,
            note=f"{statistics.median(cpu_us[1:]):.0f} µs of the sidecar's CPU each",
        )
    ]


def run(*, is_quick: bool) -> list[Line]:
    """Lines of the table."""
    with pod() as made, floor_server(is_grouped=True) as path:
        rounds = ROUNDS // 2 if is_quick else ROUNDS
        lines = asyncio.run(_rates(made, path, steps=STEPS, rounds=rounds))
        if not is_quick:
            lines += asyncio.run(_rates(made, path, steps=LONG_STEPS, rounds=2))
        return lines
