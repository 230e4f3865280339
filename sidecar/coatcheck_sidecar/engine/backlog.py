"""How many runs of the whole store wait, and since when: told by their markers, for the gauges."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.waiting import place_of_marker
from coatcheck_sidecar.engine.shipper import Doors
from coatcheck_sidecar.ports import Listed, StoreError

LOOK_S: Final = 60.0
"""Four listings a minute cost a fifth of what watching the owners costs."""
MARKERS_MAX: Final = 1_000
"""One page of a listing: more runs than that are told as so many."""
QUEUES_MAX: Final = 100
"""Queues told apart; names are the users', and each makes a series."""
OTHER: Final = "other"
WAITING: Final = (Status.READY, Status.HELD, Status.PARKED, Status.COMPENSATING)


@dataclass(frozen=True, slots=True)
class Queued:
    """Runs of one queue that wait in the same way."""

    runs: int
    oldest_s: float
    """Since when the first of them waits, at the time of the look."""


class Backlog:
    """Looks at the markers now and then. What it saw is gone when the store is away."""

    def __init__(self, doors: Doors) -> None:
        """Nothing is known before the first look."""
        self.seen: Mapping[tuple[str, str], Queued] = {}
        """By status and queue."""
        self._doors = doors

    async def run(self) -> None:
        """Look for ever; the first time soon, and not with the rest of a fleet that starts."""
        clock = self._doors.clock
        pause_s = self._doors.settings.heartbeat_s
        while True:
            await clock.sleep(pause_s * clock.uniform(0.5, 1.0))
            await self.look()
            pause_s = LOOK_S

    async def look(self) -> None:
        """One look."""
        store = self._doors.store
        try:
            now_ms = await store.now_ms()
            pages = await asyncio.gather(
                *(store.list(f"{status}/", limit=MARKERS_MAX) for status in WAITING)
            )
        except StoreError as error:
            self.seen = {}
            self._doors.observer.note("look_failed", error=str(error))
            return
        seen: dict[tuple[str, str], Queued] = {(str(s), "default"): Queued(0, 0.0) for s in WAITING}
        for status, page in zip(WAITING, pages, strict=True):
            for marker in page:
                if place_of_marker(marker.name) is None:  # somebody's, and nobody's run
                    continue
                _add(seen, marker, status=str(status), now_ms=now_ms)
        self.seen = seen


def _add(seen: dict[tuple[str, str], Queued], marker: Listed, *, status: str, now_ms: int) -> None:
    queue = marker.name.split("/")[1]
    if (status, queue) not in seen and len(seen) >= QUEUES_MAX:
        queue = OTHER
    before = seen.get((status, queue), Queued(0, 0.0))
    age_s = max(0.0, (now_ms - marker.modified_ms) / 1000)
    seen[status, queue] = Queued(before.runs + 1, max(before.oldest_s, age_s))
