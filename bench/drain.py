"""drain: from the kubelet's hook until nothing is left on the pod, S3 on loopback."""

import asyncio
import os
import statistics
import urllib.request

import coatcheck
from bench.measure import Line
from bench.pod import Pod, pod
from tests.servers import ministack

ROUNDS = 7
ROUNDS_OF_MANY = 3
MANY = 64
LOOK_S = 0.005
LOOKS_MAX = 4_000
STATE_BYTES = 20_000
ONE_S_MAX, MANY_S_MAX = 0.3, 2.0
TOOK = "coatcheck_drain_seconds_sum"


async def _agent(name: str, at_work: asyncio.Semaphore) -> None:
    """At a boundary whenever it is asked to stop: its own step is not what is measured."""
    async with coatcheck.open_run(name, schema=1) as run:
        await run.commit({"data": os.urandom(STATE_BYTES // 2).hex()})
        at_work.release()
        async for _ in run.steps():
            await asyncio.sleep(LOOK_S)
        await run.commit({"data": os.urandom(STATE_BYTES // 2).hex()})


async def _drained_s(made: Pod, runs: int, *, name: str) -> float:
    """What the sidecar says itself, from its hook to its last object."""
    at_work = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        for number in range(runs):
            group.create_task(_agent(f"{name}-{number}", at_work))
        for _ in range(runs):
            await at_work.acquire()
        await asyncio.to_thread(_get, f"{made.admin}/drain")
    for _ in range(LOOKS_MAX):
        if took_s := await asyncio.to_thread(made.metric, TOOK):
            return took_s
        await asyncio.sleep(LOOK_S)
    raise RuntimeError("the pod does not come to its end")


def _get(url: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        answer.read()


def _line(url: str, runs: int, *, rounds: int, limit: float) -> Line:
    times = []
    for number in range(rounds):
        with pod({"COATCHECK_STORE": url}) as made:
            times.append(asyncio.run(_drained_s(made, runs, name=f"drain-{runs}-{number}")))
    return Line(
        what=f"drain, trigger to released, {runs} run{'s' if runs > 1 else ''}",
        ours=statistics.median(times),
        unit="s",
        limit=limit,
        note=f"{max(times):.3f} s at most of {rounds}",
    )


def run(*, is_quick: bool) -> list[Line]:
    """Lines of the table."""
    with ministack() as server:
        os.environ.update(server.env)
        url = server.make_bucket("bench")
        return [
            _line(url, 1, rounds=3 if is_quick else ROUNDS, limit=ONE_S_MAX),
            _line(url, MANY, rounds=1 if is_quick else ROUNDS_OF_MANY, limit=MANY_S_MAX),
        ]
