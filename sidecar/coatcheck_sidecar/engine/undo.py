"""Takes runs back that are to be: any sidecar that finds one does, without its agent.

It claims the run, sends the undos that are requests, one after another, each as a call of the run
by the same table as all others, and ends the run. Where a function of an agent's is next, or an
operator must decide, it lets go of the run, and goes on when another sidecar's marker says so.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core import undo as core
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.record import Released
from coatcheck_sidecar.core.runstate import IN_DOUBT
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.undo import Done, Forward, Stop, Take
from coatcheck_sidecar.core.undo_records import FORWARD, RESUBMIT, Compensated, Compensating, Undo
from coatcheck_sidecar.engine.agent import Wants
from coatcheck_sidecar.engine.calls import Calls
from coatcheck_sidecar.engine.claims import Claimer
from coatcheck_sidecar.engine.fleet import Fleet
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.queues import drop_stale
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.engine.undo_request import Impossible, UndoRequests, give_up
from coatcheck_sidecar.ports import StoreError

AT_ONCE: Final = 8
"""Runs that one sidecar takes back at once: it is not what it is there for."""
DECIDES: Final = frozenset({ErrorCode.IN_DOUBT, ErrorCode.HELD})
"""What the call table says of an undo that somebody must decide."""


@dataclass(frozen=True, slots=True)
class Later:
    """The next undo can't be done now; `why` is what operators see meanwhile."""

    why: str
    is_draining: bool = False


Todo = Take | Stop | Forward | Done | Later


