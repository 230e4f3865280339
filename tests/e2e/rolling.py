"""A rolling deploy of agents that are in the middle of their runs.

    python -m tests.e2e.rolling --agents 40 --pods 8 --rounds 3 [--stuck] [--store file|ministack]

Every pod is replaced, half of them at a time, each new one being up before an old one is told to
end; that as many times as there are rounds. Each agent asks a model, works, charges an invoice line
and commits, over and over. Judged by the ledger, the heads and what agents wrote down: all runs
finish, no charge is missing or doubled, nothing was in doubt, no step was begun twice. With
`--stuck` an agent's run is one single step: it is cut at each deadline, and doubts may be resolved.
"""

import argparse
import asyncio
import contextlib
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from examples.demo.processes import end_in_order
from tests.e2e.crash import store_server
from tests.e2e.drain_world import CoatPod, Shape, Verdict, World, world
from tests.kubelet.container import Container, Runtime
from tests.kubelet.spec import What

NAMES: Final = ("agent", "sidecar")
WAVES: Final = 2
"""`maxSurge` of a half: as many pods as are replaced at once are there twice for a while."""
START_S_MAX: Final = 180.0
"""For a dozen pods to start on two cores that others use too."""
STARTS_MAX: Final = 4
"""Pods that start at once; more only wait for each other."""
TAIL_S: Final = 600.0
"""For the runs to end after the last round."""


@dataclass(frozen=True, kw_only=True)
class Roll:
    """What is rolled, and how."""

    agents: int
    pods: int
    rounds: int
    lines: int
    """Of each invoice: enough that runs outlast the rounds."""
    grace_s: int = 30
    work_s: str = "0.2-20"
    is_stuck: bool = False

    @property
    def shape(self) -> Shape:
        return Shape(
            grace_s=self.grace_s,
            concurrency=math.ceil(self.agents / self.pods),
            work_s=self.work_s,
            steps="one" if self.is_stuck else "many",
            is_pid_1=self.is_stuck,  # then the barrier's SIGTERM ends it no sooner than its cut
            env={"COATCHECK_MARGIN_S": "1"},
        )


@dataclass
class Rolled:
    """What came of it."""

    verdict: Verdict
    doubts: int
    moved: list[int] = field(default_factory=list)
    """Runs that were under way in the pods that ended, by round."""
    drains_s: list[float] = field(default_factory=list)
    """From each trigger to nothing left in the pod."""
    cuts: int = 0
    killed: int = 0
    """Containers that saw a SIGKILL."""
    undrained: int = 0
    """Pods that ended before all was off them."""
    seconds: float = 0.0

    def faults(self, roll: Roll) -> list[str]:
        """What must not be, in sentences."""
        found = list(self.verdict.faults)
        if self.undrained:
            found.append(f"{self.undrained} pods ended before all was off them")
        if self.verdict.charges != roll.agents * roll.lines:
            found.append(f"{self.verdict.charges} charges, not {roll.agents * roll.lines}")
        found += [
            f"only {moved} runs were under way in round {number}"
            for number, moved in enumerate(self.moved, start=1)
            if moved < roll.agents
        ]
        if roll.is_stuck:
            missed = sum(self.moved) - self.cuts
            return [*found, f"{missed} runs were not cut at the deadline"] if missed else found
        if self.verdict.again:
            found.append(f"{self.verdict.again} steps were begun again")
        if self.doubts:
            found.append(f"{self.doubts} runs were in doubt")
        if self.cuts:
            found.append(f"{self.cuts} runs were cut")
        return found


async def rolled(
    roll: Roll,
    *,
    store: str | None = None,
    env: Mapping[str, str] | None = None,
    runtime: Runtime = Container,
    tell: Callable[[str], None] = lambda line: None,
) -> Rolled:
    """From the first start to the last result."""
    began_s = time.monotonic()
    kinds = ("keyed", "probed", "blind")
    async with world(
        roll.shape,
        runs=roll.agents,
        lines=roll.lines,
        kinds=kinds,
        store=store,
        env=env or {},
        runtime=runtime,
    ) as stage:
        pods = await _started(stage, roll.pods)
        first = list(pods)
        await stage.until(lambda: _all_under_way(stage, first), within_s=START_S_MAX)
        tell(
            f"{roll.agents} runs under way in {roll.pods} pods, {time.monotonic() - began_s:.0f} s"
        )
        oncall = asyncio.ensure_future(stage.resolve_doubts())
        moved = []
        try:
            for number in range(1, roll.rounds + 1):
                pods, count = await _round(stage, pods)
                moved.append(count)
                passed_s = time.monotonic() - began_s
                tell(f"round {number}: all pods replaced, {count} runs moved, {passed_s:.0f} s")
            await stage.until(lambda: stage.is_over, within_s=TAIL_S)
        finally:
            oncall.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await oncall
        return _result(stage, moved=moved, seconds=time.monotonic() - began_s, last=pods)


