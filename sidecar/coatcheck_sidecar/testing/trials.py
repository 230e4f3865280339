"""An agent killed at each point of its life, one after another, and its effects counted."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.testing.local import Doubt, LocalSidecar, sidecar
from coatcheck_sidecar.testing.nursery import (
    Effects,
    Ended,
    Nursery,
    Orders,
    Watch,
    WatchedServer,
    dying_at,
)

LIVES_MAX: Final = 10
"""An agent that is killed once and then let be finishes in its second or third life."""
LIFE_S: Final = 30.0
"""A life that takes longer is stuck: nothing in a unit test takes so long."""
FINAL: Final = frozenset(status.value for status in Status if status.is_final)
GO_ON: Final = "go on"


@dataclass(frozen=True, slots=True)
class Applied:
    """It took place, and `value` is what the tool would have returned."""

    value: Any = None


@dataclass(frozen=True, slots=True)
class NotApplied:
    """It did not take place: the agent makes it again."""


NOT_APPLIED: Final = NotApplied()
Resolver = Callable[[Doubt, Effects], Applied | NotApplied | None]


@dataclass(frozen=True, slots=True)
class Miscount:
    """An effect that took place more or less often than in the run that nobody killed."""

    point: str
    name: str
    key: str
    counted: int
    expected: int


@dataclass(slots=True)
class Report:
    """What became of an agent that was killed at each point of its life, one after another."""

    points: list[str] = field(default_factory=list)
    """The kill points tried, in the agent's order."""
    finished: int = 0
    """Runs that finished all the same, of so many."""
    unfinished: dict[str, str] = field(default_factory=dict)
    """By kill point: why the run didn't."""
    effects: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By name and key: how often each took place when nobody killed the agent."""
    doubled: list[Miscount] = field(default_factory=list)
    missing: list[Miscount] = field(default_factory=list)
    doubts: dict[str, list[Doubt]] = field(default_factory=dict)
    """By kill point: what was in doubt after it, and for the resolver to decide."""

    @property
    def is_safe(self) -> bool:
        """Every run finished, with each effect as often as it should be."""
        return not (self.doubled or self.missing or self.unfinished)

    def __str__(self) -> str:
        lines = [
            f"{len(self.points)} kill points, {self.finished} finished, "
            f"{len(self.doubled)} effects doubled, {len(self.missing)} missing, "
            f"{len(self.doubts)} times in doubt"
        ]
        for what, found in (("doubled", self.doubled), ("missing", self.missing)):
            lines += [
                f"  {what}: {m.name} {m.key}: {m.counted} for {m.expected}, killed {m.point}"
                for m in found
            ]
        lines += [f"  not finished, killed {at}: {why}" for at, why in self.unfinished.items()]
        return "\n".join(lines)


@dataclass(slots=True)
class _Trial:
    """One run of the agent from its first life to its last."""

    points: list[str]
    effects: Effects
    doubts: list[Doubt] = field(default_factory=list)
    why: str = ""
    """Empty if it finished."""


@dataclass(frozen=True, slots=True)
class _Point:
    name: str
    message: int | None = None
    effect: int | None = None
    is_after: bool = False


@dataclass(frozen=True, slots=True)
class _Trials:
    nursery: Nursery
    folder: Path
    run: str
    resolve: Resolver | None
    signals: Mapping[str, Any]

    def of(self, point: _Point) -> _Trial:
        """Kill the agent there in its first life, and let it be in the others."""
        path = Path(tempfile.mkstemp(dir=self.folder)[1])
        watch = Watch(kill=self.nursery.kill, at=point.message)
        trial = _Trial(watch.points, Effects(path))
        with sidecar(
            make_server=lambda engine, sock: WatchedServer(engine, sock, watch=watch)
        ) as s:
            orders = Orders(str(s.socket), str(path))
            if point.effect is not None:
                first = dying_at(orders, effect=point.effect, is_after=point.is_after)
            else:
                first = orders
            for life in [first, *[orders] * LIVES_MAX]:
                ended = self.nursery.live(life)
                trial.why = self._after(s, ended, trial=trial)
                if trial.why != GO_ON:
                    return trial
                last = _last_line(ended)
                trial.why = f"{LIVES_MAX} more lives were not enough; the last: {last}"
        return trial

    def _after(self, s: LocalSidecar, ended: Ended, *, trial: _Trial) -> str:
        assert isinstance(s.server, WatchedServer)  # noqa: S101 - made so above
        s.ask(s.server.until_idle())
        found = {summary.run: summary for summary in s.runs()}.get(self.run)
        status = found.status if found else ""
        if status == Status.FINISHED:
            return ""
        if status in FINAL and found is not None:
            return f"the run {status}: {found.reason}"
        if status == Status.HELD and found is not None:
            return self._decide(s, trial) or f"it is held: {found.reason}"
        if status == Status.PARKED and found is not None:
            if found.reason not in self.signals:
                return f"it waits for the signal {found.reason!r}"
            s.signal(self.run, found.reason, self.signals[found.reason])
        if not found and ended.status == 0:
            return f"it ended well, and never opened run {self.run}"
        return GO_ON

    def _decide(self, s: LocalSidecar, trial: _Trial) -> str:
        """Go on if all that is in doubt was decided."""
        doubts = s.doubts(self.run)
        trial.doubts += doubts
        verdicts = [self.resolve(d, trial.effects) if self.resolve else None for d in doubts]
        if not doubts or None in verdicts:
            return ""
        for doubt, verdict in zip(doubts, verdicts, strict=True):
            value = verdict.value if isinstance(verdict, Applied) else None
            s.resolve(self.run, doubt.call, applied=isinstance(verdict, Applied), value=value)
        return GO_ON


def kill_everywhere(
    agent: Callable[[Effects], Any],
    *,
    run: str = "test-run",
    resolve: Resolver | None = None,
    signals: Mapping[str, Any] | None = None,
    life_s: float = LIFE_S,
) -> Report:
    """Run an agent again and again, SIGKILL it at one point after another, count its effects.

    `agent(effects)` is plain or async, and opens `run` (`coatcheck.open_run(schema=...)` without a
    name does). It runs in a forked child. The points are each message between agent and sidecar,
    before it is acted on and before it is answered, and each `effects.add`, before and after. After
    its death the agent is started again until the run finishes. What is in doubt then `resolve`
    decides; what the run waits for `signals` has. Raises `RuntimeError` if the run doesn't finish
    even when nobody kills the agent.
    """
    folder = Path(tempfile.mkdtemp(prefix="coatcheck-"))
    try:
        with Nursery(agent, run=run, life_s=life_s) as nursery:
            trials = _Trials(nursery, folder, run, resolve, signals or {})
            base = trials.of(_Point("nowhere"))
            if base.why:
                raise RuntimeError(f"the agent doesn't finish, though nobody kills it: {base.why}")
            report = Report(effects=base.effects.counts())
            for point in _points(base):
                _judge(report, point.name, trial=trials.of(point))
            return report
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _points(base: _Trial) -> Sequence[_Point]:
    names = base.effects.names()
    return [
        *(_Point(name, message=number) for number, name in enumerate(base.points)),
        *(_Point(f"before effect {name}", effect=n) for n, name in enumerate(names)),
        *(_Point(f"after effect {name}", effect=n, is_after=True) for n, name in enumerate(names)),
    ]


def _judge(report: Report, point: str, *, trial: _Trial) -> None:
    report.points.append(point)
    if trial.doubts:
        report.doubts[point] = trial.doubts
    if trial.why:
        report.unfinished[point] = trial.why
    else:
        report.finished += 1
    counts = trial.effects.counts()
    for name, key in counts.keys() | report.effects.keys():
        counted, expected = counts[name, key], report.effects.get((name, key), 0)
        miscount = Miscount(point, name, key, counted, expected)
        if counted > expected:
            report.doubled.append(miscount)
        elif counted < expected and not trial.why:
            report.missing.append(miscount)


def _last_line(ended: Ended) -> str:
    lines = ended.error.strip().splitlines()
    return lines[-1] if lines else f"it ended with {ended.status}"
