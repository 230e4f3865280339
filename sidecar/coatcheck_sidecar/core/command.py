"""Commands from outside: what an operator, or another program, wants of a run.

The owner of a run carries them out; an unowned one is appended to by whoever brings the command.
Both decide here what goes into the log. A refused command is recorded too: its sender waits for
its id to appear.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgpack

from coatcheck_sidecar.core.call import decide
from coatcheck_sidecar.core.call_events import Reason, Resolution
from coatcheck_sidecar.core.call_events import Resolved as ResolveCall
from coatcheck_sidecar.core.doubt import Rules
from coatcheck_sidecar.core.model import NO_BODY, RUN_ID, Body, Outcome, OutcomeKind, Status
from coatcheck_sidecar.core.objects import BadObject, Kind, seal, unseal
from coatcheck_sidecar.core.record import Commanded, Event, Failed, Held, Signalled
from coatcheck_sidecar.core.recorded import decode_head
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.core.undo import irreversible, successor
from coatcheck_sidecar.core.undo_records import END, RESUBMIT, Compensating
from coatcheck_sidecar.core.writes import event_of, undo_event

SIGNALS_MAX: Final = 256
"""Signals a run keeps unread; a head stays small, and a run that reads none is stuck."""
WHATS: Final = frozenset({"signal", "resolve", "cancel", "retry", "compensate", "rewind"})
TEXT_MAX: Final = 1_000
"""Characters of each text of a command: it stays in the head until a checkpoint, or longer."""
REWIND: Final = "rewind"
"""How the reason of a run begins that was stopped to be set back."""
THENS: Final = frozenset({"", END, RESUBMIT})
VERDICTS: Final = frozenset({"", *Resolution})


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command. `value` is msgpack, as the agent's SDK decodes it."""

    id: str
    run: str
    what: str
    """`signal`, `resolve`, `cancel`, `retry`, `compensate` or `rewind`."""
    by: str
    why: str = ""
    name: str = ""
    """Of a signal; of a rewind: the code version whose newest checkpoint is meant."""
    to: int = 0
    """Of a rewind: the checkpoint's place in the log; 0: it is named by its code version."""
    call: int = 0
    """Of a resolve: the call's number."""
    verdict: str = ""
    """Of a resolve: a `Resolution`."""
    force: bool = False
    value: bytes | None = None
    head: bytes = b""
    """Of a resolve whose value is the body of an HTTP answer: its status and headers, as kept."""
    attempt: int = 0
    """Of a resolve: the newest attempt when it was decided."""
    then: str = ""
    """Of a compensate: `end` (also if left out) or `resubmit`."""
    at_ms: int = 0
    """Of a resolve: store time when it was decided. It may be carried out much later."""


def encode_command(command: Command) -> bytes:
    """The object put into an owner's inbox."""
    fields = {name: getattr(command, name) for name in Command.__slots__}
    for name in ("head", "to"):
        if not fields[name]:
            del fields[name]
    return seal(Kind.COMMAND, msgpack.packb(fields))


def decode_command(name: str, data: bytes) -> Command:
    """Inverse of `encode_command`; raises `BadObject`."""
    payload, _ = unseal(name, data, kind=Kind.COMMAND)
    try:
        raw: dict[str, Any] = msgpack.unpackb(payload)
        command = Command(**{k: v for k, v in raw.items() if k in Command.__slots__})
        if command.head:
            decode_head(command.head)
    except (AttributeError, TypeError, ValueError) as error:
        raise BadObject(f"{name}: not a command: {error}") from error
    if not _is_typed(command):
        raise BadObject(f"{name}: not a command: a field has the wrong type or is too long")
    if command.what not in WHATS or command.verdict not in VERDICTS:
        what = f"{command.what} {command.verdict}".strip()
        raise BadObject(f"{name}: unknown command {what!r}; upgrade this sidecar")
    if command.then not in THENS:
        raise BadObject(f"{name}: unknown `then` {command.then!r:.40}; upgrade this sidecar")
    if command.what == "resolve" and not command.verdict:
        raise BadObject(f"{name}: a resolve without a verdict")
    if command.what == "resolve" and not command.at_ms:
        raise BadObject(f"{name}: a resolve that does not say when it was decided")
    return command


