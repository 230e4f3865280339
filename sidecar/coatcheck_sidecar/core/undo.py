"""The order in which a run is taken back, and what stands in its way. Pure.

Each undo is a call of its own, under the key `undo:<key>` of the call that it takes back, and is
decided by the same table. They run one after another, newest call first:

- nothing is taken back once a call is done that nothing takes back: the run goes forward;
- an undo that may or may not have taken place, or was refused, holds the run;
- so does a call in doubt, when it is its turn: nobody knows whether there is something to undo.
"""

from dataclasses import dataclass
from typing import Final

from coatcheck_sidecar.core.model import UNDO_KEY, Call, CallClass, CallState, OutcomeKind, Status
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.core.undo_records import Compensating, Undo

BY_SIDECAR: Final = "sidecar"
BY_AGENT: Final = "agent"
SUCCESSOR: Final = "-2"


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
    undone = sum(_is_undone(state, undo) for undo in state.undos.values())
    why = irreversible(state)
    if why is not None and not undone:
        return Forward(why)
    if final:
        return Stop(final)
    for number in sorted({*state.undos, *in_doubt}, reverse=True):
        if number in in_doubt:
            return Stop((number,))
        undo = state.undos[number]
        if not undo.is_irreversible and not _is_undone(state, undo):
            return _take(state, undo)
    return Done(undone)


def _take(state: RunState, undo: Undo) -> Take | Stop:
    call = call_of(state, undo)
    is_held = call is not None and call.is_unsettled and not _may_resend(call)
    return Stop((call.number,)) if call is not None and is_held else Take(undo, call)


def _may_resend(call: Call) -> bool:
    """The table, or a probe, may let an undo in doubt go on; else somebody must decide it."""
    return call.state is CallState.IN_DOUBT and call.call_class is not CallClass.ONCE


def _is_in_the_way(call: Call) -> bool:
    """Nobody knows whether there is something of it to take back."""
    if call.is_undo:
        return False
    is_sent = call.state in (CallState.DISPATCHED, CallState.IN_DOUBT)
    return call.is_unsettled or (is_sent and bool(call.handler or call.undo))


def call_of(state: RunState, undo: Undo) -> Call | None:
    """The call that takes `undo.call` back, if it was begun."""
    return state.by_key.get(f"{UNDO_KEY}{undo.key}")


def _is_undone(state: RunState, undo: Undo) -> bool:
    call = call_of(state, undo)
    if call is None or call.state is not CallState.DONE or call.outcome is None:
        return False
    return call.outcome.kind is not OutcomeKind.UNKNOWN


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
