"""The records of a run's log, and their bytes.

A record carries absolute values, never increments ("this is crash 3", not "one more crash"), so
that a record which a newer one supersedes can be left out of the log and nothing changes. That is
what keeps a head small however old its run grows (`runlog.py` has the rule and its test).

Encoded: msgpack `[seq, epoch, kind, at_ms, {field: value}]`, fields at their default left out.
"""

from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar, Final, get_args, get_origin, get_type_hints

import msgpack

from coatcheck_sidecar.core.blob_records import Blob, Dropped
from coatcheck_sidecar.core.model import NO_BODY, Body, CallClass, ObjectRef, OutcomeKind
from coatcheck_sidecar.core.plain import take, take_all
from coatcheck_sidecar.core.undo_records import Compensated, Compensating, Undo

DIGEST_BYTES: Final = 32
"""SHA-256."""


class BadRecord(ValueError):  # noqa: N818 - named for what was read
    """Bytes that are not a record this release can read; the message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """The run exists. Its first record."""

    kind: ClassVar[str] = "created"
    queue: str = "default"
    input: Body | None = None
    schema: int = 1
    code_version: str = ""
    pinned: bool = False
    deadline_ms: int = 0
    """Store time by which the run is over; 0: it has no deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A new owner, under the epoch of the record. Calls in flight are in doubt from here."""

    kind: ClassVar[str] = "claimed"
    owner: str
    incarnation: bytes = b""
    address: str = ""
    code_version: str = ""
    cause: str = ""
    crashes: int = 0
    since: int = 0
    """The record by which this incarnation first claimed the run."""
    gap_ms: int = 0
    """Store time from which on records of a former owner may be lost; 0: none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A step is over; the state is `length` bytes, reached from the one before by `delta`."""

    kind: ClassVar[str] = "checkpoint"
    step: int
    step_high: int
    schema: int = 1
    code_version: str = ""
    length: int = 0
    consumed: tuple[int, ...] = ()
    """Sequence numbers of the signals that the step received."""
    worked_ms: int = 0
    """What all steps took until now, as the sidecars saw them that got their ends."""
    longest_ms: int = 0
    """What the longest of them took."""
    rewinds: int = 0
    """The older checkpoint (its place in the log) that this one makes current again; 0: none."""
    blind: int = 0
    """Calls of steps up to this one may have taken place without a record; 0: none may."""
    delta: Body = NO_BODY
    """Journal only: the head keeps deltas in a section of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """What a call's first record, its intent, says of it."""

    key: str
    step: int
    tool: str
    call_class: CallClass
    fingerprint: bytes
    upstream_key: str = ""
    is_named: bool = False
    business_key: str | None = None
    settle_s: float | None = None
    key_lifetime_s: float | None = None
    summary: str = ""
    is_relayed: bool = False
    handler: str = ""
    undo: str = ""
    is_irreversible: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A call is accepted; nothing was sent. Its first record: `call` is its number and this seq."""

    kind: ClassVar[str] = "intent"
    call: int
    birth: Birth


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatched:
    """About to send. From here, and until an outcome, a death means doubt."""

    kind: ClassVar[str] = "dispatched"
    call: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOutcome:
    """What became of an attempt: a result, known not to have happened, or not known."""

    kind: ClassVar[str] = "outcome"
    call: int
    attempt: int
    what: str
    """`done`, `not_applied` or `in_doubt`."""
    outcome: OutcomeKind | None = None
    body: Body = NO_BODY
    head: bytes = b""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Somebody with the authority decided what became of a call."""

    kind: ClassVar[str] = "resolved"
    call: int
    verdict: str
    """`applied`, `not_applied`, `retry` or `compensate`."""
    by: str
    why: str = ""
    command: str = ""
    body: Body = NO_BODY
    head: bytes = b""
    """As of an outcome: how the answer is given again over HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """Waits for a signal; no process is held."""

    kind: ClassVar[str] = "parked"
    name: str
    payload: Body = NO_BODY


@dataclass(frozen=True, slots=True, kw_only=True)
class Signalled:
    """A value from outside; a checkpoint of the step that received it consumes it."""

    kind: ClassVar[str] = "signalled"
    name: str
    value: Body = NO_BODY
    by: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commanded:
    """An operator's word: `cancel` or `retry`."""

    kind: ClassVar[str] = "commanded"
    what: str
    by: str
    why: str = ""
    command: str = ""
    refused: str = ""
    """Why it was not carried out; empty if it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """Nobody's: the next owner may come, not before `not_before_ms` (store time)."""

    kind: ClassVar[str] = "released"
    reason: str
    error: str = ""
    crashes: int = 0
    not_before_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Nobody's, and nobody may come until an operator decides."""

    kind: ClassVar[str] = "held"
    reason: str
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The result is there; the run is over."""

    kind: ClassVar[str] = "finished"
    result: Body = NO_BODY
    worked_ms: int = 0
    longest_ms: int = 0
    """As of a checkpoint, with the last step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The agent, or a cancellation (`is_cancelled`), gave up for good."""

    kind: ClassVar[str] = "failed"
    error: str
    is_cancelled: bool = False


Event = (
    Created | Claimed | Checkpoint | Intent | Dispatched | CallOutcome | Resolved
    | Parked | Signalled | Commanded | Released | Held | Finished | Failed
    | Undo | Compensating | Compensated | Blob | Dropped
)  # fmt: skip

CallEvent = Intent | Dispatched | CallOutcome | Resolved

BODY_FIELDS: Final[dict[type, str]] = {
    Created: "input",
    CallOutcome: "body",
    Resolved: "body",
    Parked: "payload",
    Signalled: "value",
    Finished: "result",
    Undo: "body",
    Blob: "parts",
}
"""Where a record has its body; a checkpoint's delta is none, see there."""
KINDS: Final[dict[str, type]] = {cls.kind: cls for cls in get_args(Event)}


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a log: its place, its owner's epoch, when (store time), and what."""

    seq: int
    epoch: int
    at_ms: int
    event: Event


