"""The rules of runs that are taken back, each broken from outside; `mutants.py` runs these too."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

from coatcheck_sidecar.core import command, undo
from coatcheck_sidecar.core.call_state import with_not_applied, with_restart
from coatcheck_sidecar.core.model import UNDO_KEY, Call, CallState, Level
from coatcheck_sidecar.core.policy import Ask
from coatcheck_sidecar.core.record import Event, Record
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.core.undo_records import Compensating, Undo
from coatcheck_sidecar.engine import undo_request
from coatcheck_sidecar.engine.attempts import Go
from coatcheck_sidecar.engine.calls import Calls
from coatcheck_sidecar.engine.keeper import Keeper
from tests.sim.http_mutants import CORE, Mutant


def oldest_first() -> AbstractContextManager[Any]:
    """Calls are taken back in the order in which they were made."""

    def oldest(numbers: set[int], *, reverse: bool = False) -> list[int]:
        return sorted(numbers)

    return patch.object(undo, "sorted", oldest, create=True)


def undone_before_it_is_durable() -> AbstractContextManager[Any]:
    """An undo is written down while it is sent."""
    write = Calls._write

    async def written(
        self: Calls, events: list[Event], *, level: Level, is_sent: bool, key: str
    ) -> None:
        if not is_sent or not key.startswith(UNDO_KEY):
            return await write(self, events, level=level, is_sent=is_sent, key=key)
        self._keeper.write_later(self._keeper.append(*events))
        self.changed()
        return None

    return patch.object(Calls, "_write", written)


@contextmanager
def irreversible_ignored() -> Iterator[None]:
    """What can't be taken back does not stand in the way."""
    with (
        patch.object(undo, "irreversible", lambda state: None),
        patch.object(command, "irreversible", lambda state: None),
    ):
        yield


def irreversible_in_doubt_ignored() -> AbstractContextManager[Any]:
    """What can't be taken back, and may have been done, does not either."""
    is_in_the_way = undo._is_in_the_way

    def judged(call: Call) -> bool:
        return not call.is_irreversible and is_in_the_way(call)

    return patch.object(undo, "_is_in_the_way", judged)


def doubt_passed_over() -> AbstractContextManager[Any]:
    """What may have been done is left as it is."""
    return patch.object(undo, "_is_in_the_way", lambda call: call.is_irreversible)


def an_undo_key_for_each_owner() -> AbstractContextManager[Any]:
    """Who goes on with an undo derives its key from what it is itself."""
    go = Calls._go

    def told(self: Calls, call: Call, key: str) -> Go:
        is_again = call.is_undo and call.attempt > 1
        return go(self, call, f"{key}-{self._state.epoch}" if is_again else key)

    return patch.object(Calls, "_go", told)


@contextmanager
def begun_again_by_each_owner() -> Iterator[None]:
    """A sidecar that takes a run over sends all its undos once more."""
    ask_of, found = undo_request.ask_of, undo.call_of

    def asked(keeper: Keeper, made: Undo, **more: Any) -> Ask:
        return replace(ask_of(keeper, made, **more), key=f"{made.key}@{keeper.log.state.epoch}")

    def call_of(state: RunState, made: Undo) -> Call | None:
        if made.handler or made.why:
            return found(state, made)
        return state.by_key.get(f"{UNDO_KEY}{made.key}@{state.epoch}")

    with (
        patch.object(undo_request, "ask_of", asked),
        patch.object(undo_request, "call_of", call_of),
        patch.object(undo, "call_of", call_of),
    ):
        yield


def refused_undos_count() -> AbstractContextManager[Any]:
    """An undo that its upstream refused is over and done with."""

    def ended(event: Any, **_: Any) -> Any:
        return event

    def is_undone(state: RunState, made: Undo) -> bool:
        call = undo.call_of(state, made)
        return call is not None and call.state is CallState.DONE

    @contextmanager
    def both() -> Iterator[None]:
        with patch.object(undo, "ended", ended), patch.object(undo, "is_undone", is_undone):
            yield

    return both()


def undos_of_the_dead_sent_again() -> AbstractContextManager[Any]:
    """An undo whose sender died is taken for not sent."""

    def forget(call: Call, *, at_ms: int) -> Call:
        is_sent = call.is_undo and call.state is CallState.DISPATCHED
        return with_not_applied(call, "restarted") if is_sent else with_restart(call, at_ms=at_ms)

    return patch(f"{CORE}.runstate.with_restart", forget)


def new_calls_while_taken_back() -> AbstractContextManager[Any]:
    """An agent goes on while what it did is to be taken back."""
    return patch.object(undo, "may_not_start", lambda *_, **__: "")


def every_drain_takes_back() -> AbstractContextManager[Any]:
    """A pod that stops takes back what its runs did, whatever they asked for."""

    def taken_back(self: Keeper) -> list[Record]:
        begun = undo.at_drain(self.log.state) if self.is_draining else None
        return self.append(begun) if isinstance(begun, Compensating) else []

    return patch.object(Keeper, "_taken_back", taken_back)


def undos_go_with_their_steps() -> AbstractContextManager[Any]:
    """What takes a call back is kept no longer than the call."""
    apply = RunState._apply_checkpoint

    def checkpoint(self: RunState, seq: int, event: Any) -> None:
        apply(self, seq, event)
        for call in list(self.undos):
            self._forget_undo(call)

    return patch.object(RunState, "_apply_checkpoint", checkpoint)


SAGA_MUTANTS: Final[tuple[Mutant, ...]] = (
    oldest_first,
    undone_before_it_is_durable,
    irreversible_ignored,
    irreversible_in_doubt_ignored,
    doubt_passed_over,
    an_undo_key_for_each_owner,
    begun_again_by_each_owner,
    refused_undos_count,
    undos_of_the_dead_sent_again,
    new_calls_while_taken_back,
    every_drain_takes_back,
    undos_go_with_their_steps,
)
