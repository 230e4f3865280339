"""The shutdown plan: what becomes of each run of a pod, and when. Pure.

A plan is a function of the moment, the deadline, the measured rate and the runs; it is made anew
on every event, and nothing of the last one is remembered but what agents were told.

    trigger ------------------ stop_s ----------- cut_s ------------- deadline_s
       | `drain` runs go on       | are told          | what has not      | the last object
       | others are told to stop  | to stop           | stopped is cut    | is off the pod

Uploads get their time first: a call that was cut can be looked into, a checkpoint that was not
shipped is lost. So `cut_s` lies as long before the deadline as shipping takes at the rate measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from coatcheck_sidecar.core.budget import Rate

ROUND_TRIPS: Final = 3
"""Puts that must follow one another: one under way, a sealed object, and the head that names it."""
ENDING_BYTES: Final = 16_384
"""What releasing a run ships at least: a head with its marker, and a step's last delta."""
BOUNDARY_SHARE_MAX: Final = 0.5
"""Of the time there is, a run that goes on gives this much at most to its last step."""
BOUNDARY_S_MIN: Final = 0.25
"""A step of an agent that was never seen to end one takes this long at least."""
BARRIER_HOLDS_S: Final = 5.0
BARRIER_SHARE: Final = 0.25
"""What an agent keeps of the grace for its own SIGTERM: the lesser of the two."""


class OnDrain(StrEnum):
    """How a run is to be stopped, as its agent said when it opened it."""

    AUTO = "auto"
    """`drain` if what it says is left fits when the drain begins, else `migrate`. The default."""
    DRAIN = "drain"
    """To its end; what does not end in time migrates."""
    MIGRATE = "migrate"
    """At its next step boundary."""
    COMPENSATE = "compensate"
    """At its next step boundary, and then what it did is taken back."""


class Doing(StrEnum):
    """What becomes of a run now."""

    GO_ON = "go_on"
    """It may begin further steps."""
    STOP = "stop"
    """Its agent is told to stop at its next step boundary, or was, and has not yet."""
    UNDO = "undo"
    """What it did is being taken back, as far as the time goes."""
    AWAIT = "await"
    """The sidecar was restarted, and the run's agent may be about to reconnect."""
    RELEASE = "release"
    """No agent works on it: it is released at once."""
    CUT = "cut"
    """It did not stop in time: released where it stands, calls in flight in doubt."""
    SHIP = "ship"
    """Released; its last records are on their way."""


@dataclass(frozen=True, slots=True)
class Latch:
    """That the pod drains, and until when. Seconds are the sidecar's own clock."""

    cause: str
    """What triggered it first."""
    began_s: float
    deadline_s: float
    """The moment by which all must be off the pod."""
    barrier_s: float
    """The moment at which the barrier lets the agents' SIGTERM through, whatever became of them."""
    is_hookless: bool = False
    """It began by a SIGTERM that no preStop hook came before."""


DRAINING: Final = "draining"
"""Why a run was released; what else is to be said of it follows, divided by `MARK`."""
MARK: Final = ", "
NO_HOOK: Final = "no hook"
CUT: Final = "cut"


def reason_of(reason: str, latch: Latch | None) -> str:
    """The reason of a release, with what the run's next owner should know of this drain.

    What a sidecar counts in its last seconds no scraper sees; what its log says stays.
    """
    is_told = reason.startswith(DRAINING) and latch is not None and latch.is_hookless
    return f"{reason}{MARK}{NO_HOOK}" if is_told else reason


def left_by(reason: str) -> tuple[str, str] | None:
    """How a run's last pod went, by the reason of its release: `None` if it was no drain.

    The hook was `seen` or `missed`; the run was at a `boundary`, or was `cut`.
    """
    word, *marks = reason.split(MARK)
    if word != DRAINING:
        return None
    return ("missed" if NO_HOOK in marks else "seen", CUT if CUT in marks else "boundary")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """What a plan must know of a run."""

    run: str
    on_drain: OnDrain = OnDrain.AUTO
    has_agent: bool = True
    is_awaited: bool = False
    """Without an agent yet, since the sidecar was restarted a moment ago."""
    is_over: bool = False
    """It has been released, or it ended: what is left is shipping."""
    is_undoing: bool = False
    """This sidecar takes it back."""
    is_told: bool = False
    """Its agent was told to stop."""
    eta_at_s: float | None = None
    """When it is done, as its agent reckons."""
    boundary_s: float = 0.0
    """How long a step of it takes at most, as seen so far."""
    unshipped_bytes: int = 0

    def of(self, on_drain: OnDrain) -> "RunView":
        """The same run, with what `auto` came to."""
        return replace(self, on_drain=on_drain)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What becomes of one run."""

    run: str
    doing: Doing
    until_s: float
    """When that changes at the latest if nothing else happens: when it is told to stop, or cut."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of each run of the pod."""

    runs: tuple[RunPlan, ...]
    cut_s: float
    ship_s: float
    """How long it takes to ship what there is, at the rate measured."""
    deadline_s: float
    is_feasible: bool
    """Shipping fits before the deadline. If not, it is done all the same, and at once."""
    next_s: float
    """When to plan anew at the latest."""


