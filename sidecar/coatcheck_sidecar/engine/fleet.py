"""What this sidecar sees of the others: who is well, whose runs are free, what is ready."""

from dataclasses import dataclass, field, replace
from typing import Final

from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.objects import BadObject
from coatcheck_sidecar.core.ownership import (
    Heartbeat,
    RunSummary,
    Watch,
    decode_heartbeat,
    decode_summary,
    pod_of,
    summary_of,
)
from coatcheck_sidecar.engine.shipper import Doors
from coatcheck_sidecar.ports import StoreError

LOOKS_PER_LEASE: Final = 8
"""Often enough that a window is cut short by at most an eighth of a lease."""
SUSPECT_BEATS: Final = 1.5
"""A heartbeat unchanged for so many of its intervals makes its runs' heads worth watching."""
OWNERS_MAX: Final = 10_000
"""Owners looked at; more pods on one prefix than that want prefixes of their own."""
MARKERS_MAX: Final = 100
"""Ready markers looked at in one listing; others are found as these go."""
STRAYS_MAX: Final = 1_000
"""Heads watched for their own sake; others are found when the scan comes by again."""


@dataclass(slots=True)
class _Owner:
    beat: Heartbeat | None = None
    version: str = ""
    changed_s: float = float("-inf")
    """When its heartbeat was last seen to change; at first sight nothing is known of that."""