def number_of(record: Record) -> int:
    """The call that it is of; else its own place, an undo's too, since it outlives its call."""
    event = record.event
    return event.call if isinstance(event, CallEvent) else record.seq


def bodies_of(record: Record) -> list[Body]:
    """The bodies that a record carries or names; a checkpoint's delta is none of them."""
    field = BODY_FIELDS.get(type(record.event))
    body = getattr(record.event, field) if field else None
    return [] if body is None else [body]


def with_body(record: Record, body: Body) -> Record:
    """The same record with its one body replaced."""
    changed: Any = {BODY_FIELDS[type(record.event)]: body}
    return replace(record, event=replace(record.event, **changed))


def pack_body(body: Body, *, inline: bool) -> Any:
    """Bytes, or `[name, digest, length]`, or nil; `inline` prefers the bytes."""
    if body.data is not None and (inline or body.ref is None):
        return body.data
    return pack_ref(body.ref)


def unpack_body(raw: Any) -> Body:
    """Inverse of `pack_body`."""
    if raw is None or isinstance(raw, bytes):
        return Body(raw)
    return Body(None, unpack_ref(raw))


def pack_ref(ref: ObjectRef | None) -> list[Any] | None:
    """`[name, digest, length]`."""
    return None if ref is None else [ref.name, ref.digest, ref.length]


def unpack_ref(raw: Any) -> ObjectRef:
    """Inverse of `pack_ref`; raises `BadRecord`."""
    name, digest, length = take(raw, str, bytes, int)
    if len(digest) != DIGEST_BYTES or length < 0:
        raise BadRecord(f"the reference to {name} has no digest of {DIGEST_BYTES} bytes or length")
    return ObjectRef(name, digest, length)


def encode_record(record: Record, *, inline: bool = True) -> bytes:
    """Bytes of a record; without `inline`, bodies that have an object are named, not carried."""
    packed: bytes = msgpack.packb(to_fields(record, inline=inline))
    return packed


def to_fields(record: Record, *, inline: bool) -> list[Any]:
    """The msgpack array of a record."""
    event = record.event
    return [record.seq, record.epoch, event.kind, record.at_ms, _pack(event, inline=inline)]


def decode_record(data: bytes) -> Record:
    """Inverse of `encode_record`; raises `BadRecord`."""
    try:
        raw = msgpack.unpackb(data)
    except ValueError as error:
        raise BadRecord(f"a record is not msgpack: {error}") from error
    return from_fields(raw)


def from_fields(raw: Any) -> Record:
    """Inverse of `to_fields`; raises `BadRecord`."""
    try:
        seq, epoch, kind, at_ms, values = take(raw, int, int, str, int, dict)
    except ValueError as error:
        raise BadRecord(f"a record is not [seq, epoch, kind, at_ms, {{...}}]: {error}") from error
    cls = KINDS.get(kind)
    if cls is None:
        raise BadRecord(
            f"record {seq} is of kind {kind!r:.40}, which this release does not know: upgrade it"
        )
    try:
        return Record(seq, epoch, at_ms, _unpack(cls, values))
    except (TypeError, ValueError) as error:
        raise BadRecord(f"record {seq} ({kind}): {error}") from error


# Encoding is by the dataclass: a codec a field type, chosen once for each class.


def _pack(value: Any, *, inline: bool) -> dict[str, Any]:
    packed = {}
    for name, default, kind in _PLANS[type(value)]:
        field = getattr(value, name)
        if name == "delta" and not inline:
            continue
        if field == default and default is not MISSING:
            continue
        if kind is Body:
            field = pack_body(field, inline=inline)
        elif kind is Birth:
            field = _pack(field, inline=inline)
        elif kind is CallClass or kind is OutcomeKind:
            field = field.value
        packed[name] = field
    return packed


def _unpack(cls: type, values: dict[str, Any]) -> Any:
    known: dict[str, Any] = {}
    for name, _, kind in _PLANS[cls]:
        if name not in values:
            continue
        raw = values[name]
        if kind is Body:
            known[name] = unpack_body(raw)
        elif kind is Birth and type(raw) is dict:
            known[name] = _unpack(Birth, raw)
        elif kind is CallClass or kind is OutcomeKind:
            known[name] = kind(raw)
        elif kind is tuple:
            known[name] = take_all(raw, int)
        elif type(raw) is kind or (kind is float and type(raw) is int):
            known[name] = raw
        else:
            raise BadRecord(f"{name} is {raw!r:.40}, not {kind.__name__}")
    return cls(**known)


def _plan(cls: type) -> tuple[tuple[str, Any, Any], ...]:
    hints = get_type_hints(cls)
    return tuple((f.name, f.default, _codec(hints[f.name])) for f in fields(cls))


def _codec(hint: Any) -> Any:
    if get_origin(hint) is tuple:
        return tuple
    return next(option for option in (*get_args(hint), hint) if option is not type(None))


_PLANS: Final = {cls: _plan(cls) for cls in (*KINDS.values(), Birth)}
