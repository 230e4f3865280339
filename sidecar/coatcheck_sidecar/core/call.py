"""The tool-call table: what to do when something happens to a call.

**Only `Asked` sends.** Every other event adds to what is known, and lets whoever waits ask again.
So one function sends, `_send`, and it writes `dispatched` first: at the tool's level, and in the
head for guarded calls. Nothing is served before the fingerprint was compared.

    what is known                          state        Asked gives
    accepted, waits its turn               INTENT       send
    about to be sent, or sent              DISPATCHED   join it
    refused before anything was done       NOT_APPLIED  send, same upstream key
    nobody knows; its sender is gone       IN_DOUBT     R, I: send, that does no harm
                                                        K: send while the key lives, else hold
                                                        P: probe; a "no" counts once settled
                                                        U: hold until somebody decides
    answered, and the answer stays         DONE         replay
    decided: it was undone                 COMPENSATED  hold
    answered long ago                      TOMBSTONE    hold

How an attempt's end leads from DISPATCHED to the others is `TABLE`; a restart leads to IN_DOUBT,
and out of it leads what a late answer, a probe or an operator says. A read writes nothing before
its answer, and nothing at all if its answer is not kept. DONE, once reached, stays: later news of
any attempt is answered from the record.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final, assert_never

from coatcheck_sidecar.core.call_events import (
    Alarm,
    Asked,
    CallEffect,
    Code,
    Decision,
    Deliver,
    Ended,
    Ending,
    Event,
    Hold,
    Join,
    Life,
    Probed,
    Reason,
    Refuse,
    Replay,
    Reported,
    Resolution,
    Resolved,
    Restarted,
    Send,
    Wait,
    WriteDispatched,
    WriteDoubt,
    WriteIntent,
    WriteNotApplied,
    WriteOutcome,
    WriteResolved,
)
from coatcheck_sidecar.core.call_state import (
    with_dispatched,
    with_doubt,
    with_not_applied,
    with_outcome,
    with_resolved,
    with_restart,
)
from coatcheck_sidecar.core.doubt import Rules, aged, may_begin, obstacle, unsettled_s
from coatcheck_sidecar.core.model import Call, CallClass, CallState, Level, OutcomeKind

RETRY_DELAY_S: Final = 0.5
"""Before the second attempt; doubled for each further one, as the SDKs of model APIs do."""
RETRY_DELAY_MAX_S: Final = 8.0
"""The same SDKs' cap."""
OTHER_EPOCH_RETRY_S: Final = 1.0
"""A claim settles what another epoch has in flight; that takes a round trip or two."""
AGAIN: Final = Wait(0.0)
"""Whoever waits asks again: the state alone says what it gets."""


class Action(Enum):
    """The cells of the table."""

    RETRY = auto()
    """Not applied: after a delay if the agent can wait that long, else deliver. Never final."""
    GIVE = auto()
    """Not applied: deliver at once; the agent may ask again."""
    DOUBT = auto()
    """Nobody knows: R, I resend; K resends while its key lives, else is held; P probes; U holds."""
    KEEP = auto()
    """The answer is final."""
    KEEP_PART = auto()
    """Applied, part of the answer is lost: final."""
    KEEP_UNKNOWN = auto()
    """Taken by the upstream, effect unknown: replayed, never fired again."""


RETRY, GIVE, DOUBT = Action.RETRY, Action.GIVE, Action.DOUBT
KEEP, KEEP_PART, KEEP_UNKNOWN = Action.KEEP, Action.KEEP_PART, Action.KEEP_UNKNOWN

TABLE: Final[Mapping[Ending, tuple[Action, Action, Action, Action, Action]]] = {
    # how the attempt ended  R      I      K      P      U
    Ending.NOT_SENT:        (RETRY, RETRY, RETRY, RETRY, RETRY),
    Ending.LOST:            (DOUBT, DOUBT, DOUBT, DOUBT, DOUBT),
    Ending.CUT:             (DOUBT, DOUBT, DOUBT, DOUBT, KEEP_PART),
    Ending.SHED:            (RETRY, RETRY, RETRY, RETRY, RETRY),
    Ending.BUSY:            (DOUBT, DOUBT, DOUBT, DOUBT, DOUBT),
    Ending.ERROR:           (DOUBT, DOUBT, DOUBT, DOUBT, KEEP_UNKNOWN),
    Ending.ERROR_SAVED:     (DOUBT, DOUBT, KEEP,  DOUBT, KEEP_UNKNOWN),
    Ending.DENIED:          (GIVE,  GIVE,  GIVE,  GIVE,  GIVE),
    Ending.CONFLICT:        (KEEP,  KEEP,  DOUBT, KEEP,  KEEP),
    Ending.REJECTED:        (KEEP,  KEEP,  KEEP,  KEEP,  KEEP),
    Ending.FINAL:           (KEEP,  KEEP,  KEEP,  KEEP,  KEEP),
}  # fmt: skip
COLUMN: Final = {call_class: place for place, call_class in enumerate(CallClass)}

