"""The order in which a run is taken back, and what stands in its way. Pure.

Each undo is a call of its own, under the key `undo:<key>` of the call that it takes back, and is
decided by the same table. They run one after another, newest call first:

- nothing is taken back once a call is done that nothing takes back: the run goes forward;
- an undo that may or may not have taken place, or was refused, holds the run;
- so does a call in doubt, when it is its turn: nobody knows whether there is something to undo.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Final

import msgpack

from coatcheck_sidecar.core.call import is_kept
from coatcheck_sidecar.core.call_events import Ended, Ending
from coatcheck_sidecar.core.effects import pattern_of
from coatcheck_sidecar.core.fingerprint import SUMMARY_CHARS_MAX
from coatcheck_sidecar.core.model import UNDO_KEY, Call, CallClass, CallState, OutcomeKind, Status
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.core.undo_records import Compensating, Undo

BY_SIDECAR: Final = "sidecar"
BY_AGENT: Final = "agent"
SUCCESSOR: Final = "-2"
GONE: Final = frozenset({404, 410})


@dataclass(frozen=True, slots=True)
class Take:
    """This is to be done next; `call` is what is known of it, `None`: nothing was tried yet."""

    undo: Undo
    call: Call | None


@dataclass(frozen=True, slots=True)
class Stop:
    """These calls stand in the way: somebody must decide them."""

    calls: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Forward:
    """Nothing may be taken back; `why` names the call."""

    why: str


@dataclass(frozen=True, slots=True)
class Done:
    """All that can be taken back was."""

    undone: int


def upcoming(state: RunState) -> Take | Stop | Forward | Done:
    """What comes next for a run that is taken back."""
    in_doubt = {call.number: call for call in state.calls.values() if _is_in_the_way(call)}
    final = tuple(number for number, call in in_doubt.items() if call.is_irreversible)
    undone = sum(is_undone(state, undo) for undo in state.undos.values())
    why = irreversible(state)
    if why is not None and not undone:
        return Forward(why)
    if final:
        return Stop(final)
    for number in sorted({*state.undos, *in_doubt}, reverse=True):
        if number in in_doubt:
            return Stop((number,))
        undo = state.undos[number]
        if not undo.is_irreversible and not is_undone(state, undo):
            return _take(state, undo)
    return Done(undone)


def _take(state: RunState, undo: Undo) -> Take | Stop:
    call = call_of(state, undo)
    return Stop((call.number,)) if call is not None and is_held(call) else Take(undo, call)


def is_held(call: Call) -> bool:
    """An undo that goes on only when somebody decides it."""
    return call.is_unsettled and not _may_resend(call)


def _may_resend(call: Call) -> bool:
    """The table, or a probe, may let an undo in doubt go on; else somebody must decide it."""
    return call.state is CallState.IN_DOUBT and call.call_class is not CallClass.ONCE


def _is_in_the_way(call: Call) -> bool:
    """Nobody knows whether there is something of it to take back."""
    if call.is_undo:
        return False
    is_sent = call.state in (CallState.DISPATCHED, CallState.IN_DOUBT)
    is_said = bool(call.handler or call.undo or call.is_irreversible)
    return call.is_unsettled or (is_sent and is_said)


def call_of(state: RunState, undo: Undo) -> Call | None:
    """The call that takes `undo.call` back, if it was begun."""
    return state.by_key.get(f"{UNDO_KEY}{undo.key}")


def is_undone(state: RunState, undo: Undo) -> bool:
    """The call that it takes back is taken back."""
    call = call_of(state, undo)
    if call is None or call.state is not CallState.DONE or call.outcome is None:
        return False
    return call.outcome.kind is not OutcomeKind.UNKNOWN


def ended(event: Ended, *, status: int, method: str, call_class: CallClass) -> Ended:
    """How an attempt of an undo ended.

    It took place if its answer says so: 2xx; and where there is nothing to delete any more, as the
    answer to a DELETE that was sent twice says. Any other last word is for somebody to look at.
    """
    is_done = 200 <= status < 300 or (method == "DELETE" and status in GONE)
    if is_done or not is_kept(event.ending, call_class):
        return event
    unknown = replace(event.outcome, kind=OutcomeKind.UNKNOWN)
    return replace(event, ending=Ending.FINAL, outcome=unknown)


def may_not_start(state: RunState, call: Call, *, is_draining: bool) -> str:
    """Why a call can't be sent now, or an empty string."""
    if call.is_undo or call.call_class is CallClass.READ:
        return ""
    if call.is_irreversible and is_draining:
        return "nothing takes it back, and the pod is shutting down"
    if state.compensating is None:
        return ""
    under_way = (c for c in state.calls.values() if c.is_undo)
    is_of_undo = any(c.state is CallState.DISPATCHED for c in under_way)
    return "" if is_of_undo else "what the run did is being taken back"


def print_of(undo: Undo) -> bytes:
    """The fingerprint of the call that takes another back: what it does was fixed long before."""
    said = [undo.call, undo.handler, undo.method, undo.path, undo.body.data]
    return hashlib.sha256(msgpack.packb(said)).digest()


def summary_of(undo: Undo) -> str:
    """A line for operators."""
    how = undo.handler or (pattern_of(undo.method, undo.path) if undo.path else undo.why)
    return f"undo of call {undo.call}: {how}"[:SUMMARY_CHARS_MAX]


def irreversible(state: RunState) -> str | None:
    """The call, in words, that is done and can't be taken back; `None`: there is none."""
    for undo in state.undos.values():
        if undo.is_irreversible:
            return f"call {undo.call} ({undo.tool}) is done and irreversible"
    return None


def next_by(state: RunState) -> str:
    """Who is to do what comes next: `sidecar`, `agent`, or nobody (empty)."""
    if state.compensating is None or state.status.is_final or state.status is Status.HELD:
        return ""
    todo = upcoming(state)
    return BY_AGENT if isinstance(todo, Take) and todo.undo.handler else BY_SIDECAR


def at_drain(state: RunState) -> Compensating | Forward | None:
    """What becomes of a run that asked to be taken back when its pod stops."""
    if state.compensating is not None:
        return None
    why = irreversible(state)
    return Compensating(by="drain") if why is None else Forward(why)


def successor(run: str) -> str:
    """The name of the run that is made in place of one that was taken back."""
    return f"{run}{SUCCESSOR}"
