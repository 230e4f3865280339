"""What happens to a tool call, and what is to be done about it: values alone."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from coatcheck_sidecar.core.model import Body, Call, Level, Outcome, OutcomeKind

NOTHING: Final = Outcome(OutcomeKind.RESULT, Body(None))
"""Stands for the answer of an attempt that brought none."""


class Ending(StrEnum):
    """How one attempt ended: the rows of the table in `call.py`."""

    NOT_SENT = "not_sent"
    """Known not to have left: DNS, TCP, TLS, a lapsed lease; an SDK tool that says so."""
    LOST = "lost"
    """Bytes went and no head came: reset, time-out; an SDK tool that raised."""
    CUT = "cut"
    """The head of a lasting answer came, its body was cut short."""
    SHED = "shed"
    """Refused before it was looked at: come again later."""
    BUSY = "busy"
    """408 and 503: it may have been taken up."""
    ERROR = "error"
    """The upstream failed (other 5xx), perhaps after it acted."""
    ERROR_SAVED = "error_saved"
    """The same, and the upstream keeps that answer under the key for good."""
    DENIED = "denied"
    """Credentials were missing or refused (401, 403, 407)."""
    CONFLICT = "conflict"
    """409: where the upstream honours keys, an attempt under this key is still at work."""
    REJECTED = "rejected"
    """Other 4xx: refused for good."""
    FINAL = "final"
    """The answer (2xx, 3xx), or what an SDK tool returned."""


class Life(StrEnum):
    """What the executor of an attempt says of it after the run was claimed anew."""

    UNSTARTED = "unstarted"
    RUNNING = "running"
    DONE = "done"


class Resolution(StrEnum):
    """How a doubt is decided. The first two may also come from a probe."""

    APPLIED = "applied"
    NOT_APPLIED = "not_applied"
    RETRY = "retry"
    """Send it again when the agent asks, whatever became of it."""
    COMPENSATE = "compensate"


class Reason(StrEnum):
    """Why a call is in doubt (besides an `Ending`), held or refused."""

    RESTARTED = "restarted"
    RECORD_MISSING = "record_may_be_missing"
    NOT_SETTLED = "probe_not_settled"
    KEY_EXPIRED = "key_expired"
    NOT_RETAINED = "response_not_retained"
    TRUNCATED = "response_truncated"
    TOMBSTONE = "answer_no_longer_kept"
    COMPENSATED = "compensated"
    OTHER_REQUEST = "key_used_with_another_request"
    OTHER_EPOCH = "in_flight_in_another_epoch"
    IN_FLIGHT = "in_flight"
    NOT_IN_DOUBT = "not_in_doubt"
    SENT_SINCE = "sent_again_since"
    NO_SUCH_CALL = "no_such_call"
    NO_IDENTITY = "no_run_incarnation_or_key"
    PREDECESSOR = "unresolved_predecessor"
    DIVERGENCE = "replay_divergence"
    CONTRADICTED = "outcome_contradicts_not_applied"


class Code(StrEnum):
    """Error codes of the wire that calls use."""

    CONFLICT = "conflict"
    HELD = "held"
    IN_DOUBT = "in_doubt"
    IN_FLIGHT = "in_flight"
    NOT_FOUND = "not_found"
    REPLAY_DIVERGENCE = "replay_divergence"


# Events


@dataclass(frozen=True, slots=True)
class Asked:
    """The agent asks for this call, for the first time or again.

    `draft` is the call as asked now, with the asker's epoch. With `wait_s` over 0 it must wait
    its turn (queue, approval). `gap_ms`: the run was taken over from another pod, and records of
    this step may be lost that were written from then on (store time); 0: none is. `is_blind`: so
    may records of any age.
    """

    draft: Call
    level: Level = Level.NODE
    wait_s: float = 0.0
    gap_ms: int = 0
    is_blind: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt ended. `outcome.kind` is RESULT, or NOT_RETAINED if its body was not kept."""

    attempt: int
    ending: Ending
    outcome: Outcome = NOTHING
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Restarted:
    """A sidecar's restart, a takeover or a new incarnation: who sent it is gone."""


