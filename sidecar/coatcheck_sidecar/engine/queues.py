"""Where an idle agent's next run is: here without an agent, ready, or of an owner that died."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.ownership import RunSummary, crash_delay_s
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.agent import Wants
from coatcheck_sidecar.engine.fleet import Fleet
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.engine.restore import read_head
from coatcheck_sidecar.engine.shipper import Doors
from coatcheck_sidecar.engine.tasks import TaskSet, happens
from coatcheck_sidecar.ports import StoreError

TRIES_MAX: Final = 10
"""Markers of one listing that a waiting agent tries before it rests."""
TOLD_MAX: Final = 1_000
"""Runs of which it is remembered that they were told of; then they are told of again."""


class Queues:
    """Looks for work. One look at a time for each queue, however many agents wait."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        tasks: TaskSet,
        owned: Callable[[], Iterable[Keeper]],
        is_awaited: Callable[[Keeper], bool],
        now_ms: Callable[[], int],
    ) -> None:
        """`owned` are the runs of this sidecar; of some the agent `is_awaited`."""
        self._fleet = fleet
        self._doors: Doors = fleet.doors
        self._tasks = tasks
        self._owned = owned
        self._is_awaited = is_awaited
        self._now_ms = now_ms
        self._markers: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._poke = asyncio.Event()

    def turn(self, queue: str) -> asyncio.Lock:
        """Held while one agent looks and opens."""
        return self._turns[queue]

    def poke(self) -> None:
        """A run lost its agent: who rests looks again."""
        self._poke.set()
        self._poke = asyncio.Event()

    async def rest(self) -> None:
        """Wait for a while, or until poked."""
        settings = self._doors.settings
        pause_s = settings.claim_poll_s * self._doors.clock.uniform(0.5, 1.0)
        await happens(self._poke, within_s=pause_s)

    async def candidates(self, wants: Wants) -> list[str]:
        """Runs worth trying, the best first. Never raises `StoreError`."""
        here = [keeper.run for keeper in self._owned() if self._is_free(keeper, wants)]
        if here:
            return here
        lapsed = [s.run for s in self._fleet.lapsed_runs(wants.queue) if self._fits(s, wants)]
        try:
            ready = await self._ready(wants)
        except StoreError as error:
            self._doors.observer.note("look_failed", error=str(error))
            ready = []
        return [*ready, *lapsed]

    def _is_free(self, keeper: Keeper, wants: Wants) -> bool:
        """Its agent is gone, and the breaker lets the next one in at once."""
        is_taken = keeper.agent is not None or keeper.is_undoing or self._is_awaited(keeper)
        if is_taken or keeper.log.state.created.queue != wants.queue:
            return False
        gone_s = self._doors.clock.monotonic() - keeper.agent_gone_s
        is_due = gone_s >= crash_delay_s(keeper.log.state.crashes + 1)
        return is_due and self._fits(keeper.summary(), wants)

    async def _ready(self, wants: Wants) -> list[str]:
        runs: list[str] = []
        self._markers.clear()
        for run, name in await self._fleet.ready(wants.queue):
            if len(runs) >= TRIES_MAX:
                break
            summary = await self._fleet.read_marker(name)
            if summary is None or not self._fits(summary, wants):
                continue
            if summary.not_before_ms <= self._now_ms():
                runs.append(run)
                self._markers[run] = name
        return runs

    def _fits(self, summary: RunSummary, wants: Wants) -> bool:
        """The agent can go on with it. If not, why is told once: no run is stranded in silence."""
        reason = wants.accepts.refusal(summary)
        if reason and self._told.get(summary.run) != reason:
            if len(self._told) >= TOLD_MAX:
                self._told.clear()
            self._told[summary.run] = reason
            self._doors.observer.note("not_accepted", run=summary.run, reason=reason)
        return not reason

    async def passed_over(self, run: str) -> None:
        """A run that a marker led to could not be had: the marker may be an old one.

        It is removed only if it is older than its run's epoch, and not while the run is owned: its
        owner does that, once a heartbeat of its own leads there.
        """
        await drop_stale(self._doors, run, marker=self._markers.pop(run, ""))


async def drop_stale(doors: Doors, run: str, *, marker: str) -> None:
    """Remove a marker (empty: none) that is older than its run's epoch, and nobody's."""
    try:
        found = await read_head(doors.store, run) if marker else None
        is_owned = found is not None and found[0].status is Status.OWNED
        if found is not None and not is_owned and _epoch_of(marker) < found[0].epoch:
            await doors.store.delete(marker)
    except (StoreError, Refusal, ValueError) as error:
        doors.observer.note("look_failed", error=str(error))


def _epoch_of(marker: str) -> int:
    return int(marker.rsplit("/", 1)[1])
