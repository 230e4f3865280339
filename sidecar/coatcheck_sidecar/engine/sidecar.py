"""The sidecar itself: the runs it owns, and the loops around them."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core.call_events import Life
from coatcheck_sidecar.core.ownership import crash_delay_s
from coatcheck_sidecar.core.record import Claimed
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.absent import Absent
from coatcheck_sidecar.engine.agent import Agent, LateOutcome, Wants
from coatcheck_sidecar.engine.backlog import Backlog
from coatcheck_sidecar.engine.budget import Budget, Measured
from coatcheck_sidecar.engine.calls import Calls
from coatcheck_sidecar.engine.claims import Claimer
from coatcheck_sidecar.engine.drain import Drain, Pod
from coatcheck_sidecar.engine.fleet import Fleet
from coatcheck_sidecar.engine.heart import Heart
from coatcheck_sidecar.engine.inherited import note_let_go, place_of
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.engine.lane import Lane
from coatcheck_sidecar.engine.local import LocalLog, Spool
from coatcheck_sidecar.engine.overdue import Overdue
from coatcheck_sidecar.engine.queues import Queues
from coatcheck_sidecar.engine.restore import Restored, read_run
from coatcheck_sidecar.engine.scan import scan_heads
from coatcheck_sidecar.engine.settings import Settings
from coatcheck_sidecar.engine.shipper import Doors, fenced
from coatcheck_sidecar.engine.sweep import sweep
from coatcheck_sidecar.engine.tasks import TaskSet, happens
from coatcheck_sidecar.engine.undo import Undoing
from coatcheck_sidecar.ports import Clock, Journal, Observer, Store, StoreError

ADOPT_RETRY_S: Final = 1.0
"""Between two tries to ship a former life's records, while the store is away."""


@dataclass(slots=True)
class Opened:
    """What an agent gets: its run, or that the run is over."""

    keeper: Keeper | None
    calls: Calls | None
    over: Restored | None


