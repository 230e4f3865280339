"""Who may own a run, and when somebody else may.

No clock is trusted for safety: the swap of the head decides who owns. Clocks only keep claimers
from disturbing owners that are well, and owners from sending late:

- a claimer may take a run over when it saw the owner's heartbeat *and* the run's head unchanged
  for the lease, on its own monotonic clock, with no gap in its looking (a store that was away
  must not hand the whole fleet over);
- an owner's lease runs from before it sent its last acknowledged heartbeat, or swap of the head.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.objects import Kind, decode_object, seal
from coatcheck_sidecar.core.plain import plain_of, take_plain
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.core.undo import next_by

GAP_SHARE_MAX: Final = 0.5
"""A look that comes, or takes, longer than this share of the lease starts its window anew."""
FREE_CRASHES: Final = 2
"""Crashes without progress that are retried at once: a node dies, and its replacement."""
DELAY_BASE_S: Final = 1.0
DELAY_MAX_S: Final = 60.0
"""Growing delays of the crash-loop breaker: 1, 2, 4 ... 60 s."""
DOUBLINGS_MAX: Final = 6
"""Beyond these the delay is at its longest."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A line of a listing: what heartbeats and markers say of a run."""

    run: str
    epoch: int
    status: str
    queue: str = "default"
    step: int = 0
    in_doubt: int = 0
    schema: int = 1
    code_version: str = ""
    pinned: bool = False
    reason: str = ""
    not_before_ms: int = 0
    stuck: bool = False
    deadline_ms: int = 0
    undo: str = ""
    """Of a run that is taken back: who does what comes next, `sidecar` or `agent`."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What an owner says of itself, in one object."""

    owner: str
    beat: int
    address: str = ""
    is_draining: bool = False
    runs: tuple[RunSummary, ...] = ()


def pod_of(owner: str) -> str:
    """An owner is `<pod uid>.<start id>`: the same pod outlives its containers' starts."""
    return owner.rpartition(".")[0] or owner


def gap_ms(head: Head, state: RunState, *, me: str) -> int:
    """Since when records of the step under way may be lost (store time) for a new owner.

    One that let go shipped all it had, and a journal stays with its pod. What another pod's journal
    had and no head was written after the head's last record.
    """
    known = state.gap_ms
    if head.status is not Status.OWNED or pod_of(head.owner) == pod_of(me):
        return known
    last_ms = max((record.at_ms for record in head.records), default=1)
    return min(known or last_ms, last_ms)


def encode_summary(summary: RunSummary) -> bytes:
    """A ready, held or parked marker."""
    return seal(Kind.MARKER, msgpack.packb(plain_of(summary)))


def decode_summary(name: str, data: bytes) -> RunSummary:
    """Inverse of `encode_summary`; raises `BadObject`."""
    return decode_object(name, data, kind=Kind.MARKER, read=_summary_of)


def encode_heartbeat(beat: Heartbeat) -> bytes:
    """The heartbeat's object."""
    runs = [plain_of(summary) for summary in beat.runs]
    return seal(Kind.HEARTBEAT, msgpack.packb({**plain_of(beat), "runs": runs}))


def decode_heartbeat(name: str, data: bytes) -> Heartbeat:
    """Inverse of `encode_heartbeat`; raises `BadObject`."""
    return decode_object(name, data, kind=Kind.HEARTBEAT, read=_heartbeat_of)


def _summary_of(raw: Any) -> RunSummary:
    return RunSummary(**take_plain(RunSummary, raw))


def _heartbeat_of(raw: Any) -> Heartbeat:
    return Heartbeat(**take_plain(Heartbeat, raw), runs=tuple(map(_summary_of, raw["runs"])))


@dataclass(slots=True)
class _Window:
    version: str
    since_s: float
    last_s: float


@dataclass(slots=True)
class Watch:
    """What a claimer saw of objects that their owner rewrites while it is well."""

    lease_s: float
    _windows: dict[str, _Window] = field(default_factory=dict)

    def saw(self, name: str, version: str, *, asked_s: float, answered_s: float) -> None:
        """An answer: the object had this version between these two moments."""
        gap_s = self.lease_s * GAP_SHARE_MAX
        window = self._windows.get(name)
        is_continued = (
            window is not None
            and window.version == version
            and asked_s - window.last_s <= gap_s
            and answered_s - asked_s <= gap_s
        )
        if window is None or not is_continued:
            self._windows[name] = _Window(version, answered_s, answered_s)
        else:
            window.last_s = asked_s

    def failed(self) -> None:
        """A look failed: what was seen before it proves nothing any more."""
        self._windows.clear()

    def forget(self, name: str) -> None:
        """The object is gone or of no interest."""
        self._windows.pop(name, None)

    def unchanged_s(self, name: str) -> float:
        """For how long the object is known not to have changed."""
        window = self._windows.get(name)
        return 0.0 if window is None else max(0.0, window.last_s - window.since_s)

    def is_lapsed(self, *names: str) -> bool:
        """All of these stood still for the lease."""
        return bool(names) and all(self.unchanged_s(name) >= self.lease_s for name in names)