def latch(
    last: Latch | None, cause: str, *, now_s: float, grace_s: float, margin_s: float
) -> Latch:
    """The drain that a trigger begins, or shortens: none can lengthen it.

    `grace_s` is what the trigger says is left until SIGKILL, of which `margin_s` is held back.
    """
    deadline_s = now_s + max(0.0, grace_s - margin_s)
    barrier_s = now_s + grace_s - min(BARRIER_HOLDS_S, grace_s * BARRIER_SHARE)
    if last is None:
        return Latch(cause, now_s, deadline_s, barrier_s)
    return replace(
        last,
        deadline_s=min(last.deadline_s, deadline_s),
        barrier_s=min(last.barrier_s, barrier_s),
    )


def ship_s(runs: Sequence[RunView], rate: Rate, *, puts_max: int) -> float:
    """How long the last of these runs takes to be off the pod, if nothing more comes."""
    if not runs:
        return 0.0
    turns = -(-len(runs) // puts_max)
    size = sum(run.unshipped_bytes + ENDING_BYTES for run in runs)
    return ROUND_TRIPS * turns * rate.latency_s + size / rate.bytes_per_s


def chosen(run: RunView, *, now_s: float, stop_s: float) -> OnDrain:
    """What `auto` comes to when the drain begins, for good.

    A run without a checkpoint migrates too: it starts again from its first step with its calls
    recorded. And it never compensates: a deploy must not take back what customers were sold.
    """
    if run.on_drain is not OnDrain.AUTO:
        return run.on_drain
    fits = run.eta_at_s is not None and max(now_s, run.eta_at_s) <= stop_s
    return OnDrain.DRAIN if fits else OnDrain.MIGRATE


def stop_s(run: RunView, *, began_s: float, cut_s: float) -> float:
    """When a run that goes on must be told to stop, so that its last step ends before `cut_s`."""
    most_s = max(0.0, cut_s - began_s) * BOUNDARY_SHARE_MAX
    return cut_s - min(max(run.boundary_s, BOUNDARY_S_MIN), most_s)


def cut_s(
    runs: Sequence[RunView], drain: Latch, *, rate: Rate, now_s: float, puts_max: int
) -> float:
    """When what has not stopped is cut, so that all that is unshipped still gets off the pod."""
    return max(now_s, drain.deadline_s - ship_s(runs, rate, puts_max=puts_max))


def plan(runs: Sequence[RunView], drain: Latch, *, rate: Rate, now_s: float, puts_max: int) -> Plan:
    """What becomes of each run now. `auto` must have been `chosen` before."""
    takes_s = ship_s(runs, rate, puts_max=puts_max)
    cut_at_s = cut_s(runs, drain, rate=rate, now_s=now_s, puts_max=puts_max)
    plans = tuple(_of_run(run, drain, now_s=now_s, cut_at_s=cut_at_s) for run in runs)
    waits = [p.until_s for p in plans if p.until_s > now_s]
    return Plan(
        plans,
        cut_s=cut_at_s,
        ship_s=takes_s,
        deadline_s=drain.deadline_s,
        is_feasible=now_s + takes_s <= drain.deadline_s,
        next_s=min(waits, default=drain.deadline_s),
    )


def _of_run(run: RunView, drain: Latch, *, now_s: float, cut_at_s: float) -> RunPlan:
    if run.is_over:
        return RunPlan(run.run, Doing.SHIP, drain.deadline_s)
    if run.is_undoing and now_s < cut_at_s:
        return RunPlan(run.run, Doing.UNDO, cut_at_s)
    if run.is_awaited and not run.has_agent and now_s < cut_at_s:
        return RunPlan(run.run, Doing.AWAIT, cut_at_s)
    if not run.has_agent and not run.is_undoing:
        return RunPlan(run.run, Doing.RELEASE, now_s)
    if now_s >= cut_at_s:
        return RunPlan(run.run, Doing.CUT, drain.deadline_s)
    stop_at_s = stop_s(run, began_s=drain.began_s, cut_s=cut_at_s)
    if run.on_drain is OnDrain.DRAIN and not run.is_told and now_s < stop_at_s:
        return RunPlan(run.run, Doing.GO_ON, stop_at_s)
    return RunPlan(run.run, Doing.STOP, cut_at_s)
