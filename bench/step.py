"""step: one client, 4 KiB of new state a step, committed at `node`."""

import asyncio
import os
import time

import coatcheck
import coatcheck.sync
from bench.floor import BlockingFloor, aio_floor, floor_server
from bench.measure import Line, Times, in_turns
from bench.pod import pod

ROUNDS = 12
STEPS = 150
STATE_BYTES = 4_096
RATIO_MAX = 1.6


def _states(count: int) -> list[dict[str, object]]:
    return [{"step": n, "data": os.urandom(STATE_BYTES // 2).hex()} for n in range(count)]


async def _aio(path: str, rounds: int) -> list[Line]:
    client = await aio_floor(path)
    async with coatcheck.open_run("step-aio", schema=1) as run:

        async def floor() -> Times:
            times = []
            for _ in range(STEPS):
                data = os.urandom(STATE_BYTES)
                began = time.perf_counter()
                await client.round_trip(data)
                times.append(time.perf_counter() - began)
            return times

        async def ours() -> Times:
            times = []
            for state in _states(STEPS):
                began = time.perf_counter()
                await run.commit(state)
                times.append(time.perf_counter() - began)
            return times

        paired = await in_turns(floor, ours, rounds=rounds)
    client.close()
    return [
        paired.line("step, asyncio, p50", 0.5, limit=RATIO_MAX),
        paired.line("step, asyncio, p99", 0.99),
    ]


async def _sync(path: str, rounds: int) -> list[Line]:
    client = BlockingFloor(path)
    with coatcheck.sync.open_run("step-sync", schema=1) as run:

        async def floor() -> Times:
            times = []
            for _ in range(STEPS):
                data = os.urandom(STATE_BYTES)
                began = time.perf_counter()
                client.round_trip(data)
                times.append(time.perf_counter() - began)
            return times

        async def ours() -> Times:
            times = []
            for state in _states(STEPS):
                began = time.perf_counter()
                run.commit(state)
                times.append(time.perf_counter() - began)
            return times

        paired = await in_turns(floor, ours, rounds=rounds)
    client.close()
    return [
        paired.line("step, sync, p50", 0.5, limit=RATIO_MAX),
        paired.line("step, sync, p99", 0.99),
    ]


def run(*, is_quick: bool) -> list[Line]:
    """Lines of the table."""
    rounds = ROUNDS // 3 if is_quick else ROUNDS
    with pod(), floor_server(is_grouped=False) as path:
        return asyncio.run(_aio(path, rounds)) + asyncio.run(_sync(path, rounds))