@dataclass(frozen=True, slots=True)
class Claimable:
    """Go on and swap; `crashes` is the breaker's count after this claim."""

    cause: str
    crashes: int


@dataclass(frozen=True, slots=True)
class Later:
    """Not yet: look again after `delay_s`."""

    delay_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """An owner that may be well."""

    owner: str


@dataclass(frozen=True, slots=True)
class Closed:
    """Nobody may claim a run that stands so."""

    status: Status
    reason: str


Claim = Claimable | Later | Elsewhere | Closed


def decide_claim(head: Head, *, me: str, crashes: int, is_lapsed: bool, now_ms: int) -> Claim:
    """Say whether `me` (an owner's name) may claim the run with this head.

    `crashes` is the breaker's count as the log has it, `is_lapsed` says that the owner's heartbeat
    and the head stood still for the lease, `now_ms` is the store's time.
    """
    if head.status.is_final or head.status in (Status.HELD, Status.PARKED):
        return Closed(head.status, head.reason)
    if head.status in (Status.READY, Status.COMPENSATING):
        left_s = (head.not_before_ms - now_ms) / 1000
        if left_s > 0:
            return Later(left_s, f"waits after {crashes} crashes without progress")
        return Claimable("new" if head.epoch == 0 else head.status.value, crashes)
    if pod_of(head.owner) == pod_of(me):
        return Claimable("restart", crashes + 1)
    if is_lapsed:
        return Claimable("takeover", crashes + 1)
    return Elsewhere(head.owner)


def crash_delay_s(crashes: int) -> float:
    """How long a run waits before its next owner, after this many crashes without progress."""
    doublings = crashes - FREE_CRASHES - 1
    if doublings < 0:
        return 0.0
    return min(DELAY_MAX_S, DELAY_BASE_S * 2.0 ** min(doublings, DOUBLINGS_MAX))


@dataclass(frozen=True, slots=True)
class Accepts:
    """What an agent can go on with."""

    schema: int
    code_version: str = ""
    schema_from: int | None = None
    """The oldest that it lifts to its own; only its own if `None`."""

    def refusal(self, summary: RunSummary) -> str:
        """Why not, or an empty string."""
        if summary.pinned and summary.code_version != self.code_version:
            return (
                f"run {summary.run} is pinned to code version {summary.code_version!r}, "
                f"this agent is {self.code_version!r}"
            )
        oldest = self.schema if self.schema_from is None else self.schema_from
        if summary.step > 0 and not oldest <= summary.schema <= self.schema:
            taken = f"{self.schema}" if oldest == self.schema else f"{oldest} to {self.schema}"
            mend = "takes it or lifts it (`migrate`)" if summary.schema < oldest else "takes it"
            return (
                f"the state of run {summary.run} has schema {summary.schema}, this agent takes "
                f"{taken}: deploy one that {mend}, or rewind the run"
            )
        return ""


def line_of(state: RunState, *, stuck: bool) -> RunSummary:
    """The line of a listing for a run as its owner has it."""
    return RunSummary(
        run=state.run,
        epoch=state.epoch,
        status=state.status.value,
        queue=state.created.queue,
        step=state.step,
        in_doubt=len(state.in_doubt),
        schema=state.checkpoint.schema if state.step else state.created.schema,
        code_version=state.checkpoint.code_version or state.created.code_version,
        pinned=state.created.pinned,
        reason=state.reason,
        stuck=stuck,
        deadline_ms=state.created.deadline_ms,
        undo=next_by(state),
    )


def summary_of(head: Head, *, in_doubt: int = 0, stuck: bool = False) -> RunSummary:
    """The line of a listing for a head."""
    return RunSummary(
        run=head.run,
        epoch=head.epoch,
        status=head.status.value,
        queue=head.queue,
        step=head.step,
        in_doubt=in_doubt,
        schema=head.state_schema,
        code_version=head.code_version,
        pinned=head.pinned,
        reason=head.reason,
        not_before_ms=head.not_before_ms,
        stuck=stuck,
        deadline_ms=head.created.deadline_ms,
        undo=head.undo,
    )