KEPT: Final = frozenset({KEEP, KEEP_PART, KEEP_UNKNOWN})
RESENDABLE: Final = frozenset({CallClass.READ, CallClass.IDEMPOTENT})
"""Sending these again does no harm, whatever became of earlier attempts."""


@dataclass(frozen=True, slots=True)
class _Now:
    now_ms: int
    patience_s: float
    rules: Rules

    def obstacle(self, call: Call) -> CallEffect | None:
        return obstacle(call, now_ms=self.now_ms, rules=self.rules)

    def unsettled_s(self, call: Call) -> float:
        return unsettled_s(call, at_ms=self.now_ms, rules=self.rules)


def is_kept(ending: Ending, call_class: CallClass) -> bool:
    """An attempt that ends so ends its call: the answer is the agent's, and nothing is retried."""
    return TABLE[ending][COLUMN[call_class]] in KEPT


def decide(
    call: Call | None, event: Event, *, now_ms: int, patience_s: float, rules: Rules
) -> Decision:
    """What becomes of `call` (`None`: not in the log) by `event`.

    `now_ms` is store time, read before anything is sent. `patience_s` is how much longer the
    agent's request can be kept waiting: 0 if nobody waits, or part of an answer went out to it.
    """
    now = _Now(now_ms, patience_s, rules)
    match event:
        case Asked():
            return _new(event, now) if call is None else _asked(call, event, now=now)
        case Resolved():
            return _resolved(call, event, now=now)
        case Ended():
            return Decision(call, (AGAIN,)) if call is None else _ended(call, event, now=now)
        case Probed():
            return Decision(call, (AGAIN,)) if call is None else _probed(call, event, now=now)
        case Reported():
            return Decision(call) if call is None else _reported(call, event, now=now)
        case Restarted():
            return Decision(call) if call is None else _restarted(call, now)
        case _:
            assert_never(event)


# Asked


def _new(event: Asked, now: _Now) -> Decision:
    draft, may_go = event.draft, True
    is_loose = event.gap_ms and event.level is not Level.REMOTE  # in the head it is never missing
    if draft.call_class is CallClass.KEYED and (is_loose or event.is_blind):
        since_ms = 0 if event.is_blind else event.gap_ms
        draft = aged(draft, since_ms=since_ms, now_ms=now.now_ms)
        may_go = may_begin(draft, rules=now.rules)
    may_go = may_go and not (event.is_blind and draft.call_class.is_guarded)
    opening = () if draft.call_class is CallClass.READ else (WriteIntent(draft),)
    if may_go:
        sent = _send(draft, event, now=now)
        return Decision(sent.state, (*opening, *sent.effects))
    doubted = with_doubt(draft, Reason.RECORD_MISSING, at_ms=now.now_ms)
    write = WriteDoubt(draft.attempt, Reason.RECORD_MISSING, now.now_ms)
    return Decision(doubted, (*opening, write, AGAIN))


def _asked(call: Call, event: Asked, *, now: _Now) -> Decision:
    if call.fingerprint != event.draft.fingerprint:
        return Decision(call, (Refuse(Code.CONFLICT, 422, Reason.OTHER_REQUEST),))
    match call.state:
        case CallState.INTENT | CallState.NOT_APPLIED:
            return _send(call, event, now=now)
        case CallState.DISPATCHED:
            return Decision(call, (_join(call, event),))
        case CallState.IN_DOUBT:
            return _asked_in_doubt(call, event, now=now)
        case CallState.DONE:
            return _replay(call, event, now=now)
        case CallState.COMPENSATED:
            return Decision(call, (Hold(Code.HELD, Reason.COMPENSATED, (call.number,)),))
        case CallState.TOMBSTONE:
            return Decision(call, (Hold(Code.HELD, Reason.TOMBSTONE, (call.number,)),))
        case _:
            assert_never(call.state)


def _send(call: Call, event: Asked, *, now: _Now) -> Decision:
    """Send the next attempt: the only place that does."""
    if event.wait_s > 0:
        return Decision(call, (Wait(event.wait_s),))
    attempt = call.attempt + 1
    epoch = event.draft.epoch
    level = Level.REMOTE if call.call_class.is_guarded else event.level
    write = WriteDispatched(attempt, epoch, level, now.now_ms)
    sent = with_dispatched(call, attempt=attempt, epoch=epoch, at_ms=now.now_ms)
    return Decision(sent, (*_records(call, write), Send(attempt, call.upstream_key)))