@dataclass(slots=True)
class Fleet:
    """Watches `owners/`; knows only what it saw itself, on its own clock."""

    me: str
    doors: Doors
    _owners: dict[str, _Owner] = field(default_factory=dict)
    _wanted: dict[str, float] = field(default_factory=dict)
    _strays: dict[str, tuple[RunSummary, str]] = field(default_factory=dict)
    """Owned runs that no heartbeat names, with their owner: it may have died before it could."""
    _watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        """The lease is the window that must pass."""
        self._watch = Watch(self.doors.settings.lease_s)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            pause_s = self.doors.settings.lease_s / LOOKS_PER_LEASE
            await self.doors.clock.sleep(pause_s * self.doors.clock.uniform(0.8, 1.0))

    async def look(self) -> None:
        """One look at the owners, and at the heads that matter."""
        try:
            await self._look_at_owners()
            await self._look_at_heads()
        except StoreError as error:
            self._watch.failed()
            self.doors.observer.note("look_failed", error=str(error))

    async def _look_at_owners(self) -> None:
        asked_s = self.doors.clock.monotonic()
        listed = [
            entry
            for entry in await self.doors.store.list("owners/", limit=OWNERS_MAX)
            if entry.name.endswith("/heartbeat")
        ]
        answered_s = self.doors.clock.monotonic()
        for entry in listed:
            self._watch.saw(entry.name, entry.version, asked_s=asked_s, answered_s=answered_s)
            name = entry.name.split("/")[1]
            owner = self._owners.setdefault(name, _Owner())
            if owner.version != entry.version:
                if owner.version:
                    owner.changed_s = asked_s
                owner.version, owner.beat = entry.version, None
        gone = self._owners.keys() - {entry.name.split("/")[1] for entry in listed}
        for name in gone:
            del self._owners[name]
            self._watch.forget(heartbeat_name(name))
        for name in sorted({*self._suspects(), *self._former()}):
            await self._read_beat(name)
            await self._bury(name)

    def _suspects(self) -> list[str]:
        late_s = self.doors.settings.heartbeat_s * SUSPECT_BEATS
        return [
            name
            for name in self._owners
            if name != self.me and self._watch.unchanged_s(heartbeat_name(name)) > late_s
        ]

    def _former(self) -> list[str]:
        """Owners of former starts of this pod: dead, since this one has their folder."""
        return [n for n in self._owners if n != self.me and pod_of(n) == pod_of(self.me)]

    async def _bury(self, name: str) -> None:
        """The heartbeat of the dead goes when all its runs are known to have gone on."""
        beat = self._owners[name].beat
        is_dead = pod_of(name) == pod_of(self.me) or self._watch.is_lapsed(heartbeat_name(name))
        if beat is not None and not beat.runs and is_dead:
            await self.doors.store.delete(heartbeat_name(name))

    async def _read_beat(self, name: str) -> None:
        owner = self._owners[name]
        if owner.beat is not None:
            return
        stored = await self.doors.store.get(heartbeat_name(name))
        if stored is None:
            return
        try:
            owner.beat = decode_heartbeat(heartbeat_name(name), stored.data)
        except BadObject as error:
            self.doors.observer.note("damaged", run="", error=str(error))

    async def _look_at_heads(self) -> None:
        now_s = self.doors.clock.monotonic()
        self._wanted = {run: until for run, until in self._wanted.items() if until > now_s}
        runs = {summary.run for name in self._suspects() for summary in self._runs_of(name)}
        for run in sorted(runs | self._wanted.keys() | self._strays.keys()):
            await self._look_at(head_name(run))

    async def _look_at(self, name: str) -> None:
        asked_s = self.doors.clock.monotonic()
        listed = await self.doors.store.list(name, limit=1)
        answered_s = self.doors.clock.monotonic()
        for entry in listed:
            if entry.name == name:
                self._watch.saw(name, entry.version, asked_s=asked_s, answered_s=answered_s)

    async def is_still_lapsed(self, owner: str, run: str) -> bool:
        """`is_lapsed` of the very head that was just read; raises `StoreError`.

        Without another look the owner could have come back between the last one and the reading.
        """
        if not self.is_lapsed(owner, run):
            return False
        await self._look_at(head_name(run))
        if owner in self._owners:
            await self._look_at(heartbeat_name(owner))
        return self.is_lapsed(owner, run)

    async def is_free(self, head: Head) -> bool:
        """Nobody else owns the run whose head was just read; raises `StoreError`."""
        if head.status is not Status.OWNED or pod_of(head.owner) == pod_of(self.me):
            return True
        return await self.is_still_lapsed(head.owner, head.run)

    def _runs_of(self, owner: str) -> tuple[RunSummary, ...]:
        beat = self._owners[owner].beat
        return () if beat is None else beat.runs

    def want(self, run: str) -> None:
        """Somebody waits for this run: watch its head for the next two leases."""
        self._wanted[run] = self.doors.clock.monotonic() + 2 * self.doors.settings.lease_s

    def notice(self, head: Head) -> None:
        """A head was read: it is newer than what heartbeats of others say of its run."""
        is_owned = head.status is Status.OWNED
        for name, owner in self._owners.items():
            if owner.beat is not None and not (is_owned and head.owner == name):
                runs = tuple(summary for summary in owner.beat.runs if summary.run != head.run)
                owner.beat = replace(owner.beat, runs=runs)
        self._strays.pop(head.run, None)
        is_mine = pod_of(head.owner) == pod_of(self.me)
        is_stray = is_owned and not is_mine and not self._is_named(head.owner, head.run)
        if is_stray and len(self._strays) < STRAYS_MAX:
            self._strays[head.run] = (summary_of(head), head.owner)

    def _is_named(self, owner: str, run: str) -> bool:
        """By its heartbeat; that of an owner that is well is not read, and believed."""
        known = self._owners.get(owner)
        if known is None:
            return False
        return known.beat is None or any(summary.run == run for summary in known.beat.runs)

    def is_fresh(self, owner: str) -> bool:
        """The owner's heartbeat was seen to change within a lease."""
        seen = self._owners.get(owner)
        if seen is None:
            return False
        return self.doors.clock.monotonic() - seen.changed_s < self.doors.settings.lease_s

    def is_lapsed(self, owner: str, run: str) -> bool:
        """Heartbeat and head stood still for the lease; an owner without heartbeat has none."""
        if owner in self._owners:
            return self._watch.is_lapsed(heartbeat_name(owner), head_name(run))
        return self._watch.is_lapsed(head_name(run))

    def lapsed_runs(self, queue: str | None) -> list[RunSummary]:
        """Runs of a queue, or of all (`None`), that may be taken over."""
        former = [summary for name in self._former() for summary in self._runs_of(name)]
        lapsed = [
            summary
            for name in self._suspects()
            for summary in self._runs_of(name)
            if self.is_lapsed(name, summary.run)
        ]
        strays = [s for s, owner in self._strays.values() if self.is_lapsed(owner, s.run)]
        found = (*former, *lapsed, *strays)
        return [summary for summary in found if queue in (None, summary.queue)]

    async def ready(self, queue: str) -> list[tuple[str, str]]:
        """(run, marker's name) of markers of a queue, in random order; raises `StoreError`."""
        listed = await self.doors.store.list(f"ready/{queue}/", limit=MARKERS_MAX)
        found = [(entry.name.split("/")[2], entry.name) for entry in listed]
        return sorted(found, key=lambda _: self.doors.clock.uniform(0.0, 1.0))

    async def compensating(self) -> list[tuple[str, str]]:
        """(run, marker's name) of runs to be taken back, in random order; raises `StoreError`."""
        listed = await self.doors.store.list(f"{Status.COMPENSATING}/", limit=MARKERS_MAX)
        found = [(entry.name.split("/")[2], entry.name) for entry in listed]
        return sorted(found, key=lambda _: self.doors.clock.uniform(0.0, 1.0))

    async def read_marker(self, name: str) -> RunSummary | None:
        """What a marker says; `None` if it is gone or damaged."""
        stored = await self.doors.store.get(name)
        if stored is None:
            return None
        try:
            return decode_summary(name, stored.data)
        except BadObject as error:
            self.doors.observer.note("damaged", run="", error=str(error))
            return None


def heartbeat_name(owner: str) -> str:
    """Name of an owner's heartbeat."""
    return f"owners/{owner}/heartbeat"


def inbox_prefix(owner: str, run: str = "") -> str:
    """Where commands for an owner's runs are put."""
    return f"owners/{owner}/in/{run and run + '-'}"
