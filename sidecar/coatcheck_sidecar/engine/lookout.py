"""Looks at what waits in the queues: reads the store, writes nothing, needs no pod.

Markers and heartbeats say it all, but for runs of an owner that fell silent: those are looked up,
since nobody corrects the last heartbeat of a pod that died.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.objects import BadObject
from coatcheck_sidecar.core.ownership import RunSummary, decode_heartbeat, decode_summary
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.waiting import (
    Place,
    Waiting,
    place_of_head,
    place_of_marker,
    waiting_of,
)
from coatcheck_sidecar.engine.lines import each
from coatcheck_sidecar.engine.restore import read_head
from coatcheck_sidecar.engine.shipper import MARKED
from coatcheck_sidecar.ports import Clock, Listed, Store

READS_MAX: Final = 16
"""Small objects read at once."""
PAGE: Final = 1_000
"""Names in one answer of a store."""
NAMES_MAX: Final = 10_000
"""Markers of each kind, and heartbeats: far more than any scaler has pods for."""
LET_GO_OF: Final = (Status.READY, Status.COMPENSATING)
"""Listed before and after the owners: whatever way a run goes meanwhile, it is seen."""
SILENT_S: Final = 60.0
"""Twice the lease: an owner's last words are then held against its runs' heads."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen."""

    queues: tuple[Waiting, ...]
    is_cut: bool
    """There is more than was counted."""

    @property
    def wanted(self) -> int:
        """How many runs want a pod."""
        return sum(waiting.wanted for waiting in self.queues)


class Lookout:
    """Counts. Its own clock tells ready runs from those that are ready in a moment: no more."""

    def __init__(self, store: Store, clock: Clock) -> None:
        """It may be kept: what it knows of a marker it does not read again."""
        self._store = store
        self._clock = clock
        self._not_before_ms: dict[tuple[str, str], int] = {}
        """Of markers, by name and version."""

    async def look(self, queue: str | None = None, *, limit: int = NAMES_MAX) -> Look:
        """Count all queues, or one; `limit` names of each kind. Raises `StoreError`."""
        now_ms = self._clock.wall_ms()
        marked = {status: await self._listed(f"{status.value}/", limit) for status in MARKED}
        owned, is_cut = await self._owned(now_ms, limit)
        for status in LET_GO_OF:
            again, is_more = await self._listed(f"{status.value}/", limit)
            marked[status] = (list({*marked[status][0], *again}), is_more)
        places = owned
        for status, (listed, is_more) in marked.items():
            places += await self._ready(listed) if status is Status.READY else _named(listed)
            is_cut = is_cut or is_more
        return Look(waiting_of(places, now_ms=now_ms, queue=queue), is_cut)

    async def _owned(self, now_ms: int, limit: int) -> tuple[list[Place], bool]:
        listed, is_cut = await self._listed("owners/", limit)
        beats = [entry for entry in listed if entry.name.endswith("/heartbeat")]
        found = await each(beats, lambda beat: self._of_owner(beat, now_ms), at_once=READS_MAX)
        return [place for places in found for place in places], is_cut

    async def _of_owner(self, entry: Listed, now_ms: int) -> list[Place]:
        stored = await self._store.get(entry.name)
        if stored is None:
            return []
        try:
            runs = decode_heartbeat(entry.name, stored.data).runs
        except BadObject:  # its runs' heads are whole, and found by the scan of any pod
            return []
        if now_ms - entry.modified_ms <= SILENT_S * 1000:
            return [Place(line.run, line.epoch, line.queue, Status.OWNED) for line in runs]
        looked_up = [await self._of_head(line) for line in runs]
        return [place for place in looked_up if place is not None]

    async def _of_head(self, line: RunSummary) -> Place | None:
        try:
            found = await read_head(self._store, line.run)
        except Refusal:  # damaged: nobody can take it, somebody must look
            return Place(line.run, line.epoch, line.queue, Status.HELD)
        return None if found is None else place_of_head(found[0])

    async def _ready(self, listed: list[Listed]) -> list[Place]:
        keys = {(entry.name, entry.version) for entry in listed}
        new = keys - self._not_before_ms.keys()
        read = dict(await each(sorted(new), self._due, at_once=READS_MAX))
        known = {key: due_ms for key, due_ms in self._not_before_ms.items() if key in keys}
        self._not_before_ms = known | read
        due = {name: due_ms for (name, _), due_ms in self._not_before_ms.items()}
        return [replace(place, not_before_ms=due[name]) for name, place in _by_name(listed)]

    async def _due(self, key: tuple[str, str]) -> tuple[tuple[str, str], int]:
        stored = await self._store.get(key[0])
        with suppress(BadObject):
            if stored is not None:
                return key, decode_summary(key[0], stored.data).not_before_ms
        return key, 0

    async def _listed(self, prefix: str, limit: int) -> tuple[list[Listed], bool]:
        entries: list[Listed] = []
        while len(entries) <= limit:
            after = entries[-1].name if entries else ""
            page = await self._store.list(prefix, after=after, limit=PAGE)
            entries += page
            if len(page) < PAGE:
                break
        return entries[:limit], len(entries) > limit


def _by_name(listed: list[Listed]) -> list[tuple[str, Place]]:
    found = [(entry.name, place_of_marker(entry.name)) for entry in listed]
    return [(name, place) for name, place in found if place is not None]


def _named(listed: list[Listed]) -> list[Place]:
    return [place for _, place in _by_name(listed)]
