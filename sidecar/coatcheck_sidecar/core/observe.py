"""What mode `observe` makes of the calls that it saw pass: what a deploy would do to them.

Facts in, report out. Nothing here was held or answered from a record. A call is exposed from the
moment it is sent until the next checkpoint of its run: whoever is stopped in between does the step
again, and sends it again. What is suggested for a call is `effects.py`'s part.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from coatcheck_sidecar.core.effects import Kind, Suggestion, suggest
from coatcheck_sidecar.core.model import Effect

KINDS_MAX: Final = 500
"""Tools and patterns told apart; more are counted together."""
OTHERS: Final = "(others)"
EQUALS_MAX: Final = 10_000
"""Requests remembered, to see whether an equal one comes: about 2 MB."""
RUNS_MAX: Final = 10_000
LISTED_MAX: Final = 100
"""Lines of each list of a report; the figures count all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A call as it was sent. `pattern` is what `effects:` would call it."""

    run: str
    step: int
    tool: str
    pattern: str
    by_method: Effect
    declared: Effect
    """How `enforce` would treat it, by the configuration as it is."""
    fingerprint: bytes
    has_key: bool = False
    """The agent, or the tool's business key, names it."""
    has_upstream_key: bool = False
    """It carries a key for the upstream (`Idempotency-Key`) by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Came:
    """How it ended. `status` is 0 if no whole answer came, `digest` that of the answer's body."""

    status: int
    digest: bytes = b""
    length: int = 0
    has_created: bool = False
    """201, or a `Location`."""
    is_completion: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """A call without an answer at the moment of the report."""

    run: str
    step: int
    tool: str
    pattern: str
    has_key: bool
    for_s: float
    outcome: str
    """What a deploy would make of it: `doubled`, `bought again`, `asked again`, `sent again`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtRisk:
    """A run with work behind its last checkpoint."""

    run: str
    step: int
    has_checkpoint: bool
    calls: int
    """Calls of the step under way, in flight or answered."""
    doubled: int
    """Those of them that would take place twice."""
    for_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a deploy now would have lost and doubled, and what to do about it."""

    observed_s: float
    calls: int
    runs: int
    """With a call since the beginning, and still owned."""
    lost_steps: int
    """Steps under way, to be done again."""
    never_saved: int
    """Runs among them that have no checkpoint at all: to be done again from the start."""
    doubled: int
    bought_again: int
    worst_share: float
    """The share of the time in which a deploy would have doubled something; at least."""
    in_flight: tuple[InFlight, ...]
    at_risk: tuple[AtRisk, ...]
    tools: tuple[Suggestion, ...]
    bypass: Mapping[str, int]
    """Connections that do not go through the proxy, by remote host."""


@dataclass(slots=True)
class _Sent:
    seen: Seen
    kind: Kind
    at_s: float


@dataclass(slots=True)
class _Run:
    step: int
    since_s: float
    has_checkpoint: bool
    exposed: list[_Sent] = field(default_factory=list)


