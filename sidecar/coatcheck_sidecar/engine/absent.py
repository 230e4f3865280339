"""Runs whose agent is not here: it may be about to reconnect, or it died and does not come back."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.engine.shipper import Doors

SWEEPS_PER_WAIT: Final = 10
"""How often, within `agent_wait_s`, runs without an agent are looked for."""
AGENTS_BACK_S: Final = 2.5
"""After a restart of the sidecar: an SDK that reconnects rests for 2 s at most between two tries
(docs/protocol.md), and then needs a moment."""


class Absent:
    """Says whose agent is awaited, and releases what nobody comes back for."""

    def __init__(
        self,
        keepers: Mapping[str, Keeper],
        *,
        lock_of: Callable[[str], asyncio.Lock],
        doors: Doors,
    ) -> None:
        """`keepers` are the runs here; `lock_of` a run is held while it is opened."""
        self._keepers = keepers
        self._lock_of = lock_of
        self._doors = doors
        self._back_by_s = float("-inf")

    def restarted(self) -> None:
        """A former sidecar of this pod had agents, which now reconnect."""
        self._back_by_s = self._doors.clock.monotonic() + AGENTS_BACK_S

    async def then(self, do: Callable[[], None]) -> None:
        """Call `do` when whoever has not reconnected by then is not awaited any more."""
        await self._doors.clock.sleep(self._back_by_s - self._doors.clock.monotonic())
        do()

    @property
    def is_just_back(self) -> bool:
        """After a restart of the sidecar, for as long as agents take to reconnect."""
        return self._doors.clock.monotonic() < self._back_by_s

    def is_awaited(self, keeper: Keeper) -> bool:
        """The agent that has this run knew the former sidecar, and may be about to reconnect."""
        has_had_agent = bool(keeper.log.state.claimed.incarnation)
        return self.is_just_back and has_had_agent and not keeper.heard

    async def sweep(self) -> None:
        """Runs whose agent died and did not come back are for others. Ends with its task."""
        while True:
            wait_s = self._doors.settings.agent_wait_s
            await self._doors.clock.sleep(wait_s / SWEEPS_PER_WAIT)
            now_s = self._doors.clock.monotonic()
            for keeper in list(self._keepers.values()):
                waits_s = 0.0 if keeper.log.state.compensating else wait_s
                is_here = keeper.agent is not None or keeper.is_undoing
                is_lost = not is_here and now_s - keeper.agent_gone_s > waits_s
                lock = self._lock_of(keeper.run)
                if is_lost and not keeper.is_over and not lock.locked():
                    async with lock:
                        await self._release(keeper)

    async def _release(self, keeper: Keeper) -> None:
        try:
            await keeper.release("error", "the agent died and did not come back")
        except Refusal as error:
            self._doors.observer.note("look_failed", error=error.message)
