"""The kubelet's four-step rule, as a state machine over a pod's containers. Pure.

One goroutine a container in the kubelet, one `Ending` here; each walks down the same steps:

    HOOK   its preStop hook runs; the whole seconds that it took come off the grace
    TURN   a native sidecar waits for who must go before it; whole seconds come off again
    TERM   SIGTERM has been sent, with what is left, but 2 s at least
    KILLED SIGKILL has been sent
    GONE   the runtime has said that it ended, which can come at any of the steps

`decide(termination, event, now_s=...)` says what is to be done; whoever performs it reports hooks
that are over and containers that are gone, and asks again at `next_s`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, auto
from typing import Final, assert_never

GRACE_S_MIN: Final = 1
"""What a grace of 0 (`--force --grace-period=0`, TGPS 0) becomes."""
LEFT_S_MIN: Final = 2
"""Between SIGTERM and SIGKILL, whatever hooks and turns took."""
TIMER_SLACK_S: Final = 0.001
"""A timer that fires this early still counts as a whole second."""


class Phase(IntEnum):
    """How far a container's ending has come."""

    HOOK = auto()
    TURN = auto()
    TERM = auto()
    KILLED = auto()
    GONE = auto()


@dataclass(frozen=True, slots=True)
class Ending:
    """One container's way down; `left_s` is the grace left when its phase began at `since_s`."""

    name: str
    has_hook: bool
    waits_for: frozenset[str]
    phase: Phase
    left_s: int
    since_s: float
    is_hook_over: bool = False

    @property
    def until_s(self) -> float:
        """No phase outlasts what is left of the grace."""
        return self.since_s + self.left_s

    def spend(self, now_s: float) -> "Ending":
        """The whole seconds since this phase began are taken off."""
        took_s = int(now_s - self.since_s + TIMER_SLACK_S)
        return replace(self, left_s=self.left_s - took_s, since_s=now_s)


@dataclass(frozen=True, slots=True)
class Termination:
    """All containers of a pod (or one alone, for a liveness failure) on their way down."""

    endings: tuple[Ending, ...]

    @property
    def gone(self) -> frozenset[str]:
        return frozenset(each.name for each in self.endings if each.phase is Phase.GONE)

    @property
    def is_over(self) -> bool:
        return len(self.gone) == len(self.endings)

    @property
    def next_s(self) -> float | None:
        """When to ask again, should nothing happen; None: only an event can change anything."""
        timed = (Phase.HOOK, Phase.TURN, Phase.TERM)
        return min((each.until_s for each in self.endings if each.phase in timed), default=None)


@dataclass(frozen=True, slots=True)
class Member:
    """A container as the rule sees it, in the order in which the pod declares it."""

    name: str
    is_sidecar: bool = False
    """Native: an init container with `restartPolicy: Always`. A plain second one is not."""
    has_hook: bool = False
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class HookOver:
    """A container's hook has ended, well or not: the rule does not care."""

    name: str


@dataclass(frozen=True, slots=True)
class Gone:
    """The runtime has said that a container ended."""

    name: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class RunHook:
    name: str


@dataclass(frozen=True, slots=True)
class SendTerm:
    name: str


@dataclass(frozen=True, slots=True)
class SendKill:
    name: str


Event = HookOver | Gone | Tick
Effect = RunHook | SendTerm | SendKill


@dataclass(frozen=True, slots=True)
class Decision:
    termination: Termination
    effects: tuple[Effect, ...]


def begin(members: Sequence[Member], grace_s: int, *, now_s: float) -> Decision:
    """All hooks start at once, the sidecars' too; who has none goes straight on."""
    grace_s = max(grace_s, GRACE_S_MIN)
    turns = waits(members)
    endings = tuple(
        Ending(
            name=member.name,
            has_hook=member.has_hook,
            waits_for=turns[member.name],
            phase=Phase.GONE if member.is_gone else Phase.HOOK,
            left_s=grace_s,
            since_s=now_s,
            is_hook_over=not member.has_hook,
        )
        for member in members
    )
    hooks = tuple(RunHook(each.name) for each in endings if _runs_hook(each))
    after = _advance(Termination(endings), now_s)
    return Decision(after.termination, hooks + after.effects)


def decide(termination: Termination, event: Event, *, now_s: float) -> Decision:
    """What follows from an event, and from the time that it came at."""
    match event:
        case HookOver(name):
            changed = _change(termination, name, lambda each: replace(each, is_hook_over=True))
        case Gone(name):
            changed = _change(termination, name, lambda each: replace(each, phase=Phase.GONE))
        case Tick():
            changed = termination
        case _:
            assert_never(event)
    return _advance(changed, now_s)


def waits(members: Sequence[Member]) -> dict[str, frozenset[str]]:
    """Whom each waits for: a native sidecar for all main containers, and the sidecars after it."""
    main = frozenset(each.name for each in members if not each.is_sidecar)
    turns = dict.fromkeys(main, frozenset[str]())
    before = main
    for member in reversed([each for each in members if each.is_sidecar]):
        turns[member.name] = before
        before |= {member.name}
    return turns


def _runs_hook(ending: Ending) -> bool:
    return ending.has_hook and ending.phase is Phase.HOOK


def _change(termination: Termination, name: str, change: Callable[[Ending], Ending]) -> Termination:
    endings = (change(each) if each.name == name else each for each in termination.endings)
    return Termination(tuple(endings))


def _advance(termination: Termination, now_s: float) -> Decision:
    endings: list[Ending] = []
    effects: list[Effect] = []
    for ending in termination.endings:
        stepped = _step(ending, termination.gone, now_s)
        if ending.phase < Phase.TERM and stepped.phase is Phase.TERM:
            effects.append(SendTerm(ending.name))
        if ending.phase < Phase.KILLED and stepped.phase is Phase.KILLED:
            effects.append(SendKill(ending.name))
        endings.append(stepped)
    return Decision(Termination(tuple(endings)), tuple(effects))


def _step(ending: Ending, gone: frozenset[str], now_s: float) -> Ending:
    is_due = now_s >= ending.until_s - TIMER_SLACK_S
    if ending.phase is Phase.HOOK and (ending.is_hook_over or is_due):
        ending = replace(ending.spend(now_s), phase=Phase.TURN)
    if ending.phase is Phase.TURN:
        is_due = now_s >= ending.until_s - TIMER_SLACK_S
        if ending.waits_for <= gone or is_due:
            ending = ending.spend(now_s)
            return replace(ending, phase=Phase.TERM, left_s=max(ending.left_s, LEFT_S_MIN))
    elif ending.phase is Phase.TERM and is_due:
        return replace(ending, phase=Phase.KILLED)
    return ending
