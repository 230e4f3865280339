"""An old owner that wakes up: `python -m tests.e2e.two_owners --rounds 50`.

A pod, sidecar and agent, is stopped by SIGSTOP in the middle of a step. Another one takes its run
over and goes on with it. Then the old one is woken by SIGCONT, with its step still to do. It must
be fenced before its next charge leaves: the ledger says who charged what.

It is stopped while it waits for the model, or for the answer to a charge that was made: a stop of
seconds between the last look at the clock and the write itself is what `pause_max_s` excludes.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

from examples.demo.ledger import Charge
from examples.demo.pods import Pod
from examples.demo.processes import end_in_order
from examples.demo.report import draw_up
from examples.demo.scenario import Place, Plan, Scenario
from examples.demo.witness import Saying, What, read_witness

FIRST_STEP: Final = 3
"""The old owner has some steps behind it when it is stopped."""
STEPS_BEFORE: Final = 1
"""Of the new owner, before the old one is woken."""
LINES: Final = 12
MODEL_DELAY_S: Final = 0.4
KINDS: Final = ("probed", "blind")
"""The guarded ones: what a key makes harmless may leave a moment later."""


class Phase(Enum):
    """Where the story is."""

    BEGINNING = auto()
    STOPPED = auto()
    WOKEN = auto()


@dataclass(frozen=True, slots=True)
class Story:
    """What came of it."""

    old: str
    """The pod that was stopped and woken."""
    late: tuple[Charge, ...]
    """Charges of the old owner after it was woken: there must be none."""
    faults: tuple[str, ...]


class Duel:
    """Called at each tick of a scenario with one run and two pods."""

    def __init__(self, scenario: Scenario, *, after_charge: bool) -> None:
        """`after_charge`: stop it once its charge is made; else while it waits for the model."""
        self.phase = Phase.BEGINNING
        self.old: Pod | None = None
        self._scenario = scenario
        self._after_charge = after_charge
        self._before: set[str] = set()
        self._stopped_at = 0

    def __call__(self) -> None:
        match self.phase:
            case Phase.BEGINNING:
                self._stop()
            case Phase.STOPPED:
                self._wake()
            case Phase.WOKEN:
                pass

    def _stop(self) -> None:
        said = read_witness(self._scenario.witness)
        if not said or said[-1].what is not What.BEGAN or said[-1].step < FIRST_STEP:
            return
        if self._after_charge and self._charged() < said[-1].step:
            return
        self.old = next(pod for pod in self._scenario.pods if pod.uid == said[-1].disk)
        self.old.pause()
        self._stopped_at = len(read_witness(self._scenario.witness))
        self.phase = Phase.STOPPED

    def _charged(self) -> int:
        return len(self._scenario.charges())

    def _wake(self) -> None:
        assert self.old is not None
        since = read_witness(self._scenario.witness)[self._stopped_at :]
        if sum(map(self._is_progress, since)) < STEPS_BEFORE or since[-1].what is not What.BEGAN:
            return
        self._before = {charge.id for charge in self._scenario.charges()}
        self.old.resume()
        self.phase = Phase.WOKEN

    def _is_progress(self, saying: Saying) -> bool:
        assert self.old is not None
        return saying.what is What.ACKNOWLEDGED and saying.disk != self.old.uid

    def late(self) -> tuple[Charge, ...]:
        """Charges of the old owner since it was woken."""
        assert self.old is not None
        charges = self._scenario.charges()
        return tuple(c for c in charges if c.id not in self._before and c.by == self.old.uid)


async def tell(folder: Path, *, seed: int) -> Story:
    """One round."""
    plan = Plan(
        seed=seed,
        pods=2,
        runs=1,
        lines=LINES,
        concurrency=1,
        strikes_max=0,
        limit_s=75,
        model_delay_s=MODEL_DELAY_S,
        kinds=(KINDS[seed % len(KINDS)],),
    )
    (folder / "store").mkdir()
    scenario = Scenario(plan, Place(folder, (folder / "store").as_uri()))
    duel = Duel(scenario, after_charge=random.Random(seed).random() < 0.5)
    await scenario.run(duel)
    faults = [*draw_up(scenario).faults, *scenario.crashes]
    if duel.phase is not Phase.WOKEN:
        faults.append(f"the story ended {duel.phase.name}")
        return Story("", (), tuple(faults))
    assert duel.old is not None
    if not _was_fenced(duel.old):
        faults.append(f"{duel.old.name} was never told that it is fenced")
    return Story(duel.old.name, duel.late(), tuple(faults))


def _was_fenced(pod: Pod) -> bool:
    return pod.agent is not None and "Fenced" in pod.agent.log.read_text()


def main() -> int:
    parser = argparse.ArgumentParser("tests.e2e.two_owners", description="An old owner wakes up.")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    end_in_order()
    bad = 0
    for seed in range(options.seed, options.seed + options.rounds):
        with tempfile.TemporaryDirectory(prefix="coatcheck-duel-") as folder:
            story = asyncio.run(tell(Path(folder), seed=seed))
        bad += bool(story.late or story.faults)
        print(f"round {seed}: old {story.old}, late {len(story.late)}, {story.faults}", flush=True)
    print(f"{options.rounds} rounds, {bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
