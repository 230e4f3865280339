"""The kill campaign: `python -m tests.e2e.crash --kills 300 --store file|ministack|seaweedfs|all`.

Real processes, SIGKILL at random moments, a third of the kills with the data folder. Each round is
a fresh store and fleet; half of them have a payments server that honours keys. Asserts, from files
that no kill reaches: no acknowledged checkpoint is lost at its level, no charge is missing, none is
doubled, every doubt was listed and resolved, every run finished.
"""

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from examples.demo.pods import Blow
from examples.demo.processes import end_in_order
from examples.demo.report import Bill, draw_up
from examples.demo.scenario import Place, Plan, Scenario
from examples.demo.show import Plain
from tests.servers import S3Server, ministack, seaweedfs

STORES: Final = ("file", "ministack", "seaweedfs")
ROUND_KILLS: Final = 30
"""Kills a round: as many as fit into its runs."""
STRIKE_EVERY_S: Final = 1.5
LEVELS: Final = "process,node,remote"
STEP_S: Final = 0.4


@dataclass(frozen=True, slots=True)
class Round:
    """What one round came to."""

    bill: Bill
    kills: int
    nodes: int
    doubts: int
    is_settled: bool
    crashes: tuple[str, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        return self.bill.faults if self.is_settled else ("time is out", *self.bill.faults)


def plan_for(kills: int, *, seed: int, honours_keys: bool) -> Plan:
    """Work for as long as the kills take, and some more."""
    strike_s = (kills + 1) * STRIKE_EVERY_S
    return Plan(
        seed=seed,
        pods=3,
        runs=6,
        lines=max(4, int(strike_s * 0.4 / STEP_S)),
        concurrency=2,
        strike_every_s=STRIKE_EVERY_S,
        strike_s=strike_s * 3,
        strikes_max=kills,
        limit_s=strike_s * 4 + 60,
        honours_keys=honours_keys,
        levels=LEVELS,
        model_delay_s=0.1,
    )


async def run_round(plan: Plan, place: Place, *, watch: bool = False) -> Round:
    """One fleet, from its first order to its last run."""
    scenario = Scenario(plan, place)
    show: Callable[[], None] = Plain(scenario, Console(width=160)) if watch else lambda: None
    await scenario.run(show)
    return Round(
        bill=draw_up(scenario),
        kills=len(scenario.chaos.strikes),
        nodes=scenario.chaos.count(Blow.NODE),
        doubts=len(scenario.oncall.verdicts),
        is_settled=scenario.is_settled,
        crashes=tuple(scenario.crashes),
    )


@contextlib.contextmanager
def store_server(name: str) -> Iterator[S3Server | None]:
    """The server of a store; none for a directory."""
    if name == "file":
        yield None
        return
    with {"ministack": ministack, "seaweedfs": seaweedfs}[name]() as server:
        yield server


def place_in(folder: Path, server: S3Server | None, *, bucket: str) -> Place:
    """An empty store, and a folder for everything else."""
    if server is not None:
        return Place(folder, server.make_bucket(bucket), server.env)
    (folder / "store").mkdir()
    return Place(folder, (folder / "store").as_uri())


def campaign(store: str, *, kills: int, seed: int, keep: bool, watch: bool) -> bool:
    """Rounds until there were enough kills; whether every promise was kept."""
    done = number = 0
    began_s = time.monotonic()
    with store_server(store) as server:
        while done < kills:
            number += 1
            plan = plan_for(
                min(ROUND_KILLS, kills - done), seed=seed + number, honours_keys=number % 2 == 1
            )
            folder = Path(tempfile.mkdtemp(prefix="coatcheck-crash-"))
            place = place_in(folder, server, bucket=f"round-{number}")
            result = asyncio.run(run_round(plan, place, watch=watch))
            done += result.kills
            print(
                f"{store} round {number} (seed {plan.seed}): {result.kills} kills, "
                f"{result.nodes} nodes lost, {result.bill.checkpoints} checkpoints, "
                f"{result.bill.payments.made} charges, {result.doubts} doubts, "
                f"{result.bill.steps_again} steps again, {len(result.faults)} faults; "
                f"{done} kills in {time.monotonic() - began_s:.0f} s",
                flush=True,
            )
            for line in (*result.faults, *result.crashes):
                print(f"  {line}", flush=True)
            if not keep or not result.faults:
                shutil.rmtree(folder, ignore_errors=True)
            if result.faults:
                print(f"  kept in {folder}" if keep else "  (--keep keeps the files)")
                return False
            if not result.kills:
                print("  nothing was killed: the runs were over too soon")
                return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser("tests.e2e.crash", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--store", choices=(*STORES, "all"), default="file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the files of a failed round")
    parser.add_argument("--watch", action="store_true", help="say what happens as it happens")
    options = parser.parse_args()
    end_in_order()
    stores = STORES if options.store == "all" else (options.store,)
    kept = [
        campaign(
            store, kills=options.kills, seed=options.seed, keep=options.keep, watch=options.watch
        )
        for store in stores
    ]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
