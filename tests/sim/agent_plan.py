"""What runs are to do: scripts, the same whoever performs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

LEVELS: Final = ("process", "node", "node", "remote")
KINDS: Final = ("idempotent", "keyed", "shipped", "probed", "once", "business", "named")
"""`shipped` is keyed, and its `dispatched` is remote: it may say what the read before it said."""
STEPS: Final = (2, 7)
THINK_S: Final = (0.0, 0.3, 1.5)
"""The longest that an agent thinks before a step, by run."""
FILLER_CHARS: Final = (0, 0, 40, 400)
"""Answers of several sizes, so that some are bodies of their own."""


@dataclass(frozen=True, slots=True)
class Act:
    """A recorded read, and a charge of what it said."""

    name: str
    kind: str
    filler: int
    undo: str = ""
    """What takes it back: a request, or a function of this class."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one step does: acts one after another, or all at once; perhaps a signal first."""

    acts: tuple[Act, ...]
    is_parallel: bool
    level: str
    signal: str


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run is to do, whoever does it."""

    run: str
    queue: str
    think_s: float
    steps: tuple[StepPlan, ...]

    @property
    def acts(self) -> list[Act]:
        return [act for step in self.steps for act in step.acts]


def plan_run(
    run: str, random: Random, *, has_signals: bool, kinds: Sequence[str] = KINDS
) -> RunPlan:
    """A run's script."""
    steps = []
    for number in range(1, random.randint(*STEPS) + 1):
        acts = tuple(
            Act(f"{run}-{number}-{i}", random.choice(kinds), random.choice(FILLER_CHARS))
            for i in range(random.randint(0, 4))
        )
        waits = has_signals and random.random() < 0.3
        steps.append(
            StepPlan(
                acts,
                is_parallel=random.random() < 0.5,
                level=random.choice(LEVELS),
                signal=f"go-{number}" if waits else "",
            )
        )
    return RunPlan(run, "default", random.choice(THINK_S), tuple(steps))
