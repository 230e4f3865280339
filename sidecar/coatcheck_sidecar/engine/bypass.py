"""Looks every few seconds which connections of the pod go past the proxy."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from coatcheck_sidecar.core.bypass import few
from coatcheck_sidecar.ports import Clock, Observer

SAMPLE_S: Final = 5.0
"""Connections to model APIs and tools are kept open for longer."""
TOLD_MAX: Final = 1_000
"""Hosts with a log line of their own."""


class BypassSampler:
    """Samples from `run`'s begin to its end."""

    def __init__(
        self, read: Callable[[], dict[str, int]], *, clock: Clock, observer: Observer
    ) -> None:
        """`read` gives connections by remote host, and may block: it runs in a thread."""
        self._read = read
        self._clock = clock
        self._observer = observer
        self._told: set[str] = set()
        self._most: dict[str, int] = {}
        self._now: dict[str, int] = {}
        self.on_sample: Callable[[], None] = lambda: None
        """Told after each look."""

    @property
    def connections(self) -> Mapping[str, int]:
        """Open at the last look, by remote host; few hosts."""
        return few(self._now)

    @property
    def most(self) -> Mapping[str, int]:
        """The most that were open at any one look."""
        return few(self._most)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.sample()
            await self._clock.sleep(SAMPLE_S)

    async def sample(self) -> None:
        """Look once; say so the first time that a host is seen."""
        self._now = await asyncio.to_thread(self._read)
        for host, count in self._now.items():
            if host not in self._told and len(self._told) < TOLD_MAX:
                self._told.add(host)
                self._observer.note("bypass", host=host, connections=count)
            if host in self._told:
                self._most[host] = max(count, self._most.get(host, 0))
        self.on_sample()
