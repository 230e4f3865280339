"""How long each kind of agent runs, and what a shutdown can do with that: `coatcheck map`. Pure.

All of it is read from heads: a run's last checkpoint, or its end, says how long its longest step
took and all its steps together. A queue is a kind of agent.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from coatcheck_sidecar.core.budget import ASSUMED
from coatcheck_sidecar.core.drain import BARRIER_HOLDS_S, BARRIER_SHARE, RunView, ship_s
from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.percentile import percentile
from coatcheck_sidecar.core.platforms import LAPTOP, PLATFORMS, SYSTEMD
from coatcheck_sidecar.core.record import Checkpoint, Finished

AUTOSCALER_S: Final = 600.0
"""What cluster autoscalers grant a pod at most, whatever grace it asks for."""
KUBERNETES: Final = "kubernetes"
PLACES: Final[Mapping[str, float]] = {
    KUBERNETES: AUTOSCALER_S,
    **{n: p.grace_s_max for n, p in PLATFORMS.items() if n not in (LAPTOP, SYSTEMD)},
}
"""The longest grace that each place gives."""
USUAL: Final = 50
RARE: Final = 95
"""Percentiles: half of the runs, and all but one in twenty."""
MARGIN_S: Final = 1.0
"""What a drain holds back of the grace, unless told otherwise."""
SHIP_S: Final = ship_s([RunView(run="")], ASSUMED, puts_max=1)
"""What it takes to get a released run off the pod, before anything is measured."""


class Allows(StrEnum):
    """The gentlest thing that a shutdown can do with runs of a kind."""

    DRAIN = "drain"
    """All but the rarest end within a grace that can be had."""
    MIGRATE = "migrate"
    """All but the rarest reach a step boundary."""
    COMPENSATE = "compensate"
    """They would be cut in the middle of a step: make its steps shorter, or undo what it did."""
    UNKNOWN = "unknown"
    """No step of such a run is known to have ended."""


@dataclass(frozen=True, slots=True)
class Times:
    """What a run's head says of its times; 0 where it doesn't."""

    queue: str
    is_finished: bool
    steps: int
    worked_ms: int
    """All its steps together. Not what it waited: in a queue, for a signal, for another pod."""
    longest_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KindOfRun:
    """The runs of a queue, and what they allow. Times in seconds; `None`: not known."""

    queue: str
    runs: int
    finished: int
    run_p50_s: float | None
    """Of those that finished."""
    run_p95_s: float | None
    step_p95_s: float | None
    """Of each run's longest step."""
    step_max_s: float | None
    allows: Allows
    grace_s: int | None
    """The grace to set, for runs to reach a step boundary and to be shipped; what can be had."""
    drain_grace_s: int | None
    """The same for runs to end; `None` if no such grace can be had."""
    places: Mapping[str, Allows]


def times_of(head: Head) -> Times:
    """What `kinds_of` must know of a run."""
    worked_ms = longest_ms = 0
    for record in head.records:
        if isinstance(record.event, Checkpoint | Finished):
            worked_ms, longest_ms = record.event.worked_ms, record.event.longest_ms
    is_finished = head.status is Status.FINISHED
    return Times(head.queue, is_finished, head.step, worked_ms, longest_ms)


def grace_for_s(seconds: float) -> int:
    """The grace in which something that takes so long ends in good order, and is shipped.

    An agent that handles no signals must be done when the barrier lets its SIGTERM through; one
    that does has until the margin.
    """
    whole_s = seconds + SHIP_S
    held_s = min(BARRIER_HOLDS_S, whole_s * BARRIER_SHARE / (1 - BARRIER_SHARE))
    return math.ceil(whole_s + max(MARGIN_S, held_s))


def kinds_of(runs: Iterable[Times], *, grace_s_max: float = AUTOSCALER_S) -> list[KindOfRun]:
    """By queue, in order; `grace_s_max` is the longest grace that can be had."""
    by_queue: defaultdict[str, list[Times]] = defaultdict(list)
    for times in runs:
        by_queue[times.queue].append(times)
    return [_kind(queue, by_queue[queue], grace_s_max=grace_s_max) for queue in sorted(by_queue)]


def _kind(queue: str, runs: Sequence[Times], *, grace_s_max: float) -> KindOfRun:
    ended = [times.worked_ms for times in runs if times.is_finished and times.worked_ms]
    longest = [times.longest_ms for times in runs if times.longest_ms]
    run_s = percentile(ended, RARE) / 1000 if ended else None
    step_s = percentile(longest, RARE) / 1000 if longest else None
    to_drain = None if run_s is None else grace_for_s(run_s)
    to_stop = None if step_s is None else grace_for_s(step_s)
    return KindOfRun(
        queue=queue,
        runs=len(runs),
        finished=sum(times.is_finished for times in runs),
        run_p50_s=percentile(ended, USUAL) / 1000 if ended else None,
        run_p95_s=run_s,
        step_p95_s=step_s,
        step_max_s=max(longest) / 1000 if longest else None,
        allows=_allowed(to_drain, to_stop, grace_s_max),
        grace_s=None if to_stop is None else math.floor(min(to_stop, grace_s_max)),
        drain_grace_s=to_drain if to_drain is not None and to_drain <= grace_s_max else None,
        places={name: _allowed(to_drain, to_stop, most_s) for name, most_s in PLACES.items()},
    )


def _allowed(to_drain: int | None, to_stop: int | None, grace_s_max: float) -> Allows:  # noqa: PLR0917 - from the gentlest on
    if to_drain is not None and to_drain <= grace_s_max:
        return Allows.DRAIN
    if to_stop is None:
        return Allows.UNKNOWN
    return Allows.MIGRATE if to_stop <= grace_s_max else Allows.COMPENSATE
