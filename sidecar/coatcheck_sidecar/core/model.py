"""The values that every other part speaks of. Frozen, plain, without behaviour of their own."""

import re
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Run and queue names: safe in an object's name, a URL and a shell."""


class Status(StrEnum):
    """Where a run stands. `OWNED` is the only one in which somebody works on it."""

    READY = "ready"
    OWNED = "owned"
    PARKED = "parked"
    HELD = "held"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    COMPENSATING = "compensating"
    """What it did is to be taken back, and nobody is at it right now."""
    COMPENSATED = "compensated"

    @property
    def is_final(self) -> bool:
        """No step will follow."""
        return self in FINAL


FINAL: Final = frozenset({Status.FINISHED, Status.FAILED, Status.CANCELLED, Status.COMPENSATED})


class Level(StrEnum):
    """How far an acknowledgement reaches: what must die before it is lost."""

    PROCESS = "process"
    NODE = "node"
    REMOTE = "remote"


class Effect(StrEnum):
    """What sending a call a second time would do; declared by the tool's author."""

    READ = "read"
    IDEMPOTENT = "idempotent"
    ONCE = "once"


class CallClass(Enum):
    """The columns of the call table: an effect, refined by what the upstream can do."""

    READ = "R"
    IDEMPOTENT = "I"
    KEYED = "K"
    PROBED = "P"
    ONCE = "U"

    @property
    def is_guarded(self) -> bool:
        """Of effect `once`: leaves only after its `dispatched` is in the head."""
        return self in (CallClass.PROBED, CallClass.ONCE)


class CallState(StrEnum):
    """Where a call stands; see the table in `call.py`. A call not in the log is new."""

    INTENT = "intent"
    DISPATCHED = "dispatched"
    DONE = "done"
    NOT_APPLIED = "not_applied"
    IN_DOUBT = "in_doubt"
    COMPENSATED = "compensated"
    TOMBSTONE = "tombstone"


class OutcomeKind(StrEnum):
    """What is known of a call that is done."""

    RESULT = "result"
    """The answer, whole; it may be an error that the upstream says is final."""
    TRUNCATED = "truncated"
    """The head of the answer came, its body was cut: applied, and part of the answer is lost."""
    UNKNOWN = "unknown"
    """The upstream failed after it took the request (5xx): replayed, never fired again."""
    NOT_RETAINED = "not_retained"
    """Applied, and the answer was too big to keep."""


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """An immutable object of a run, named by its head. Digest is SHA-256 of the whole object."""

    name: str
    digest: bytes
    length: int


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes that belong to a record: inline, or set aside in an object once shipped."""

    data: bytes | None
    ref: ObjectRef | None = None


NO_BODY: Final = Body(None)
UNDO_KEY: Final = "undo:"
"""How the key of a call begins that takes another back; no agent can give one that does."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back. `head` is what the way in needs to answer alike (status, headers)."""

    kind: OutcomeKind
    body: Body
    head: bytes = b""


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call of a run, as its records tell it."""

    number: int
    """Sequence number of its first record: its name for operators, unique in the run."""
    key: str
    """Its identity in the run (see `policy.py`)."""
    step: int
    tool: str
    call_class: CallClass
    fingerprint: bytes
    state: CallState
    attempt: int = 0
    epoch: int = 0
    """The epoch of the last dispatch."""
    upstream_key: str = ""
    first_sent_ms: int = 0
    """Store time of the first dispatch: from here a key's lifetime runs."""
    last_sent_ms: int = 0
    """The last moment at which a send was possible: from here a probe must settle."""
    is_named: bool = False
    """The key is the agent's or a business key: it leaves a tombstone."""
    business_key: str | None = None
    outcome: Outcome | None = None
    reason: str = ""
    earlier_doubt: bool = False
    """An attempt in doubt was followed by another under the same key: what is known of the last
    attempt does not settle the call."""
    settle_s: float | None = None
    key_lifetime_s: float | None = None
    summary: str = ""
    """A short rendering of the arguments for an operator; never credentials."""
    is_relayed: bool = False
    """The sidecar makes the attempts: no agent can say how they stand."""
    handler: str = ""
    """The agent's function that takes the call back."""
    undo: str = ""
    """The request that does: a template, see `undo_template.py`."""
    is_irreversible: bool = False

    @property
    def is_undo(self) -> bool:
        """It takes another call of the run back."""
        return self.key.startswith(UNDO_KEY)

    @property
    def is_unsettled(self) -> bool:
        """In doubt, or done with its effect unknown: somebody or something must decide.

        Never a read or an idempotent call: those are sent again without harm. But for an undo:
        nobody else asks for it again.
        """
        if self.call_class in (CallClass.READ, CallClass.IDEMPOTENT) and not self.is_undo:
            return False
        if self.state is CallState.DONE and self.outcome is not None:
            return self.outcome.kind is OutcomeKind.UNKNOWN
        return self.state is CallState.IN_DOUBT

    @property
    def is_decidable(self) -> bool:
        """Somebody may say what became of it.

        It is unsettled, or its answer is needed to take it back, or it is an undo that may have
        been done by hand.
        """
        if self.is_unsettled:
            return True
        if self.state is CallState.IN_DOUBT:
            return bool(self.handler or self.undo or self.is_irreversible)
        return self.is_undo and self.state in (CallState.INTENT, CallState.NOT_APPLIED)

    @property
    def lacks_answer(self) -> bool:
        """It took place, and there is no whole answer to give again."""
        lost = (OutcomeKind.NOT_RETAINED, OutcomeKind.TRUNCATED)
        is_done = self.state is CallState.DONE
        return is_done and self.outcome is not None and self.outcome.kind in lost

    @property
    def is_open(self) -> bool:
        """Accepted or sent, and nothing known of it yet."""
        return self.state in (CallState.INTENT, CallState.DISPATCHED, CallState.NOT_APPLIED)