class Undoing:
    """Looks for runs to take back, and does."""

    def __init__(
        self,
        claimer: Claimer,
        *,
        keepers: Mapping[str, Keeper],
        calls: Mapping[str, Calls],
        lock_of: Callable[[str], asyncio.Lock],
        fleet: Fleet,
        tasks: TaskSet,
    ) -> None:
        """`keepers` and their `calls` are the runs here; `lock_of` a run is held meanwhile."""
        self.requests: UndoRequests | None = None
        """What sends requests; without it there are no tools here, and others must."""
        self.is_on: Callable[[], bool] = lambda: True
        """Modes that only look on take nothing back."""
        self.has_time: Callable[[], bool] = lambda: True
        """Another undo may begin: the pod does not end before it is done."""
        self._claimer = claimer
        self._keepers = keepers
        self._calls = calls
        self._lock_of = lock_of
        self._fleet = fleet
        self._doors = fleet.doors
        self._tasks = tasks
        self._places = asyncio.Semaphore(AT_ONCE)
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._sending: set[str] = set()
        """Runs of which an undo is under way."""

    @property
    def is_busy(self) -> bool:
        """A run is being taken back here, or is about to be."""
        return bool(self._busy)

    async def run(self) -> None:
        """Look for ever."""
        doors = self._doors
        while True:
            await doors.clock.sleep(doors.settings.heartbeat_s * doors.clock.uniform(0.5, 1.0))
            if self.is_on() and not self._claimer.is_draining:
                try:
                    await self._look()
                except StoreError as error:
                    doors.observer.note("look_failed", error=str(error))

    async def _look(self) -> None:
        for run, marker in await self._fleet.compensating():
            summary = await self._fleet.read_marker(marker)
            is_due = summary is not None and summary.not_before_ms <= self._claimer.now_ms()
            if is_due and len(self._busy) < AT_ONCE:
                self._start(run, marker)
        for summary in self._fleet.lapsed_runs(None):
            if summary.undo == core.BY_SIDECAR:
                self._start(summary.run)

    def let_go(self, keeper: Keeper) -> None:
        """A run left this sidecar: if it is to be taken back, that can begin here at once."""
        state, busy = keeper.log.state, self._busy.get(keeper.run)
        if busy is not None and keeper.run in self._sending:
            busy.cancel()  # cut by a drain, or fenced: what is sent goes on to its end
        is_due = state.status is Status.COMPENSATING and not state.not_before_ms
        if is_due and self.is_on() and core.next_by(state) == core.BY_SIDECAR:
            self._start(keeper.run)

    def _start(self, run: str, marker: str = "") -> None:
        if run not in self._busy and self.has_time():
            task = self._busy[run] = self._tasks.start(self._take(run, marker), name=f"undo {run}")
            task.add_done_callback(lambda _: self._busy.pop(run, None))

    async def _take(self, run: str, marker: str) -> None:
        async with self._places, self._lock_of(run):
            try:
                keeper = await self._own(run)
                if keeper is None:
                    await drop_stale(self._doors, run, marker=marker)
                else:
                    await self._take_back(keeper)
            except (Refusal, StoreError) as error:
                self._doors.observer.note("look_failed", error=str(error))

    async def _own(self, run: str) -> Keeper | None:
        """The run, claimed for this; `None` if it is not to be had."""
        if run in self._keepers:
            return None
        wants = Wants(run=run, can_create=False, wait_s=0.0, is_undo=True)
        found = await self._tasks.whole(self._claimer.attempt(run, wants), name=f"claim {run}")
        return found if isinstance(found, Keeper) else None

    async def _take_back(self, keeper: Keeper) -> None:
        try:
            todo = await self._advance(keeper)
            if isinstance(todo, Take):
                why = f"call {todo.undo.call} waits for an agent that has {todo.undo.handler}"
                await keeper.let_go(Released(reason="undo", error=why))
            else:
                await self._settle(keeper, todo)
        finally:
            keeper.is_undoing = False

    async def ask(self, keeper: Keeper) -> Take | None:
        """What the agent that has the run must do next; `None`: the run is over, taken back.

        Raises `Refusal` if the run was let go of for another reason.
        """
        todo = await self._advance(keeper)
        if isinstance(todo, Take):
            return todo
        await self._settle(keeper, todo)
        match todo:
            case Done():
                return None
            case Stop():
                why = f"run {keeper.run} is held: {keeper.log.state.reason}"
                raise Refusal(ErrorCode.HELD, why, run=keeper.run)
            case _:
                is_draining = isinstance(todo, Later) and todo.is_draining
                code = ErrorCode.DRAINING if is_draining else ErrorCode.UNAVAILABLE
                why = f"run {keeper.run} was let go of: {todo.why}"
                raise Refusal(code, why, retry=Retry.LATER, run=keeper.run)

    async def _advance(self, keeper: Keeper) -> Todo:
        """Send what can be sent; what comes after that."""
        state = keeper.log.state
        while True:
            todo = core.upcoming(state)
            if not isinstance(todo, Take) or todo.undo.handler:
                return todo
            if not self.has_time():
                return Later("the pod is shutting down", is_draining=True)
            stopped = await self._undo(keeper, todo.undo)
            if stopped is not None:
                return stopped

    async def _undo(self, keeper: Keeper, undo: Undo) -> Stop | Later | None:
        """One undo; `None` if it is done, or somebody must decide it by what the log says now."""
        if undo.why:
            await give_up(keeper, undo)
            return None
        if self.requests is None:
            return Later("no tools are configured here")
        said = ""
        self._sending.add(keeper.run)
        try:
            await self.requests.send(undo, keeper, calls=self._calls[keeper.run])
        except Impossible as error:
            return Later(f"undo of call {undo.call} ({undo.tool}): {error}")
        except Refusal as error:
            keeper.check_owned()
            call = core.call_of(keeper.log.state, undo)
            is_asked = error.code in DECIDES and error.details.get("reason") != "probe_unanswered"
            if is_asked and call is not None and call.is_unsettled:
                return Stop((call.number,))
            said = error.message
        finally:
            self._sending.discard(keeper.run)
        if core.is_undone(keeper.log.state, undo):
            self._doors.observer.note("undone", run=keeper.run, call=undo.call, tool=undo.tool)
            return None
        call = core.call_of(keeper.log.state, undo)
        if call is not None and core.is_held(call):
            return None
        return Later(f"undo of call {undo.call} ({undo.tool}) has no answer; {said}".rstrip("; "))

    async def _settle(self, keeper: Keeper, todo: Stop | Forward | Done | Later) -> None:
        """Write what it came to, and let go of the run."""
        match todo:
            case Done(undone):
                try:
                    made = await self._resubmit(keeper)
                except Refusal as error:  # another run has that name, and this one's order is lost
                    await keeper.hold(f"all is taken back, and not resubmitted: {error.message}")
                    return
                await keeper.let_go(Compensated(undone=undone, successor=made))
            case Stop(numbers):
                await keeper.hold(f"{IN_DOUBT}: calls {list(numbers)}")
            case Forward(why):
                self._doors.observer.note("undo_forward", run=keeper.run, why=why)
                off = Compensating(by="sidecar", then=FORWARD, why=why)
                await keeper.let_go(Released(reason="forward"), before=keeper.append(off))
            case Later(why, is_draining):
                not_before_ms = 0
                if not is_draining:
                    not_before_ms = keeper.now_ms() + int(self._doors.settings.heartbeat_s * 1000)
                await keeper.let_go(Released(reason="undo", error=why, not_before_ms=not_before_ms))

    async def _resubmit(self, keeper: Keeper) -> str:
        """Another run with the same input, where that is wanted; its name. Raises `Refusal`."""
        state = keeper.log.state
        if state.compensating is None or state.compensating.then != RESUBMIT:
            return ""
        doors, name = self._doors, core.successor(keeper.run)
        outside = Outside(doors.store, doors.clock, settings=doors.settings)
        await outside.submit(state.created, run=name)
        return name