@dataclass(frozen=True, slots=True)
class Reported:
    """Who executes the last attempt is still there and says how it stands, under a new epoch."""

    life: Life
    epoch: int


@dataclass(frozen=True, slots=True)
class Probed:
    """The upstream was asked. `sent_ms`: store time read *before* the probe was sent."""

    attempt: int
    applied: bool
    sent_ms: int
    outcome: Outcome = NOTHING


@dataclass(frozen=True, slots=True)
class Resolved:
    """Somebody with the authority decides. `outcome` is what to answer, if applied.

    `attempt` is the newest that was known when it was decided, `at_ms` store time then: what was
    sent later it does not speak of. `None`: of all, just now.
    """

    resolution: Resolution
    by: str
    why: str = ""
    force: bool = False
    outcome: Outcome = NOTHING
    attempt: int | None = None
    at_ms: int | None = None


Event: TypeAlias = Asked | Ended | Restarted | Reported | Probed | Resolved


# Effects that are records, in the order of the log. Times are store time.


@dataclass(frozen=True, slots=True)
class WriteIntent:
    """Record `intent`: the call is accepted, as given."""

    call: Call


@dataclass(frozen=True, slots=True)
class WriteDispatched:
    """Record `dispatched`; the next effect waits until it is durable at `level`."""

    attempt: int
    epoch: int
    level: Level
    at_ms: int


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """Record `outcome` of the kind that `outcome` names."""

    attempt: int
    outcome: Outcome
    at_ms: int


@dataclass(frozen=True, slots=True)
class WriteNotApplied:
    """Record `outcome` of kind `not_applied`: this attempt did nothing."""

    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class WriteDoubt:
    """Record `outcome` of kind `in_doubt`. A restart needs none: the `claimed` record tells."""

    attempt: int
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class WriteResolved:
    """Record `resolved`: decided by `by` (an operator, or `probe`)."""

    resolution: Resolution
    by: str
    why: str
    outcome: Outcome
    at_ms: int


# Effects that act. Those that answer the agent do nothing when nobody waits.


@dataclass(frozen=True, slots=True)
class Send:
    """Make the attempt, under this key where the upstream takes one."""

    attempt: int
    upstream_key: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask the upstream, and feed back `Probed`.

    A "no" counts if the probe is sent in `settled_in_s` or later; `None`: never.
    """

    attempt: int
    settled_in_s: float | None


@dataclass(frozen=True, slots=True)
class Wait:
    """After this delay, or sooner if the call changes: `Asked` again, if somebody still waits."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Join:
    """Wait for the attempt in flight, then `Asked` again."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Answer from the record."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Deliver:
    """Give the agent what came (or its failure to come). Not final: an equal ask is this call."""

    final: bool


@dataclass(frozen=True, slots=True)
class Hold:
    """Answer 424: only a decision, or knowledge that comes late, lets it go on."""

    code: Code
    reason: str
    calls: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with this status; nothing of the call changed."""

    code: Code
    http_status: int
    reason: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Alarm:
    """Tell people: what was decided turns out to be wrong."""

    reason: str


CallEffect: TypeAlias = (
    WriteIntent
    | WriteDispatched
    | WriteOutcome
    | WriteNotApplied
    | WriteDoubt
    | WriteResolved
    | Send
    | Probe
    | Wait
    | Join
    | Replay
    | Deliver
    | Hold
    | Refuse
    | Alarm
)


@dataclass(frozen=True, slots=True)
class Decision:
    """The call as it is once the records among the effects are folded; what to do, in order.

    `state` is `None` if nothing is to be remembered of the call.
    """

    state: Call | None
    effects: tuple[CallEffect, ...] = ()
