"""Ends runs whose deadline is over, whoever has them; and reports steps that take too long."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from coatcheck.wire import Push
from coatcheck_sidecar.core import deadline
from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.agent import Agent, Wants
from coatcheck_sidecar.engine.claims import Claimer
from coatcheck_sidecar.engine.fleet import Fleet
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.engine.restore import Restored
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.ports import StoreError

LOOK_S_MAX: Final = 1.0
"""A run that came meanwhile is looked at so late at most."""
LOOK_S_MIN: Final = 0.02
"""Between two looks, however many moments come."""
ENDED_BY_IT: Final = frozenset({Status.READY, Status.PARKED, Status.OWNED})
"""A held run stands still anyway, and an operator has it in hand: it ends when it may go on."""


@dataclass(slots=True)
class _Told:
    """What was said of a run already."""

    agent: Agent | None = None
    """Knows that its run's deadline is near."""
    step: tuple[int, int] = (0, 0)
    """Epoch and step that was reported as stuck."""


class Overdue:
    """Looks at the runs of one sidecar, and at the heads that its scan comes by."""

    def __init__(
        self,
        claimer: Claimer,
        *,
        keepers: Mapping[str, Keeper],
        lock_of: Callable[[str], asyncio.Lock],
        fleet: Fleet,
        tasks: TaskSet,
        now_ms: Callable[[], int],
    ) -> None:
        """`keepers` are the runs here; `lock_of` a run is held while it is opened."""
        self.on_stuck: Callable[[], None] = lambda: None
        self._claimer = claimer
        self._keepers = keepers
        self._lock_of = lock_of
        self._fleet = fleet
        self._doors = fleet.doors
        self._tasks = tasks
        self._now_ms = now_ms
        self._told: dict[str, _Told] = {}
        self._poke = asyncio.Event()

    async def run(self) -> None:
        """Look for ever: at the latest when the next deadline or time-out comes."""
        while True:
            if not self._keepers:
                self._poke.clear()
                await self._poke.wait()
            await self._doors.clock.sleep(self.look())

    def poke(self) -> None:
        """There is a run."""
        self._poke.set()

    def look(self) -> float:
        """One look at the runs here; in how many seconds to look again."""
        self._told = {run: told for run, told in self._told.items() if run in self._keepers}
        left = [LOOK_S_MAX]
        for keeper in list(self._keepers.values()):
            if not keeper.is_over:
                left += [self._look_at_deadline(keeper), self._look_at_step(keeper)]
        return max(LOOK_S_MIN, min(left))

    def _look_at_deadline(self, keeper: Keeper) -> float:
        left_s = deadline.left_s(keeper.log.state.created, now_ms=self._now_ms())
        if left_s is None:
            return LOOK_S_MAX
        if left_s <= 0:
            if not self._lock_of(keeper.run).locked():
                self._tasks.start(self._end(keeper), name=f"end {keeper.run}")
        elif left_s <= deadline.NEAR_S:
            told = self._told.setdefault(keeper.run, _Told())
            if told.agent is not keeper.agent:
                told.agent = keeper.agent
                keeper.push(Push.DEADLINE, {"left_s": left_s})
        return left_s if left_s > 0 else LOOK_S_MAX

    async def _end(self, keeper: Keeper) -> None:
        """By the store's own word: this node's clock may have been set meanwhile."""
        async with self._lock_of(keeper.run):
            try:
                now_ms = await self._doors.store.now_ms()
                if deadline.is_over(keeper.log.state.created, now_ms=now_ms) and not keeper.is_over:
                    await keeper.expire()
            except (StoreError, Refusal) as error:
                self._doors.observer.note("look_failed", error=str(error))

    def _look_at_step(self, keeper: Keeper) -> float:
        state, timeout_s = keeper.log.state, keeper.step_timeout_s
        if timeout_s is None or keeper.agent is None:
            return LOOK_S_MAX
        age_s = self._doors.clock.monotonic() - keeper.step_began_s
        if age_s <= timeout_s:
            return timeout_s - age_s
        told, step = self._told.setdefault(keeper.run, _Told()), (state.epoch, state.step + 1)
        if told.step != step:
            told.step = step
            self._doors.observer.note(
                "step_stuck", run=keeper.run, step=step[1], seconds=round(age_s, 3),
                timeout_s=timeout_s, queue=state.created.queue,
            )  # fmt: skip
            self.on_stuck()
        return LOOK_S_MAX

    async def scanned(self, head: Head) -> bool:
        """End the run of a head if it is late and nobody's; raises `StoreError`. Whether it was."""
        if head.status not in ENDED_BY_IT or self._claimer.is_draining or not self._is_late(head):
            return False
        async with self._lock_of(head.run):
            if head.run in self._keepers:
                return False
            try:
                wants = Wants(run=head.run, can_create=False, wait_s=0.0)
                found = await self._claimer.attempt(head.run, wants)
                if not isinstance(found, Restored) or not await self._is_free(found.head):
                    return False
                if not self._is_late(head):  # the first try of all learns the store's time
                    return False
                await self._claimer.expire(found)
            except Refusal as error:
                self._doors.observer.note("look_failed", error=error.message)
        return True

    def _is_late(self, head: Head) -> bool:
        return deadline.is_over(head.created, now_ms=self._now_ms())

    async def _is_free(self, head: Head) -> bool:
        if head.status is Status.OWNED:
            return await self._fleet.is_still_lapsed(head.owner, head.run)
        return head.status in ENDED_BY_IT
