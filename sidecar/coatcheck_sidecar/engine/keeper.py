"""An owned run: the one place in the pod that appends to its log."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from coatcheck.wire import ErrorCode, Push
from coatcheck_sidecar.core import deadline, undo
from coatcheck_sidecar.core.drain import OnDrain, reason_of
from coatcheck_sidecar.core.model import Body, Level, Status
from coatcheck_sidecar.core.ownership import RunSummary, line_of
from coatcheck_sidecar.core.patch_delta import NewState
from coatcheck_sidecar.core.record import (
    Checkpoint,
    Claimed,
    Event,
    Failed,
    Finished,
    Held,
    Parked,
    Record,
)
from coatcheck_sidecar.core.release import release_event
from coatcheck_sidecar.core.runlog import RunLog
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.undo_records import Compensating
from coatcheck_sidecar.engine import boundary
from coatcheck_sidecar.engine.agent import Agent
from coatcheck_sidecar.engine.local import LocalLog
from coatcheck_sidecar.engine.shipper import Doors, Shipper, fenced
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.engine.uploads import Uploads
from coatcheck_sidecar.ports import JournalDead

BIG_STATE_BYTES: Final = 1_048_576
"""A delta that looks at more takes over a millisecond: it is made beside the loop."""


class Keeper:
    """Appends, waits for the level asked for, and lets go in good order."""

    def __init__(
        self,
        log: RunLog,
        *,
        doors: Doors,
        local: LocalLog,
        tasks: TaskSet,
        now_ms: Callable[[], int],
    ) -> None:
        """`log` is restored or new; nothing is written before `claim`."""
        self.log = log
        self.run = log.state.run
        self.doors = doors
        self.now_ms = now_ms
        self.shipper = Shipper(log, doors)
        self.shipper.on_shipped = self._on_shipped
        self.shipper.on_fenced = self._on_fenced
        self.agent: Agent | None = None
        self.heard = b""
        """The incarnation of the last agent that asked this process for something."""
        self.agent_gone_s = doors.clock.monotonic()
        self.step_began_s = doors.clock.monotonic()
        self.step_timeout_s: float | None = None
        self.on_drain = OnDrain.AUTO
        self.eta_at_s: float | None = None
        """When the run is done, as its agent reckons."""
        self.boundary_s = log.state.checkpoint.longest_ms / 1000
        """The longest step that an agent ended."""
        self.is_stopping = False
        """The agent was told to stop at its next step boundary."""
        self.left_marker = ""
        """Of the state before the claim; removed once a heartbeat names the run."""
        self.is_over = False
        """Released, finished, failed or fenced: nothing more is appended."""
        self.is_undoing = False
        """This sidecar is taking the run back, without an agent."""
        self.is_expired = False
        """It is over by its own deadline."""
        self.is_gone = asyncio.Event()
        """It is over, and what was appended is shipped, or never will be."""
        self.on_over: Callable[[Keeper], None] = lambda keeper: None
        self.writing: Callable[[int], AbstractContextManager[None]] = lambda call: nullcontext()
        """Around writing what an operator says of a call: nobody is told before it is kept."""
        self.on_new_step: Callable[[], None] = lambda: None
        self.cancelled_by = ""
        self._local = local
        self._tasks = tasks
        self._uploads = Uploads(self.shipper, tasks)
        self._committing = asyncio.Lock()
        self._loop: asyncio.Task[None] | None = None

    # Appending

    def append(self, *events: Event) -> list[Record]:
        """Give events their place; raises `Refusal` if this ownership is over."""
        self.check_owned()
        records = [self.log.append(event, at_ms=self.now_ms()) for event in events]
        for record in records:
            self._uploads.send(record)
        return records

    @property
    def is_draining(self) -> bool:
        """The pod drains: what is acknowledged is off it."""
        return self.shipper.is_draining

    @property
    def unshipped_bytes(self) -> int:
        """What is to be put until a head holds all of it."""
        return self.shipper.left_bytes

    def check_owned(self) -> None:
        """Raises `Refusal` once the run is somebody else's, or nobody's."""
        if self.shipper.is_fenced:
            raise fenced(self.run, self.log.state.epoch)
        self.check_in_time()
        if self.is_over:
            why = self.cancelled_by or f"it is {self.log.state.status.value} now"
            raise Refusal(ErrorCode.FENCED, f"run {self.run} is no longer this agent's: {why}")

    def check_in_time(self) -> None:
        """Raises `Refusal` once the run's own deadline is over, though nobody wrote that yet."""
        created = self.log.state.created
        is_late = not self.is_over and deadline.is_over(created, now_ms=self.now_ms())
        if self.is_expired or is_late:
            raise deadline.exceeded(self.run, created)

    async def durable(
        self, records: Sequence[Record], level: Level, *, is_granted: bool = False
    ) -> None:
        """Wait until records are kept at `level`; raises `Refusal` (fenced).

        `is_granted`: the flush budget was asked for them before they were appended.
        """
        written = self._local.write(self.run, records, level=level)
        self.shipper.poke()
        seq = records[-1].seq
        if level is Level.REMOTE or self.is_draining or self._local.is_dead:
            written.add_done_callback(_mark_seen)
            await self.shipper.shipped(seq)
            return
        try:
            await written
        except JournalDead as error:
            self._local.mourn(error)
            await self.shipper.shipped(seq)
            return
        if not is_granted:
            await self.doors.budget.pay(self.shipper, seq)
        await self._again(seq, level)  # a drain may have begun meanwhile

    async def write(self, *events: Event, level: Level) -> None:
        """Append and wait."""
        await self.durable(self.append(*events), level)

    def write_later(self, records: Sequence[Record]) -> None:
        """Keep records without waiting for them."""
        written = self._local.write(self.run, records, level=Level.NODE)
        written.add_done_callback(_mark_seen)
        self.shipper.poke()

    # The agent's side

    async def commit(self, *, step: int, level: Level, schema: int, state: NewState,
                     signals: tuple[int, ...] = ()) -> int:  # fmt: skip
        """End a step with its checkpoint; the sequence number. Safe to repeat."""
        began_s = self.doors.clock.monotonic()
        async with self._committing:
            at = self.log.state
            if step == at.step and at.step > 0:
                await self._again(at.checkpoint_seq, level)
                return at.checkpoint_seq
            record, is_granted = await self._checkpoint(
                step=step, schema=schema, state=state, signals=signals
            )
        await self.durable([record], level if is_granted else Level.REMOTE, is_granted=True)
        took_s = self.doors.clock.monotonic() - began_s
        self.doors.observer.note("committed", run=self.run, level=level.value, seconds=took_s)
        return record.seq

    async def _again(self, seq: int, level: Level) -> None:
        """What was asked for once more is acknowledged at its level, or further."""
        if level is Level.REMOTE or self.is_draining or self._local.is_dead:
            await self.shipper.shipped(seq)

    async def _checkpoint(
        self, *, step: int, schema: int, state: NewState, signals: tuple[int, ...]
    ) -> tuple[Record, bool]:
        """Its record, and whether the flush budget lets it be acknowledged before it is remote."""
        at, epoch = self.log.state, self.log.state.epoch
        self.check_owned()
        boundary.check_step(at, step, epoch=epoch)
        if self.log.draft_bytes(state) > BIG_STATE_BYTES:
            draft = await asyncio.to_thread(self.log.draft, state)
        else:
            draft = self.log.draft(state)
        is_granted = await self.doors.budget.turn(
            self.shipper.added_bytes(len(draft.delta), state_bytes=len(state.data)),
            is_over=lambda: self.is_over or self.shipper.is_fenced or at.epoch > epoch,
        )
        self.check_owned()
        boundary.check_step(at, step, epoch=epoch)
        event = Checkpoint(
            step=step,
            step_high=max(step, at.checkpoint.step_high),
            schema=schema,
            code_version=self.agent.code_version if self.agent else "",
            length=len(state.data),
            consumed=signals,
            blind=at.checkpoint.blind if step < at.checkpoint.blind else 0,
            delta=Body(draft.delta),
            **boundary.took(at.checkpoint, self._age_s),
        )
        record = self.log.commit(event, draft.state, at_ms=self.now_ms())
        if is_granted:  # before it is written: nothing that was not granted may slip in between
            self.doors.budget.owe(self.shipper, record.seq)
        self.boundary_s = max(self.boundary_s, self._age_s)
        self.step_began_s = self.doors.clock.monotonic()
        self.on_new_step()
        return record, is_granted

    def receive(self, name: str, received: Sequence[int]) -> tuple[int, Body] | None:
        """The oldest signal of this name that the step has not received yet."""
        for seq, signal in self.log.state.signals.items():
            if signal.name == name and seq not in received:
                return seq, signal.value
        return None

    async def park(self, name: str, payload: bytes | None) -> None:
        """Nobody's until the signal comes; returns when that is off the pod."""
        boundary.check_nothing_open(self.log.state, "wait_for")
        await self.let_go(Parked(name=name, payload=Body(payload)))

    async def finish(self, *, step: int, schema: int, state: NewState | None, result: bytes,
                     signals: tuple[int, ...] = ()) -> int:  # fmt: skip
        """The last checkpoint, if there is a state, and the result, in one append."""
        async with self._committing:
            at = self.log.state
            if at.status is Status.FINISHED:
                await self.shipper.shipped(at.seq)
                return at.seq
            boundary.check_goes_on(self.log.state)
            boundary.check_nothing_open(at, "finish")
            checkpoint = []
            if state is not None and step != at.step:
                record, _ = await self._checkpoint(
                    step=step, schema=schema, state=state, signals=signals
                )
                checkpoint = [record]
            times = boundary.took(at.checkpoint, self._age_s)
            return await self.let_go(Finished(result=Body(result), **times), before=checkpoint)

    async def fail(self, error: str) -> int:
        """The run is over without a result."""
        boundary.check_goes_on(self.log.state)
        return await self.let_go(Failed(error=error))

    async def release(self, reason: str, error: str = "") -> int:
        """Give the run up, for another owner or for an operator."""
        most, now_ms = self.doors.settings.breaker_crashes, self.now_ms()
        state, told = self.log.state, reason_of(reason, self.doors.budget.latch())
        event = release_event(state, told, error, breaker_crashes=most, now_ms=now_ms)
        if reason == "error":
            self.doors.observer.note("crashed", run=self.run, how="error", error=error)
        return await self.let_go(event, before=self._taken_back())

    def _taken_back(self) -> list[Record]:
        """What a run asked for when its pod stops, before it is let go of."""
        is_asked = self.is_draining and self.on_drain is OnDrain.COMPENSATE
        begun = undo.at_drain(self.log.state) if is_asked else None
        if isinstance(begun, undo.Forward):
            self.doors.observer.note("undo_forward", run=self.run, why=begun.why)
        return self.append(begun) if isinstance(begun, Compensating) else []

    async def hold(self, reason: str) -> int:
        """Nobody may go on before an operator decides."""
        return await self.let_go(Held(reason=reason))

    async def cancel(self, *events: Event, by: str) -> int:
        """End this ownership by an operator's word; `events` end with `failed`, or `held`."""
        self.cancelled_by = f"stopped by {by}"
        self.push(Push.FENCED, {"epoch": self.log.state.epoch})
        return await self.let_go(events[-1], before=self.append(*events[:-1]))

    async def expire(self) -> None:
        """End the run by its own deadline, whatever it is at."""
        record = self.log.append(deadline.ending(self.log.state), at_ms=self.now_ms())
        self.is_expired = True
        self.doors.observer.note("run_expired", run=self.run)
        self.push(Push.DEADLINE, {"left_s": 0.0})
        await self._let_go_by([record])

    async def let_go(self, event: Event, *, before: Sequence[Record] = ()) -> int:
        """End this ownership by `event`; returns when that is off the pod."""
        return await self._let_go_by([*before, *self.append(event)])

    async def _let_go_by(self, records: Sequence[Record]) -> int:
        self.is_over = True
        await self._tasks.whole(self._ship_last(records), name=f"let go {self.run}")
        return records[-1].seq

    async def _ship_last(self, records: Sequence[Record]) -> None:
        """Whoever asked may be gone: a run that is let go of must be seen to be free."""
        try:
            await self.durable(records, Level.REMOTE)
        finally:
            self._leave()

    def _leave(self) -> None:
        self.is_gone.set()
        self.on_over(self)

    # Ownership

    async def claim(
        self, event: Claimed, *, first: Sequence[Event] = (), then: Sequence[Event] = ()
    ) -> None:
        """Swap in a new epoch; raises `Refusal` (fenced) if somebody else was quicker.

        `first` are the records of a new run that go before its claim, `then` what ends it at once.
        """
        if self.log.unshipped:  # kept by a former life, which acknowledged it
            self.doors.budget.owe(self.shipper, self.log.state.seq)
        for before in first:
            self._uploads.send(self.log.append(before, at_ms=self.now_ms()))
        record = self.log.claim(event, at_ms=self.now_ms())
        for after in then:
            self._uploads.send(self.log.append(after, at_ms=self.now_ms()))
        if self._loop is None:
            await self.shipper.ship_all()
            self._loop = self._tasks.start(self.shipper.run(), name=f"ship {self.run}")
        else:
            await self.shipper.shipped(record.seq)
        self.is_over = False

    def attach(self, agent: Agent | None) -> None:
        """An agent came, or went."""
        self.agent = agent
        self.heard = agent.incarnation if agent is not None else self.heard
        self.agent_gone_s = self.doors.clock.monotonic()
        self.step_began_s = self.agent_gone_s

    def drain(self) -> None:
        """From now on what is acknowledged is off the pod, and what was is on its way at once."""
        self.shipper.is_draining = True
        self.shipper.urge()

    def expect(self, seconds: float) -> None:
        """The agent reckons that the run is done in so many seconds."""
        self.eta_at_s = self.doors.clock.monotonic() + max(0.0, seconds)

    def stop(self, *, left_s: float) -> None:
        """Tell the agent to stop at its next step boundary, which it has `left_s` to reach."""
        self.is_stopping = True
        self.push(Push.DRAIN, {"deadline_s": left_s})

    def push(self, push: Push, body: dict[str, Any]) -> None:
        """Tell the agent, if there is one."""
        if self.agent is not None:
            self.agent.push(push, body)

    def _on_shipped(self) -> None:
        self._local.trim(self.run, epoch=self.log.state.epoch, seq=self.log.shipped_seq)

    def _on_fenced(self) -> None:
        self.is_over = True
        if self._loop is not None:  # else it only lost a race for the run
            self.doors.observer.note("fenced", run=self.run, epoch=self.log.state.epoch)
        self.push(Push.FENCED, {"epoch": self.log.state.epoch})
        self._leave()

    async def close(self) -> None:
        """Stop shipping; what is unshipped stays in the journal."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        self.doors.budget.forget(self.shipper)

    def summary(self) -> RunSummary:
        """The line of a listing."""
        return line_of(self.log.state, stuck=self.is_stuck)

    @property
    def is_stuck(self) -> bool:
        """The step that an agent does now outlasts what it said a step may take."""
        timeout_s = self.step_timeout_s if self.agent is not None else None
        return timeout_s is not None and self._age_s > timeout_s

    @property
    def _age_s(self) -> float:
        """Of the step under way, as far as it was seen here."""
        return self.doors.clock.monotonic() - self.step_began_s


def _mark_seen(future: "asyncio.Future[None]") -> None:
    if not future.cancelled():
        future.exception()