def _join(call: Call, event: Asked) -> CallEffect:
    if call.epoch == event.draft.epoch:
        return Join()
    return Refuse(Code.IN_FLIGHT, 409, Reason.OTHER_EPOCH, OTHER_EPOCH_RETRY_S)


def _asked_in_doubt(call: Call, event: Asked, *, now: _Now) -> Decision:
    obstacle = now.obstacle(call)
    return _send(call, event, now=now) if obstacle is None else Decision(call, (obstacle,))


def _replay(call: Call, event: Asked, *, now: _Now) -> Decision:
    if call.outcome is not None and call.outcome.kind is not OutcomeKind.NOT_RETAINED:
        return Decision(call, (Replay(call.outcome),))
    if call.call_class in RESENDABLE:
        return _send(call, event, now=now)
    return Decision(call, (Hold(Code.HELD, Reason.NOT_RETAINED, (call.number,)),))


# Ended


def _ended(call: Call, event: Ended, *, now: _Now) -> Decision:
    action = TABLE[event.ending][COLUMN[call.call_class]]
    keeps = action in KEPT
    is_ours = event.attempt == call.attempt
    is_later_sent = call.call_class.is_guarded and event.attempt < call.attempt
    match call.state:
        case CallState.NOT_APPLIED if keeps and event.ending is not Ending.REJECTED:
            kept = _keep(call, event, action=action, now=now)
            return _with_alarm(kept) if is_ours or is_later_sent else kept
        case CallState.DISPATCHED | CallState.IN_DOUBT if keeps and is_later_sent:
            return _with_alarm(Decision(call, (AGAIN,)))
        case CallState.DISPATCHED | CallState.IN_DOUBT if keeps:
            return _keep(call, event, action=action, now=now)
        case CallState.DISPATCHED | CallState.IN_DOUBT if is_ours:
            return _not_kept(call, event, action=action, now=now)
        case _:
            return Decision(call, (AGAIN,))


def _with_alarm(decision: Decision) -> Decision:
    return Decision(decision.state, (*decision.effects, Alarm(Reason.CONTRADICTED)))


def _keep(call: Call, event: Ended, *, action: Action, now: _Now) -> Decision:
    if call.call_class is CallClass.READ:
        return _keep_read(call, event, now=now)
    outcome = event.outcome
    if action is KEEP_PART:
        outcome = replace(outcome, kind=OutcomeKind.TRUNCATED)
    elif action is KEEP_UNKNOWN:
        outcome = replace(outcome, kind=OutcomeKind.UNKNOWN)
    done = with_outcome(call, outcome, at_ms=now.now_ms)
    return Decision(done, (WriteOutcome(event.attempt, outcome, now.now_ms), Deliver(final=True)))


def _keep_read(call: Call, event: Ended, *, now: _Now) -> Decision:
    if event.outcome.kind is OutcomeKind.NOT_RETAINED:
        return Decision(None, (Deliver(final=True),))
    opened = replace(
        call,
        state=CallState.INTENT,
        attempt=0,
        first_sent_ms=0,
        last_sent_ms=0,
        reason="",
        earlier_doubt=False,
    )
    opening = () if call.number else (WriteIntent(opened),)
    done = with_outcome(opened, event.outcome, at_ms=now.now_ms)
    write = WriteOutcome(event.attempt, event.outcome, now.now_ms)
    return Decision(done, (*opening, write, Deliver(final=True)))


def _not_kept(call: Call, event: Ended, *, action: Action, now: _Now) -> Decision:
    if action is DOUBT:
        return _doubted(call, event, now=now)
    settled = with_not_applied(call, event.ending)
    write = WriteNotApplied(event.attempt, event.ending)
    then = _later(call, event, now=now) if action is RETRY else Deliver(final=False)
    return Decision(settled, (*_records(call, write), then))


def _doubted(call: Call, event: Ended, *, now: _Now) -> Decision:
    if call.state is CallState.IN_DOUBT:
        return Decision(call, (now.obstacle(call) or _later(call, event, now=now),))
    doubted = with_doubt(call, event.ending, at_ms=now.now_ms)
    write = WriteDoubt(event.attempt, event.ending, now.now_ms)
    then = now.obstacle(doubted) or _later(call, event, now=now)
    return Decision(doubted, (*_records(call, write), then))


