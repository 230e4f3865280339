"""A deploy in the middle of a run, over and over: `python -m examples.demo --store file|s3`.

Agents settle invoices on a few pods while the pods are killed at random moments, some with their
disks; then every pod is replaced in good order. At the end the payments server's ledger is held
against the invoices.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.console import Console

from examples.demo.meters import write_targets
from examples.demo.processes import end_in_order
from examples.demo.report import draw_up, show_bill
from examples.demo.scenario import Place, Plan, Scenario
from examples.demo.show import Picture, Plain

STEP_S: Final = 0.75
"""A step of an agent left in peace, on a busy machine of two cores: a completion and a charge."""
PEACE_SHARE: Final = 0.6
"""How much of its time a run gets to work between the kills."""
STRIKE_SHARE: Final = 0.45
"""Kills end here; then comes the rolling deploy, while all runs are still under way."""
LIMIT_SHARE: Final = 3.0
LIMIT_EXTRA_S: Final = 30.0
SEED_MAX: Final = 10_000


def plan_of(options: argparse.Namespace) -> Plan:
    """What fits into the time given."""
    return Plan(
        seed=options.seed,
        pods=options.pods,
        runs=options.runs,
        lines=max(3, int(options.seconds * PEACE_SHARE / STEP_S)),
        concurrency=-(-options.runs // max(1, options.pods - 1)),
        strike_every_s=max(1.5, options.seconds / 20),
        strike_s=options.seconds * STRIKE_SHARE,
        is_rolled=True,
        limit_s=options.seconds * LIMIT_SHARE + LIMIT_EXTRA_S,
        honours_keys=options.keys == "honour",
    )


@contextlib.contextmanager
def place_for(store: str, keep: Path | None) -> Iterator[Place]:
    """A folder that goes away, and in it the store; or a store server beside it."""
    with contextlib.ExitStack() as stack:
        folder = keep or Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="coatcheck-demo-", ignore_cleanup_errors=True)
            )
        )
        folder.mkdir(exist_ok=True)
        if store == "file":
            (folder / "store").mkdir()
            yield Place(folder, (folder / "store").as_uri())
            return
        from tests.servers import ministack, seaweedfs

        server = stack.enter_context(ministack() if store == "ministack" else seaweedfs())
        yield Place(folder, server.make_bucket("demo"), server.env)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser("examples.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--store", choices=("file", "s3"), default="file")
    parser.add_argument("--seconds", type=float, default=60.0, help="about how long it takes")
    parser.add_argument("--pods", type=int, default=4)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=random.randrange(SEED_MAX))
    parser.add_argument("--keep", type=Path, help="an empty folder for all files, which stay")
    parser.add_argument(
        "--scrape-targets", type=Path, help="a file to name the pods in, for Prometheus' file_sd"
    )
    parser.add_argument("--keys", choices=("honour", "ignore"), default="honour")
    return parser.parse_args()


def main() -> int:
    options = parse()
    end_in_order()
    console = Console()
    with place_for(options.store, options.keep) as place:
        console.print(f"[dim]store {place.store}, seed {options.seed}; setting up ...[/]")
        scenario = Scenario(plan_of(options), place)
        if options.scrape_targets:
            write_targets(options.scrape_targets, scenario.pods)
        show = (Picture if console.is_terminal else Plain)(scenario, console)
        try:
            asyncio.run(scenario.run(show))
        finally:
            show.close()
        bill = draw_up(scenario)
        show_bill(scenario, bill, console=console)
        return 0 if scenario.is_settled and not bill.faults else 1


if __name__ == "__main__":
    sys.exit(main())