class Observations:
    """Takes in facts in their order; times are those of one monotonic clock."""

    def __init__(self, *, began_s: float) -> None:
        self._began_s = began_s
        self._kinds: dict[tuple[str, str], Kind] = {}
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._flying: dict[int, _Sent] = {}
        self._last: OrderedDict[bytes, tuple[str, bytes]] = OrderedDict()
        self._number = 0

    def sent(self, seen: Seen, *, at_s: float, has_checkpoint: bool) -> int:
        """A call leaves; the number to end it by. `has_checkpoint`: its run has one."""
        self._number += 1
        kind = self._kind(seen)
        kind.calls += 1
        kind.keyed += seen.has_upstream_key
        sent = _Sent(seen, kind, at_s)
        self._flying[self._number] = sent
        run = self._runs.get(seen.run)
        if run is None or run.step != seen.step:
            run = self._begin(seen, at_s=at_s, has_checkpoint=has_checkpoint)
        run.exposed.append(sent)
        kind.expose(at_s)
        return self._number

    def came(self, number: int, answer: Came) -> None:
        """It is over."""
        sent = self._flying.pop(number, None)
        if sent is None:
            return
        kind, seen = sent.kind, sent.seen
        is_good = 200 <= answer.status < 300
        kind.lost += answer.status == 0
        kind.good += is_good
        kind.created += answer.has_created
        kind.completions += answer.is_completion
        before = self._last.pop(seen.fingerprint, None)
        if before is not None:
            kind.again += before[0] == seen.run
        if not is_good:
            return
        kind.count_answer(answer.length)
        if before is not None:
            kind.equal += before[1] == answer.digest
            kind.different += before[1] != answer.digest
        self._last[seen.fingerprint] = (seen.run, answer.digest)
        if len(self._last) > EQUALS_MAX:
            self._last.popitem(last=False)

    def saved(self, run: str, *, at_s: float) -> None:
        """A checkpoint of the run is durable, or the run is over: nothing before is done again."""
        gone = self._runs.pop(run, None)
        for sent in gone.exposed if gone else ():
            sent.kind.cover(at_s)

    def keep_only(self, runs: Collection[str], *, at_s: float) -> None:
        """All other runs are no longer owned here."""
        for run in [run for run in self._runs if run not in runs]:
            self.saved(run, at_s=at_s)

    def report(self, *, at_s: float, bypass: Mapping[str, int]) -> Report:
        """How things stand."""
        observed_s = max(at_s - self._began_s, 0.0)
        tools = {key: suggest(kind, at_s=at_s, observed_s=observed_s)
                 for key, kind in self._kinds.items()}  # fmt: skip
        flying = [_in_flight(sent, at_s=at_s, tools=tools) for sent in self._flying.values()]
        at_risk = [_at_risk(name, run, at_s=at_s, tools=tools)
                   for name, run in self._runs.items()]  # fmt: skip
        exposed = [sent for run in self._runs.values() for sent in run.exposed]
        once = [found.exposed_share for found in tools.values() if found.effect is Effect.ONCE]
        return Report(
            observed_s=observed_s,
            calls=self._number,
            runs=len(self._runs),
            lost_steps=len(at_risk),
            never_saved=sum(not run.has_checkpoint for run in self._runs.values()),
            doubled=sum(run.doubled for run in at_risk),
            bought_again=sum(_of(sent, tools).is_completion for sent in exposed),
            worst_share=max(once, default=0.0),
            in_flight=tuple(sorted(flying, key=lambda call: -call.for_s)[:LISTED_MAX]),
            at_risk=tuple(sorted(at_risk, key=lambda run: -run.doubled)[:LISTED_MAX]),
            tools=tuple(sorted(tools.values(), key=_by_risk)),
            bypass=dict(bypass),
        )

    def _begin(self, seen: Seen, *, at_s: float, has_checkpoint: bool) -> _Run:
        self.saved(seen.run, at_s=at_s)
        if len(self._runs) >= RUNS_MAX:
            self.saved(next(iter(self._runs)), at_s=at_s)
        run = self._runs[seen.run] = _Run(seen.step, at_s, has_checkpoint)
        return run

    def _kind(self, seen: Seen) -> Kind:
        key = (seen.tool, seen.pattern)
        if key not in self._kinds and len(self._kinds) >= KINDS_MAX:
            key = (seen.tool, OTHERS)
        kind = self._kinds.get(key)
        if kind is None:
            tool, pattern = key
            kind = self._kinds[key] = Kind(tool, pattern, seen.by_method, seen.declared)
        return kind


Tools = Mapping[tuple[str, str], Suggestion]


def _of(sent: _Sent, tools: Tools) -> Suggestion:
    return tools[sent.kind.tool, sent.kind.pattern]


def _by_risk(found: Suggestion) -> tuple[float, str, str]:
    return (-found.exposed_share, found.tool, found.pattern)


def _in_flight(sent: _Sent, *, at_s: float, tools: Tools) -> InFlight:
    return InFlight(
        run=sent.seen.run,
        step=sent.seen.step,
        tool=sent.seen.tool,
        pattern=sent.seen.pattern,
        has_key=sent.seen.has_key,
        for_s=max(at_s - sent.at_s, 0.0),
        outcome=_outcome(_of(sent, tools)),
    )


def _outcome(found: Suggestion) -> str:
    if found.is_completion:
        return "bought again"
    return {Effect.READ: "asked again", Effect.IDEMPOTENT: "sent again", Effect.ONCE: "doubled"}[
        found.effect
    ]


def _at_risk(name: str, run: _Run, *, at_s: float, tools: Tools) -> AtRisk:
    return AtRisk(
        run=name,
        step=run.step,
        has_checkpoint=run.has_checkpoint,
        calls=len(run.exposed),
        doubled=_count(_of(sent, tools).effect is Effect.ONCE for sent in run.exposed),
        for_s=max(at_s - run.since_s, 0.0),
    )


def _count(truths: Iterable[bool]) -> int:
    return sum(truths)