async def _started(stage: World, count: int) -> list[CoatPod]:
    gate = asyncio.Semaphore(STARTS_MAX)

    async def start() -> CoatPod:
        async with gate:
            return await stage.start_pod()

    return list(await asyncio.gather(*(start() for _ in range(count))))


async def _round(stage: World, pods: list[CoatPod]) -> tuple[list[CoatPod], int]:
    """Replace all pods, and count the runs that had to move."""
    size = math.ceil(len(pods) / WAVES)
    fresh: list[CoatPod] = []
    moved = 0
    for at in range(0, len(pods), size):
        wave = pods[at : at + size]
        fresh += await _started(stage, len(wave))
        standing = [*pods[at:], *fresh]
        await stage.until(lambda: _all_under_way(stage, standing), within_s=START_S_MAX)  # noqa: B023 - awaited here
        moved += sum(len(stage.on(pod)) for pod in wave)
        for pod in wave:
            pod.kubelet.delete()
        await asyncio.gather(*(pod.kubelet.wait_gone(START_S_MAX) for pod in wave))
    return fresh, moved


def _all_under_way(stage: World, pods: list[CoatPod]) -> bool:
    """No run waits for a pod, or for somebody to resolve its doubt: all are in the middle."""
    owned = set[str]().union(*(stage.on(pod) for pod in pods))
    return owned == {run for run, row in stage.board.rows.items() if not row.is_over}


def _result(stage: World, *, moved: list[int], seconds: float, last: list[CoatPod]) -> Rolled:
    ended = [pod for pod in stage.pods if pod not in last]
    drained = [note for pod in ended for note in pod.noted("drained")]
    kills = [len(pod.kubelet.log.all(What.KILL, name)) for pod in ended for name in NAMES]
    return Rolled(
        verdict=stage.verdict(),
        doubts=len(stage.doubted),
        moved=moved,
        drains_s=[note["seconds"] for note in drained],
        cuts=sum(pod.count("run_cut") for pod in ended),
        killed=sum(kills),
        undrained=len(ended) - len(drained),
        seconds=seconds,
    )


def main() -> int:
    parser = argparse.ArgumentParser("tests.e2e.rolling", description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", type=int, default=40)
    parser.add_argument("--pods", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lines", type=int, default=60)
    parser.add_argument("--grace-s", type=int, default=30)
    parser.add_argument("--work-s", default="0.2-20", help="shortest and longest step")
    parser.add_argument("--stuck", action="store_true", help="no agent ever reaches a boundary")
    parser.add_argument("--store", choices=("file", "ministack"), default="file")
    options = parser.parse_args()
    end_in_order()
    roll = Roll(
        agents=options.agents,
        pods=options.pods,
        rounds=options.rounds,
        lines=options.lines,
        grace_s=options.grace_s,
        work_s=options.work_s,
        is_stuck=options.stuck,
    )
    with store_server(options.store) as server:
        url = server.make_bucket("rolling") if server is not None else None
        env = server.env if server is not None else {}
        result = asyncio.run(rolled(roll, store=url, env=env, tell=_tell))
    faults = result.faults(roll)
    _tell(summary(roll, result))
    for fault in faults:
        _tell(f"  {fault}")
    return 1 if faults else 0


def summary(roll: Roll, result: Rolled) -> str:
    """The figures, in a paragraph."""
    drains_s = sorted(result.drains_s)
    middle_s = statistics.median(drains_s) if drains_s else 0.0
    return (
        f"{roll.agents} agents, {roll.pods} pods, {roll.rounds} rounds, grace {roll.grace_s} s, "
        f"steps of {roll.work_s} s: {result.verdict.charges} charges, moved {result.moved}, "
        f"steps again {result.verdict.again}, cut {result.cuts}, in doubt {result.doubts}, "
        f"SIGKILLs {result.killed}; drained in {middle_s:.1f} s (median), "
        f"{max(drains_s, default=0.0):.1f} s at most; {result.seconds:.0f} s in all"
    )


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
