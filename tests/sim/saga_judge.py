"""What must hold of runs that are taken back: watched at each record, each send, each refund."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from coatcheck_sidecar.core.model import CallClass, Status
from coatcheck_sidecar.core.policy import upstream_key
from coatcheck_sidecar.core.record import (
    Checkpoint,
    Dispatched,
    Failed,
    Finished,
    Held,
    Parked,
    Record,
)
from coatcheck_sidecar.core.runstate import IN_DOUBT, RunState
from coatcheck_sidecar.core.undo import irreversible, successor
from coatcheck_sidecar.core.undo_records import RESUBMIT, Compensated, Compensating, Undo
from tests.sim.saga import FINALS, Saga
from tests.sim.upstream import ONCE, UNDO, Charge

if TYPE_CHECKING:
    from tests.sim.agent_plan import Act
    from tests.sim.judge import Judge, Owned, RunWatch

FAR: Final = frozenset({"shipped", "http-fading"})
"""Beside guarded calls, those whose `dispatched` is remote: no lost node takes it along."""


class SagaJudge:
    """Collects what went wrong with runs that are taken back."""

    def __init__(self, judge: "Judge", saga: Saga, *, failed: Callable[[str], None]) -> None:
        self.asked_for: set[str] = set()
        """Ids of commands to take a run back."""
        self.told_forward: set[str] = set()
        """Runs of which it was said that they go forward after all."""
        self.acts: dict[str, Act] = {}
        self.runs: dict[str, str] = {}
        """By act."""
        self._judge = judge
        self._saga = saga
        self._failed = failed
        self._begun: dict[str, int] = {}
        """Runs that are being taken back, by heads; since which epoch."""
        self._keys: dict[str, str] = {}

    def plan(self, run: str, acts: list["Act"]) -> None:
        """A run is to do these."""
        self.acts |= {act.name: act for act in acts}
        self.runs |= {act.name: run for act in acts}

    # Records, as heads come to hold them

    def before(self, state: RunState, record: Record) -> None:
        """`record` is about to be folded into what the run's heads said."""
        event, run = record.event, state.run
        match event:
            case Compensating(then="forward"):
                self._forward(state, event)
            case Compensating():
                self._begin(state, record, event)
            case Compensated():
                self._end(state, event)
            case Dispatched():
                self._check_sent(state, event)
            case Checkpoint() if any(call.is_undo for call in state.calls.values()):
                self._failed(f"{run} commits a step in epoch {record.epoch}, and undos were begun")
            case Finished() if state.compensating is not None:
                self._failed(f"{run} is taken back, and finishes")
            case Failed(is_cancelled=False) if state.compensating is not None:
                self._failed(f"{run} is taken back, and fails: {event.error}")
            case _:
                pass

    def after(self, state: RunState, record: Record) -> None:
        """It has been."""
        event, run = record.event, state.run
        if state.compensating is None or not isinstance(event, Held | Parked):
            return
        if state.status is Status.PARKED:
            self._failed(f"{run} is taken back, and parked")
        if state.status is Status.HELD and not state.reason:
            self._failed(f"{run} is taken back, and held for no reason")
        if state.status is Status.HELD and state.reason.startswith(IN_DOUBT):
            listed = {call.number for call in state.in_doubt}
            named = {int(number) for number in re.findall(r"\d+", state.reason)}
            if not named or not named <= listed:
                self._failed(f"{run} is held: {state.reason}; the doubts listed are {listed}")

    def _begin(self, state: RunState, record: Record, event: Compensating) -> None:
        run = state.run
        self._begun[run] = record.epoch
        if (why := irreversible(state)) is not None:
            self._failed(f"{run} is to be taken back, and {why}")
        is_drain = event.by == "drain" and not event.command
        is_asked = self._saga.on_drain == "compensate" if is_drain else (
            event.command in self.asked_for
        )  # fmt: skip
        if not is_asked:
            self._failed(f"{run} is taken back by {event.by}, and nobody asked for it")

    def _forward(self, state: RunState, event: Compensating) -> None:
        self._begun.pop(state.run, None)
        if irreversible(state) is None or not event.why or state.run not in self.told_forward:
            self._failed(f"{state.run} goes forward, and nobody is told why: {event.why!r}")
        done = [name for name in self._of(state.run) if self._is_undone(name)]
        if done:
            self._failed(f"{state.run} goes forward, and {done} are taken back")

    def _check_sent(self, state: RunState, event: Dispatched) -> None:
        call = state.calls.get(event.call)
        if call is None or call.call_class is CallClass.READ:
            return
        if call.is_undo and state.compensating is None:
            self._failed(f"{state.run} sends {call.key}, and is not taken back")
        is_adopted = event.attempt == call.attempt
        if not call.is_undo and state.compensating is not None and not is_adopted:
            self._failed(f"{state.run} is taken back, and sends call {call.number} ({call.tool})")

    def _end(self, state: RunState, event: Compensated) -> None:
        run = state.run
        if (why := irreversible(state)) is not None:
            self._failed(f"{run} was taken back, and {why}")
        missing = [undo.call for undo in state.undos.values() if not self._is_done(run, undo)]
        if missing:
            self._failed(f"{run} was taken back, but for calls {missing}")
        left = [name for name in self._of(run) if self._is_left(self.acts[name])]
        if left:
            self._failed(f"{run} was taken back, and {left} took place")
        is_again = state.compensating is not None and state.compensating.then == RESUBMIT
        made = self._judge.watch(successor(run)).head
        if is_again != bool(event.successor) or (is_again and made is None):
            self._failed(f"{run} was taken back; in its place came {event.successor!r}, {made}")

    def _of(self, run: str) -> list[str]:
        return [name for name, of in self.runs.items() if of == run]

    def _is_undone(self, name: str) -> bool:
        return self._judge.effects(UNDO + name) > 0

    def _is_done(self, run: str, undo: Undo) -> bool:
        return self._is_undone(self._judge.charges.get(upstream_key(run, undo.key), ""))

    def _is_left(self, act: "Act") -> bool:
        """It took place, no node can have taken its record along, and it was to be undone."""
        is_far = act.kind in ONCE or act.kind in FAR
        is_said = bool(act.undo) or act.kind in FINALS
        took_place = self._judge.effects(act.name) > 0
        return is_far and is_said and took_place and not self._is_undone(act.name)

    # Undos, as they leave and as they take place

    def leaving(self, run: "Owned", key: str, name: str, *, attempt: int = 0) -> None:
        """An undo is about to be sent; `attempt`, if its record must be in a head by now."""
        watch, charged = self._judge.watch(run.id), name.removeprefix(UNDO)
        if self._keys.setdefault(name, key) != key:
            self._failed(f"{name} has another key: {key}, not {self._keys[name]}")
        if attempt and attempt not in watch.attempts.get(key, ()):
            self._failed(f"attempt {attempt} at {name} leaves, and no head holds it")
        self._check_turn(run.id, charged, watch, what="is about to be taken back")

    def took_place(self, name: str, charge: Charge) -> None:
        """Something happened in the world."""
        if charge.effects > 1:
            return
        charged = name.removeprefix(UNDO)
        run = self.runs.get(charged, "")
        if charged != name:
            self._check_turn(run, charged, self._judge.watch(run), what="is taken back")
        elif charge.tool in ONCE:
            undone = [each for each in self._of(run) if self._is_undone(each)]
            if undone:
                self._failed(f"{name} takes place after {undone} were taken back")

    def _check_turn(self, run: str, charged: str, watch: "RunWatch", *, what: str) -> None:
        state, said = watch.shadow, f"{charged} of {run} {what}"
        if watch.head is not None and watch.head.status.is_final:
            return  # cancelled, say, while the request was on its way
        if state is None or state.compensating is None or run not in self._begun:
            self._failed(f"{said}, and the run is not")
            return
        crossed = [
            name for name in self._of(run)
            if self.acts[name].kind in FINALS and self.acts[name].kind in ONCE
            and self._judge.effects(name)
        ]  # fmt: skip
        if crossed or irreversible(state) is not None:
            self._failed(f"{said}, and {crossed} are irreversible: {irreversible(state)}")
        names = {
            undo.call: self._judge.charges.get(upstream_key(run, undo.key), "")
            for undo in state.undos.values()
        }
        mine = max((call for call, name in names.items() if name == charged), default=0)
        newer = [name for call, name in names.items() if call > mine and not self._is_undone(name)]
        if not mine or newer:
            self._failed(f"{said}, before the newer {newer}")
        unknown = [
            call.number for call in state.calls.values()
            if (call.number > mine or call.is_irreversible) and not call.is_undo
            and (call.is_unsettled or call.is_decidable)
        ]  # fmt: skip
        if unknown:
            self._failed(f"{said}, and nobody knows what became of the calls {unknown}")