def _later(call: Call, event: Ended, *, now: _Now) -> CallEffect:
    """Try again while the agent's request is open; else it gets what came, and may ask again."""
    doublings = min(call.attempt, 8) - 1
    delay_s = min(RETRY_DELAY_S * 2**doublings, RETRY_DELAY_MAX_S)
    if event.retry_after_s is not None:
        delay_s = event.retry_after_s
    return Wait(delay_s) if delay_s <= now.patience_s else Deliver(final=False)


# Doubt


def _probed(call: Call, event: Probed, *, now: _Now) -> Decision:
    if call.state is not CallState.IN_DOUBT or event.attempt != call.attempt:
        return Decision(call, (AGAIN,))
    if event.applied:
        told = Resolved(Resolution.APPLIED, "probe", outcome=event.outcome)
        return _settle(call, told, AGAIN, now=now)
    if call.settle_s is not None and not unsettled_s(call, at_ms=event.sent_ms, rules=now.rules):
        return _settle(call, Resolved(Resolution.NOT_APPLIED, "probe"), AGAIN, now=now)
    left_s = now.unsettled_s(call)
    if call.settle_s is not None and left_s <= now.patience_s:
        return Decision(call, (Wait(left_s),))
    return Decision(call, (Hold(Code.IN_DOUBT, Reason.NOT_SETTLED, (call.number,)),))


def _resolved(call: Call | None, event: Resolved, *, now: _Now) -> Decision:
    if call is None or call.call_class is CallClass.READ:
        return Decision(call, (Refuse(Code.NOT_FOUND, 404, Reason.NO_SUCH_CALL),))
    if call.state is CallState.DISPATCHED:
        return Decision(call, (Refuse(Code.IN_FLIGHT, 409, Reason.IN_FLIGHT),))
    is_given = call.lacks_answer and event.resolution is Resolution.APPLIED
    is_compensated = event.resolution is Resolution.COMPENSATE
    is_undone = is_compensated and call.state is CallState.DONE and not call.is_undo
    if not (call.is_decidable or is_given or is_undone):
        return Decision(call, (Refuse(Code.CONFLICT, 409, Reason.NOT_IN_DOUBT),))
    if event.resolution in (Resolution.NOT_APPLIED, Resolution.RETRY):
        if event.attempt not in (None, call.attempt):
            return Decision(call, (Refuse(Code.CONFLICT, 409, Reason.SENT_SINCE),))
        at_ms = now.now_ms if event.at_ms is None else min(event.at_ms, now.now_ms)
        if unsettled_s(call, at_ms=at_ms, rules=now.rules) and not event.force:
            left_s = now.unsettled_s(call)
            return Decision(call, (Refuse(Code.CONFLICT, 409, Reason.NOT_SETTLED, left_s),))
    return _settle(call, event, now=now)


def _settle(call: Call, event: Resolved, *then: CallEffect, now: _Now) -> Decision:
    settled = with_resolved(
        call, event.resolution, outcome=event.outcome, by=event.by, why=event.why
    )
    write = WriteResolved(event.resolution, event.by, event.why, event.outcome, now.now_ms)
    return Decision(settled, (*_records(call, write), *then))


# Lives of processes


def _restarted(call: Call, now: _Now) -> Decision:
    if call.state is not CallState.DISPATCHED:
        return Decision(call)
    doubted = with_restart(call, at_ms=now.now_ms)
    is_probed = call.call_class is CallClass.PROBED
    obstacle = now.obstacle(doubted) if is_probed else None
    return Decision(doubted, () if obstacle is None else (obstacle,))


def _reported(call: Call, event: Reported, *, now: _Now) -> Decision:
    """Believe it only of an attempt whose fate nothing else has told since."""
    is_waiting = call.state is CallState.IN_DOUBT and call.reason == Reason.RESTARTED
    if call.state is not CallState.DISPATCHED and not is_waiting:
        return Decision(call)
    if event.life is Life.UNSTARTED:
        write = WriteNotApplied(call.attempt, Ending.NOT_SENT)
        return Decision(with_not_applied(call, Ending.NOT_SENT), _records(call, write))
    level = Level.REMOTE if call.call_class.is_guarded else Level.PROCESS
    adopt = WriteDispatched(call.attempt, event.epoch, level, now.now_ms)
    running = with_dispatched(call, attempt=call.attempt, epoch=event.epoch, at_ms=now.now_ms)
    return Decision(running, _records(call, adopt))


def _records(call: Call, *writes: CallEffect) -> tuple[CallEffect, ...]:
    """Reads leave no trace until they are answered."""
    return () if call.call_class is CallClass.READ else writes
