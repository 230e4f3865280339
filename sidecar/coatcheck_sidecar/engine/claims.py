"""Becoming a run's owner: read it, judge whether that is allowed, swap in a new epoch."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core import deadline
from coatcheck_sidecar.core.delta import BadDelta
from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.model import Body, Level, Status
from coatcheck_sidecar.core.ownership import (
    Claim,
    Claimable,
    Closed,
    Elsewhere,
    Later,
    decide_claim,
    gap_ms,
    pod_of,
    summary_of,
)
from coatcheck_sidecar.core.record import BadRecord, Claimed, Created, Record
from coatcheck_sidecar.core.rewind import is_set_back_since
from coatcheck_sidecar.core.runlog import RunLog
from coatcheck_sidecar.core.runstate import RunState, StatusEvent
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.agent import Wants
from coatcheck_sidecar.engine.fallback import hold, repair
from coatcheck_sidecar.engine.fleet import Fleet
from coatcheck_sidecar.engine.inherited import note_inherited, place_of
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.engine.local import LocalLog
from coatcheck_sidecar.engine.restore import (
    Damaged,
    Restored,
    address_of,
    hold_against,
    read_head,
    read_run,
)
from coatcheck_sidecar.engine.shipper import MARKED, Doors, fenced, marker_name
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.ports import StoreError

LOOK_AGAIN_SHARE: Final = 0.1
"""Of a lease: how often a run that somebody waits for is judged anew."""
REPAIRS_MAX: Final = 3
"""In one claim: an answer that is lost may be seen only once an older checkpoint is current."""
CLOSED: Final = {
    Status.PARKED: (ErrorCode.PARKED, Retry.LATER, "send it with `coatcheck signal`"),
    Status.HELD: (
        ErrorCode.HELD,
        Retry.NEVER,
        "decide with `coatcheck doubts`, `resolve`, `retry`",
    ),
}


class Claimer:
    """Makes keepers: of new runs, ready ones, those of a former life here, those of the dead."""

    def __init__(
        self, me: str, *, fleet: Fleet, local: LocalLog, tasks: TaskSet, now_ms: Callable[[], int]
    ) -> None:
        """`tails` is what the journal of a former life holds, by run."""
        self.me = me
        self.tails: dict[str, list[Record]] = {}
        self.read_inbox: Callable[[str, Keeper], Awaitable[None]] | None = None
        self.know_time: Callable[[], Awaitable[None]] | None = None
        """Makes `now_ms` the store's: what a log says of time must not jump."""
        self.is_draining = False
        self.is_just_back: Callable[[], bool] = lambda: False
        """This pod's agents may be about to reconnect."""
        self.on_claimed: Callable[[Keeper], None] = lambda keeper: None
        self._fleet = fleet
        self._doors: Doors = fleet.doors
        self._local = local
        self._tasks = tasks
        self.now_ms = now_ms

    async def claim(self, run: str, wants: Wants) -> Keeper | Restored:
        """Own the run, or learn that it is over (`Restored`); waits up to `wait_s`.

        Raises `Refusal`: not_found, owned_elsewhere, parked, held, schema_mismatch, damaged,
        store_unavailable, unavailable.
        """
        clock = self._doors.clock
        until_s = clock.monotonic() + wants.wait_s
        is_another = bool(wants.incarnation) and wants.resume_epoch is None
        if is_another and not await self._doors.budget.carries(within_s=wants.wait_s):
            why = f"run {run}: what this pod has to ship leaves no room for one more run"
            raise Refusal(ErrorCode.UNAVAILABLE, why, retry=Retry.LATER, run=run)
        while True:
            try:
                # A claim that may have reached the store is known here, whoever still waits.
                found = await self._tasks.whole(self.attempt(run, wants), name=f"claim {run}")
            except StoreError as error:
                found = Later(self._look_again_s, f"the store does not answer: {error}")
                refusal = Refusal(ErrorCode.STORE_UNAVAILABLE, found.reason, retry=Retry.LATER)
            else:
                refusal = _refusal(run, found)
            if isinstance(found, Keeper | Restored):
                return found
            if isinstance(found, OwnedBy):
                if self._fleet.is_fresh(found.owner):
                    raise refusal
                self._fleet.want(run)
            delay_s = min(self._look_again_s, getattr(found, "delay_s", self._look_again_s))
            if clock.monotonic() + delay_s > until_s:
                raise refusal
            await clock.sleep(delay_s)

    @property
    def _look_again_s(self) -> float:
        return self._doors.settings.lease_s * LOOK_AGAIN_SHARE

    async def attempt(self, run: str, wants: Wants) -> "Keeper | Restored | Later | OwnedBy":
        """One try; raises `Refusal`, `StoreError`."""
        if self.is_draining and wants.incarnation and wants.resume_epoch is None:
            raise Refusal(ErrorCode.DRAINING, "this pod is shutting down", retry=Retry.LATER)
        if self.know_time is not None:
            await self.know_time()
        restored = await self._read(run)
        if restored is None:
            return await self._create(run, wants)
        if isinstance(restored, OwnedBy | Later):
            return restored
        head = restored.head
        is_ours = head.status is Status.OWNED and pod_of(head.owner) == pod_of(self.me)
        tail = await self._tail(head)
        if wants.is_undo and restored.log.state.compensating is None:
            return restored
        if not wants.incarnation and not is_ours and not wants.is_undo:
            return restored
        return await self._decide(restored, tail, wants=wants)

    async def _decide(
        self, restored: Restored, tail: Sequence[Record], *, wants: Wants
    ) -> "Keeper | Restored | Later | OwnedBy":
        head, state = restored.head, restored.log.state
        is_lapsed = await self._fleet.is_still_lapsed(head.owner, head.run)
        decision = self._judge(head, crashes=state.crashes, is_lapsed=is_lapsed)
        match decision:
            case Claimable("restart") if wants.is_next and self.is_just_back():
                return Later(self._look_again_s, "its agent may be about to reconnect")
            case Claimable():
                ending = await self._add_tail(restored, tail)
                if ending is None and deadline.is_over(state.created, now_ms=self.now_ms()):
                    return await self._expired(restored, wants)
                if ending is not None:
                    return await self._end(restored.log, ending)
                return await self._take(restored, decision, wants=wants)
            case Elsewhere(owner):
                return OwnedBy(owner, state.claimed.address)
            case Closed(Status.PARKED) if deadline.is_over(state.created, now_ms=self.now_ms()):
                return await self._expired(restored, wants)
            case Closed(status, reason) if not status.is_final:
                code, retry, mend = CLOSED[status]
                why = f"run {head.run} is {status}: {reason}; {mend}"
                raise Refusal(code, why, retry=retry, run=head.run)
            case Closed():
                return restored
            case Later():
                return decision

    async def _read(
        self, run: str, *, repairs_max: int = REPAIRS_MAX
    ) -> "Restored | OwnedBy | Later | None":
        """The run; only its head, where that says that it is not to be had."""
        bytes_max = self._doors.settings.state_bytes_max
        began_s = self._doors.clock.monotonic()
        found = await read_head(self._doors.store, run)
        if found is None:
            return None
        head, _ = found
        self._fleet.notice(head)
        is_lapsed = self._fleet.is_lapsed(head.owner, run)
        decision = self._judge(head, crashes=0, is_lapsed=is_lapsed)
        if isinstance(decision, Elsewhere):
            await self._tail(head)
            return OwnedBy(decision.owner, address_of(head))
        if isinstance(decision, Later) and not self.tails.get(run):
            return decision
        try:
            restored = await read_run(self._doors.store, run, bytes_max=bytes_max, found=found)
        except Damaged as error:
            if repairs_max and await self._repaired(error):
                return await self._read(run, repairs_max=repairs_max - 1)
            raise await hold(self._doors, error, now_ms=self.now_ms()) from error
        if restored is not None:
            seconds = self._doors.clock.monotonic() - began_s
            self._doors.observer.note(
                "restored", run=run, seconds=seconds, objects=len(restored.head.named_objects())
            )
        return restored

    def _judge(self, head: Head, *, crashes: int, is_lapsed: bool) -> Claim:
        now_ms = self.now_ms()
        return decide_claim(head, me=self.me, crashes=crashes, is_lapsed=is_lapsed, now_ms=now_ms)

    async def _create(self, run: str, wants: Wants) -> "Keeper | Later":
        if not wants.can_create:
            raise Refusal(ErrorCode.NOT_FOUND, f"there is no run {run}", run=run)
        by_ms = 0
        if wants.deadline_s is not None:
            by_ms = deadline.moment_ms(wants.deadline_s, now_ms=await self._doors.store.now_ms())
        created = Created(
            queue=wants.queue,
            input=None if wants.input is None else Body(wants.input),
            schema=wants.schema,
            code_version=wants.code_version,
            pinned=wants.pinned,
            deadline_ms=by_ms,
        )
        keeper = self._keeper(RunLog(RunState(run)))
        return await self._swap(keeper, self._claimed(wants, cause="new", crashes=0), first=created)

    async def _take(
        self, restored: Restored, decision: Claimable, *, wants: Wants
    ) -> "Keeper | Later":
        head, log = restored.head, restored.log
        last = log.state.claimed
        if wants.resume_epoch is not None:
            is_back = is_set_back_since(log.state, wants.resume_epoch)
            if is_back or wants.incarnation != last.incarnation:
                raise fenced(head.run, wants.resume_epoch)
        is_same_agent = wants.resume_epoch is not None or not wants.incarnation
        refused = wants.accepts.refusal(summary_of(head))
        if refused and not is_same_agent:
            raise Refusal(ErrorCode.SCHEMA_MISMATCH, refused, run=head.run)
        crashes = log.state.crashes if is_same_agent else decision.crashes
        if is_same_agent:
            # An adopted run stays its agent's, which may live and be on its way back.
            claimed = replace(last, owner=self.me, cause=decision.cause, crashes=crashes)
            if wants.is_undo:  # from now on the agent that was at work has no part in it
                claimed = replace(claimed, incarnation=b"")
        else:
            since = log.state.seq + 1
            claimed = self._claimed(wants, cause=decision.cause, crashes=crashes, since=since)
        claimed = replace(claimed, gap_ms=gap_ms(head, log.state, me=self.me))
        keeper = self._keeper(log)
        keeper.is_undoing = wants.is_undo
        found = await self._swap(keeper, claimed)
        if isinstance(found, Keeper):
            if not is_same_agent:
                cause, now_ms = decision.cause, self.now_ms()
                note_inherited(self._doors.observer, head, cause=cause, now_ms=now_ms)
            self._tasks.start(self._after(head, keeper), name=f"claimed {head.run}")
            if crashes >= self._doors.settings.breaker_crashes and not is_same_agent:
                await keeper.hold(f"crash_loop: {crashes} crashes without progress")
                await keeper.close()
                raise Refusal(ErrorCode.HELD, f"run {head.run} crashed {crashes} times: held")
        return found

    async def _expired(
        self, restored: Restored, wants: Wants
    ) -> "Keeper | Restored | Later | OwnedBy":
        """Nobody owns the run, and its deadline is over: nobody shall."""
        await self.expire(restored)
        return await self.attempt(restored.head.run, wants)

    async def expire(self, restored: Restored) -> None:
        """End a run that nobody owns by its deadline; raises `StoreError`."""
        head, log = restored.head, restored.log
        self._doors.observer.note("run_expired", run=head.run)
        await self._end(log, deadline.ending(log.state), cause="deadline")
        if head.status in MARKED:
            await self._doors.store.delete(marker_name(head))

    async def _end(self, log: RunLog, ending: StatusEvent, *, cause: str = "restart") -> Later:
        """A former life let go of the run, and died before the store knew: say it in its place."""
        keeper = self._keeper(log)
        claimed = replace(log.state.claimed, owner=self.me, cause=cause, gap_ms=log.state.gap_ms)
        try:
            await keeper.claim(claimed, then=(ending,))
        except Refusal:
            return Later(0.0, "another owner was quicker")
        self.tails.pop(keeper.run, None)
        await keeper.close()
        return Later(0.0, "it was let go of")

    async def _tail(self, head: Head) -> list[Record]:
        """What this pod kept and had not shipped; what went on elsewhere is set aside."""
        tail, elsewhere = hold_against(head, self.tails.get(head.run, ()))
        if elsewhere:
            await self._local.set_aside(head.run, reason=f"the log went on in epoch {head.epoch}")
            self.tails[head.run] = tail
            if tail:
                await self._local.write(head.run, tail, level=Level.NODE)
        if not tail and self.tails.pop(head.run, None) is not None:
            self._local.trim(head.run, epoch=head.epoch, seq=head.seq)
        return tail

    async def _add_tail(self, restored: Restored, tail: Sequence[Record]) -> StatusEvent | None:
        """It goes on; the last event that ends the ownership, if there is one."""
        head, log = restored.head, restored.log
        try:
            for record in tail:
                log.replay(record, bytes_max=self._doors.settings.state_bytes_max)
        except (BadDelta, BadRecord) as error:
            await self._local.set_aside(head.run, reason=str(error))
            self._doors.observer.note("damaged", run=head.run, error=str(error))
        ending = tail[-1].event if tail and log.state.status is not Status.OWNED else None
        return ending if isinstance(ending, StatusEvent) else None

    async def _swap(
        self, keeper: Keeper, claimed: Claimed, *, first: Created | None = None
    ) -> "Keeper | Later":
        began_s = self._doors.clock.monotonic()
        try:
            await keeper.claim(claimed, first=() if first is None else (first,))
        except Refusal:
            return Later(0.0, "another owner was quicker")
        seconds = self._doors.clock.monotonic() - began_s
        told = {"cause": claimed.cause, "seconds": seconds, **place_of(keeper.log.state)}
        self._doors.observer.note("claimed", run=keeper.run, **told)
        self.tails.pop(keeper.run, None)
        self.on_claimed(keeper)
        return keeper

    async def _after(self, head: Head, keeper: Keeper) -> None:
        """What the former owner left behind: its marker, and commands that it did not read."""
        if head.status in MARKED:
            keeper.left_marker = marker_name(head)
        try:
            if head.status not in MARKED and self.read_inbox is not None:
                await self.read_inbox(head.owner, keeper)
        except StoreError as error:
            self._doors.observer.note("look_failed", error=str(error))

    async def _repaired(self, damage: Damaged) -> bool:
        """Leave behind what is damaged; false where the run can't go on without it."""
        head = damage.head
        self._doors.observer.note("damaged", run=head.run, error=str(damage))
        if not await self._fleet.is_free(head):
            return True  # its owner is well after all
        try:
            return await repair(self._doors, damage, by=self.me, now_ms=self.now_ms())
        except Refusal:  # another owner was quicker
            return True

    def _claimed(self, wants: Wants, *, cause: str, crashes: int, since: int = 2) -> Claimed:
        return Claimed(
            owner=self.me,
            incarnation=wants.incarnation,
            address=wants.address,
            code_version=wants.code_version,
            cause=cause,
            crashes=crashes,
            since=since,
        )

    def _keeper(self, log: RunLog) -> Keeper:
        return Keeper(
            log, doors=self._doors, local=self._local, tasks=self._tasks, now_ms=self.now_ms
        )


@dataclass(frozen=True, slots=True)
class OwnedBy:
    """Somebody else's; `address` is what its agent gave for redirects."""

    owner: str
    address: str


def _refusal(run: str, found: "Keeper | Restored | Later | OwnedBy") -> Refusal:
    if isinstance(found, OwnedBy):
        return Refusal(
            ErrorCode.OWNED_ELSEWHERE,
            f"run {run} is owned by {found.owner}",
            retry=Retry.LATER,
            run=run,
            address=found.address,
        )
    reason = found.reason if isinstance(found, Later) else ""
    return Refusal(ErrorCode.UNAVAILABLE, f"run {run}: {reason}", retry=Retry.LATER, run=run)