class Sidecar:
    """Owns runs for the agents of one pod."""

    def __init__(
        self,
        me: str,
        *,
        store: Store,
        journal: Journal,
        spool: Spool,
        clock: Clock,
        settings: Settings,
        observer: Observer,
    ) -> None:
        """`me` is `<pod uid>.<start id>`."""
        self.me = me
        self.settings = settings
        self.keepers: dict[str, Keeper] = {}
        self.journal, self.is_started = journal, False
        self.mode = "enforce"
        """What `hello` tells clients; see docs/protocol.md."""
        self.make_calls: Callable[[Keeper], Calls] = Calls
        self.on_let_go: Callable[[str], None] = lambda run: None
        self.on_late_outcome: Callable[[Keeper, LateOutcome], None] = lambda keeper, told: None
        self._calls: dict[str, Calls] = {}
        self._observer = observer
        self._clock = clock
        self._store = store
        self.tasks = TaskSet(self._task_failed)
        gate = asyncio.Semaphore(settings.puts_max)
        background = Lane(store.background_puts_max, share=store.background_share)
        self.budget = Budget(clock, settings=settings, observer=observer)
        measured = Measured(store, link=self.budget.link, clock=clock, observer=observer)
        self.doors = Doors(measured, clock, settings, observer, gate, background, self.budget)
        self._local = LocalLog(journal, spool, tasks=self.tasks, note=observer)
        self._offset_ms: int | None = None
        """The store's time less this node's; unknown before it was asked."""
        self.fleet = Fleet(me, self.doors)
        self.backlog = Backlog(self.doors)
        self.heart = Heart(me, doors=self.doors, keepers=self._owned, now_ms=self.now_ms)
        self._claimer = self._made_claimer()
        self._opening: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._absent = Absent(self.keepers, lock_of=self._opening.__getitem__, doors=self.doors)
        pod = Pod(
            self.keepers,
            is_waiting=lambda: self._is_waiting,
            is_awaited=self._absent.is_awaited,
            rate=self.budget.rate,
            close_doors=self._close_doors,
            leave=self.heart.stop,
        )
        self.drain = Drain(pod, doors=self.doors, tasks=self.tasks)
        self._overdue = Overdue(
            self._claimer, keepers=self.keepers, lock_of=self._opening.__getitem__,
            fleet=self.fleet, tasks=self.tasks, now_ms=self.now_ms,
        )  # fmt: skip
        self._overdue.on_stuck = self.heart.poke
        self.budget.latch = lambda: self.drain.latch
        self.undoing = self._made_undoing()
        self._queues = Queues(
            self.fleet, tasks=self.tasks, owned=self._owned,
            is_awaited=self._absent.is_awaited, now_ms=self.now_ms,
        )  # fmt: skip

    def _made_claimer(self) -> Claimer:
        claimer = Claimer(
            self.me, fleet=self.fleet, local=self._local, tasks=self.tasks, now_ms=self.now_ms
        )
        claimer.read_inbox = self.heart.read_inbox
        claimer.know_time = self._know_time
        claimer.on_claimed = self._keep
        claimer.is_just_back = lambda: self._absent.is_just_back
        return claimer

    def _made_undoing(self) -> Undoing:
        undoing = Undoing(
            self._claimer, keepers=self.keepers, calls=self._calls,
            lock_of=self._opening.__getitem__, fleet=self.fleet, tasks=self.tasks,
        )  # fmt: skip
        undoing.has_time = self.drain.has_time
        undoing.is_on = lambda: self.mode == "enforce"
        return undoing

    def _task_failed(self, name: str, error: BaseException) -> None:
        self._observer.note("task_failed", name=name, error=repr(error))

    def now_ms(self) -> int:
        """Store time, as last learned."""
        return self._clock.wall_ms() + (self._offset_ms or 0)

    def _owned(self) -> list[Keeper]:
        return [keeper for keeper in self.keepers.values() if not keeper.is_over]

    def place(self, run: str) -> dict[str, object]:
        """Where a run is that this sidecar owns, for its log lines: epoch, and the step to do."""
        keeper = self.keepers.get(run)
        return {} if keeper is None else place_of(keeper.log.state)

    async def start(self) -> None:
        """Take up what a former life left, and begin to beat. Does not wait for the store."""
        if self.journal.is_inherited:
            self._absent.restarted()
            self.tasks.start(self._absent.then(self._queues.poke), name="agents back")
        self._claimer.tails = await self._local.load()
        self.tasks.start(self.heart.run(), name="heartbeat")
        self.tasks.start(self.fleet.run(), name="fleet")
        self.tasks.start(self._absent.sweep(), name="sweep")
        self.tasks.start(self._learn_time(), name="store time")
        self.tasks.start(scan_heads(self.fleet, self._overdue.scanned), name="scan heads")
        self.tasks.start(self._overdue.run(), name="overdue")
        self.tasks.start(self.budget.probe(self.doors.store, self.me), name="probe link")
        self.tasks.start(self.undoing.run(), name="undo")
        self.tasks.start(self.backlog.run(), name="backlog")
        self.tasks.start(sweep(self.doors, self._owned), name="collect")
        for run in list(self._claimer.tails):
            self.tasks.start(self._adopt(run), name=f"adopt {run}")
        self.is_started = True

    async def _know_time(self) -> None:
        """Learn the store's time if it is not known yet; raises `StoreError`."""
        if self._offset_ms is None:
            await self._ask_time()

    async def _ask_time(self) -> None:
        self._offset_ms = await self._store.now_ms() - self._clock.wall_ms()

    async def _learn_time(self) -> None:
        while True:
            try:
                await self._ask_time()
            except StoreError as error:
                self._observer.note("look_failed", error=str(error))
            await self._clock.sleep(self.settings.heartbeat_s)

    async def _adopt(self, run: str) -> None:
        """Ship what a former life kept of a run, whether or not its agent comes back."""
        wants = Wants(run=run, can_create=False, wait_s=0.0)
        while run in self._claimer.tails and run not in self.keepers:
            try:
                async with self._opening[run]:
                    if run in self._claimer.tails and run not in self.keepers:
                        await self._claimer.claim(run, wants)
            except Refusal as error:
                self._observer.note("adopt_failed", run=run, error=error.message)
                if error.code is not ErrorCode.STORE_UNAVAILABLE:
                    return
                await self._clock.sleep(ADOPT_RETRY_S)

    def _keep(self, keeper: Keeper) -> None:
        self.keepers[keeper.run] = keeper
        self._calls[keeper.run] = self.make_calls(keeper)
        keeper.on_over = self._let_go
        keeper.writing = self._calls[keeper.run].writing
        if self.drain.is_begun:
            keeper.drain()
            self.drain.poke()
        self.heart.poke()
        self._overdue.poke()

    def _let_go(self, keeper: Keeper) -> None:
        if self.keepers.get(keeper.run) is keeper:
            del self.keepers[keeper.run]
            del self._calls[keeper.run]
            self.on_let_go(keeper.run)
            self.tasks.start(self._clear_up(keeper), name=f"close {keeper.run}")
        if not self._opening[keeper.run].locked():
            del self._opening[keeper.run]
        self.undoing.let_go(keeper)
        self.drain.poke()
        note_let_go(self._observer, keeper.log.state)

    async def _clear_up(self, keeper: Keeper) -> None:
        if keeper.shipper.is_fenced and keeper.log.unshipped:
            reason = f"epoch {keeper.log.state.epoch} was fenced"
            await self._local.set_aside(keeper.run, reason=reason)
        if not keeper.shipper.is_fenced:
            await self.heart.drop_marker(keeper)
        await keeper.close()

    # Agents

    async def open(self, wants: Wants, agent: Agent, *, lives: dict[int, Life]) -> Opened:
        """Give an agent its run, or the next of its queue; raises `Refusal`."""
        if wants.run is None:
            return await self._next(wants, agent)
        return await self._open(wants.run, wants, agent=agent, lives=lives)

    async def _open(
        self, run: str, wants: Wants, *, agent: Agent, lives: dict[int, Life]
    ) -> Opened:
        async with self._opening[run]:
            self._refuse_draining(wants)
            await self._until_gone(run, wants)
            keeper = self.keepers.get(run)
            if keeper is not None:
                return await self._reopen(keeper, wants, agent=agent, lives=lives)
            found = await self._claimer.claim(run, wants)
            if isinstance(found, Restored):
                return Opened(None, None, found)
            calls = self._calls[run]
            found.attach(agent)
            if wants.resume_epoch is not None:
                await self._resume(found, wants, lives=lives, is_known=False)
            return Opened(found, calls, None)

    async def _resume(
        self, keeper: Keeper, wants: Wants, *, lives: dict[int, Life], is_known: bool
    ) -> None:
        """Take in how the calls of an agent stand that came back; of a new one, adopt them."""
        agent, calls = keeper.agent, self._calls[keeper.run]
        try:
            if wants.resume_epoch is None:
                calls.begin()
                await calls.adopt()
                return
            await calls.resume(
                wants.resume_epoch, lives, answered=wants.resume_answered, is_known=is_known
            )
        except BaseException:  # an agent that is gone before it has its answer holds no run
            if agent is not None:
                self.detach(keeper, agent)
            raise

    async def _until_gone(self, run: str, wants: Wants) -> None:
        """A run that is being let go of here is not claimed anew before the store has it all."""
        keeper = self.keepers.get(run)
        if keeper is None or not keeper.is_over:
            return
        if not await happens(keeper.is_gone, within_s=wants.wait_s):
            why = f"run {run} is being let go of, and the store does not answer"
            raise Refusal(ErrorCode.UNAVAILABLE, why, retry=Retry.LATER, run=run)

    def _refuse_draining(self, wants: Wants) -> None:
        is_new = wants.resume_epoch is None
        if self.drain.is_closed or (self.drain.is_begun and is_new):
            raise Refusal(ErrorCode.DRAINING, "this pod is shutting down", retry=Retry.LATER)

    async def _reopen(
        self, keeper: Keeper, wants: Wants, *, agent: Agent, lives: dict[int, Life]
    ) -> Opened:
        """A run that this sidecar owns already: its agent came back, or a new one comes."""
        state = keeper.log.state
        is_same = wants.resume_epoch is not None and wants.incarnation == state.claimed.incarnation
        if wants.resume_epoch is not None and not is_same:
            raise fenced(keeper.run, wants.resume_epoch)
        if keeper.agent is not None and not is_same:
            raise Refusal(
                ErrorCode.CONFLICT,
                f"run {keeper.run} is open on another connection of this pod",
                retry=Retry.LATER,
                run=keeper.run,
            )
        self._refuse_unfit(keeper, wants)
        has_had_agent = bool(state.claimed.incarnation)
        crashes = state.crashes + (1 if has_had_agent and not is_same else 0)
        if crashes > state.crashes:
            self._observer.note("crashed", run=keeper.run, how="agent")
        await self._break(keeper, crashes)
        claimed = Claimed(
            owner=self.me,
            incarnation=wants.incarnation,
            address=wants.address,
            code_version=wants.code_version,
            cause="restart",
            crashes=crashes,
            since=state.claimed.since if is_same else state.seq + 1,
            gap_ms=state.gap_ms,
        )
        is_known = keeper.heard == wants.incarnation
        await keeper.claim(claimed)
        keeper.attach(agent)
        await self._resume(keeper, wants, lives=lives, is_known=is_known)
        return Opened(keeper, self._calls[keeper.run], None)

    def _refuse_unfit(self, keeper: Keeper, wants: Wants) -> None:
        keeper.check_in_time()
        refused = wants.accepts.refusal(keeper.summary())
        if refused:
            raise Refusal(ErrorCode.SCHEMA_MISMATCH, refused, run=keeper.run)

    async def _break(self, keeper: Keeper, crashes: int) -> None:
        """The crash-loop breaker, for agents that die under a living sidecar."""
        if crashes >= self.settings.breaker_crashes:
            await keeper.hold(f"crash_loop: {crashes} crashes without progress")
            raise Refusal(
                ErrorCode.HELD,
                f"run {keeper.run} is held after {crashes} crashes without progress; "
                f"see its log, then `coatcheck retry {keeper.run}`",
                run=keeper.run,
            )
        since_s = self._clock.monotonic() - keeper.agent_gone_s
        await self._clock.sleep(max(0.0, crash_delay_s(crashes) - since_s))

    async def _next(self, wants: Wants, agent: Agent) -> Opened:
        """The next run of a queue: one whose agent died here, a ready one, or one to take over."""
        until_s = self._clock.monotonic() + wants.wait_s
        while True:
            async with self._queues.turn(wants.queue):
                self._refuse_draining(wants)
                for run in await self._queues.candidates(wants):
                    try:
                        opened = await self._open(
                            run,
                            replace(wants, run=run, is_next=True, wait_s=0.0),
                            agent=agent,
                            lives={},
                        )
                    except Refusal as error:
                        self._observer.note("passed_over", run=run, error=error.message)
                        if error.code not in (ErrorCode.OWNED_ELSEWHERE, ErrorCode.UNAVAILABLE):
                            await self._queues.passed_over(run)
                        continue
                    if opened.keeper is not None:
                        return opened
                    await self._queues.passed_over(run)
                if self._clock.monotonic() >= until_s:
                    raise Refusal(
                        ErrorCode.UNAVAILABLE,
                        f"nothing is ready in queue {wants.queue}",
                        retry=Retry.LATER,
                    )
                await self._queues.rest()

    def detach(self, keeper: Keeper, agent: Agent) -> None:
        """A connection ended without releasing its run: the agent died, or will reconnect."""
        if keeper.agent is agent:
            keeper.attach(None)
            self._queues.poke()
            self.drain.poke()

    async def look_up(self, run: str) -> Restored | None:
        """A run as it stands in the store; raises `Refusal`, `Damaged`, `StoreError`."""
        return await read_run(self._store, run, bytes_max=self.settings.state_bytes_max)

    # Ending

    def _close_doors(self) -> None:
        self.heart.is_draining = self._claimer.is_draining = True
        self._queues.poke()

    @property
    def _is_waiting(self) -> bool:
        """What a former life left, and a claim under way, turn up late."""
        has_late = bool(self._claimer.tails) or self.undoing.is_busy or self._absent.is_just_back
        return has_late or any(lock.locked() for lock in self._opening.values())

    async def close(self) -> None:
        """End the loops; what is unshipped stays in the journal."""
        await self.tasks.close()