def _is_typed(command: Command) -> bool:
    """Whoever can write to the store can put anything there: an owner must not stumble over it."""
    kinds = {
        **dict.fromkeys(("call", "attempt", "at_ms", "to"), (int,)),
        "force": (bool,),
        "value": (bytes, type(None)),
        "head": (bytes,),
    }
    return all(
        type(value) in kinds.get(name, (str,))
        and (type(value) is not str or len(value) <= TEXT_MAX)
        for name in Command.__slots__
        for value in [getattr(command, name)]
    )


def decide_command(state: RunState, command: Command, *, now_ms: int, rules: Rules) -> list[Event]:
    """What to append; the last event carries the command's id. Store time, as all of the log."""
    if state.status.is_final and not _settles(state, command):
        return [_refused(command, f"run {state.run} is {state.status}")]
    match command.what:
        case "signal":
            return [_signal(state, command)]
        case "resolve":
            return _resolve(state, command, now_ms=now_ms, rules=rules)
        case "cancel":
            why = f"cancelled by {command.by}: {command.why}"
            return [_done(command), Failed(error=why, is_cancelled=True)]
        case "compensate":
            return [_compensate(state, command)]
        case "rewind":
            return _stop(state, command)
        case _:
            return [_retry(state, command)]


def _settles(state: RunState, command: Command) -> bool:
    """It only says what took place, which may turn out after the run is over; nothing is sent."""
    is_said = command.what == "resolve" and command.verdict in ("applied", "not_applied")
    return is_said and command.call in state.calls


def _signal(state: RunState, command: Command) -> Event:
    if len(state.signals) >= SIGNALS_MAX:
        return _refused(command, f"{SIGNALS_MAX} signals of run {state.run} are unread")
    value = NO_BODY if command.value is None else Body(command.value)
    return Signalled(name=command.name, value=value, by=command.by, command=command.id)


def _resolve(state: RunState, command: Command, *, now_ms: int, rules: Rules) -> list[Event]:
    value = NO_BODY if command.value is None else Body(command.value)
    event = ResolveCall(
        Resolution(command.verdict),
        command.by,
        command.why,
        force=command.force,
        outcome=Outcome(OutcomeKind.RESULT, value, command.head),
        attempt=command.attempt,
        at_ms=command.at_ms,
    )
    call = state.calls.get(command.call)
    decision = decide(call, event, now_ms=now_ms, patience_s=0.0, rules=rules)
    (effect,) = decision.effects
    written = event_of(effect, call=command.call, command=command.id)
    if written is not None:
        is_over = state.status.is_final
        undo = None if is_over else undo_event(decision, call=command.call)
        return [written] if undo is None else [undo, written]
    wait_s = getattr(effect, "retry_after_s", None)
    reason = getattr(effect, "reason", effect)
    later = f"; in {wait_s:.0f} s, or with --force" if wait_s else ""
    if reason in (Reason.SENT_SINCE, Reason.NOT_SETTLED) and not wait_s:
        later = "; look again, and decide anew"
    return [_refused(command, f"call {command.call}: {reason}{later}")]


def _retry(state: RunState, command: Command) -> Event:
    if state.status is not Status.HELD:
        return _refused(command, f"run {state.run} is {state.status}, not held")
    if state.in_doubt:
        numbers = [call.number for call in state.in_doubt]
        return _refused(command, f"calls {numbers} are in doubt: resolve them first")
    return _done(command)


def _stop(state: RunState, command: Command) -> list[Event]:
    """Its owner gives the run up for a rewind, and nobody takes it up before that is done."""
    if state.compensating is not None:
        return [_refused(command, f"run {state.run} is being taken back")]
    return [_done(command), Held(reason=f"{REWIND}: by {command.by}")]


def _compensate(state: RunState, command: Command) -> Event:
    if state.compensating is not None:
        return _refused(command, f"run {state.run} is being taken back already")
    in_the_way = irreversible(state)
    if in_the_way is not None:
        return _refused(command, f"{in_the_way}: run {state.run} goes forward")
    then = command.then or END
    if then == RESUBMIT and not RUN_ID.fullmatch(successor(state.run)):
        return _refused(command, f"{successor(state.run)!r} is too long for a run's name")
    return Compensating(then=then, by=command.by, why=command.why, command=command.id)


def _done(command: Command) -> Commanded:
    return Commanded(what=command.what, by=command.by, why=command.why, command=command.id)


def _refused(command: Command, reason: str) -> Commanded:
    """Without its `why`: refusals stay in the head for a while, up to `COMMANDS_MAX` of them."""
    return Commanded(what=command.what, by=command.by, command=command.id, refused=reason)
