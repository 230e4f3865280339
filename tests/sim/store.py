"""The store that all pods share, and how each of them reaches it: slowly, twice, late, not at all.

A verb is decided on in one moment, by the real memory store. Around that moment the weather plays:
a question can be lost, an answer can be lost, a question can arrive long after its asker gave up,
or after its asker died.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from random import Random
from typing import Any, Final, TypeVar

from coatcheck_sidecar.ports import Listed, Stored, StoreError, StoreRefused
from coatcheck_sidecar.stores.memory import MemoryStore
from tests.sim.loop import EPOCH_MS, VirtualLoop, this_process

ANSWER_S: Final = 1.5
"""A verb's own time limit, half of the lease."""
LATE_S: Final = (2.0, 9.0)
"""A late question arrives after its asker gave up, up to three leases later."""

Value = TypeVar("Value")
OnSwap = Callable[[str, bytes, str], None]


@dataclass(slots=True)
class Weather:
    """How the way to the store is; probabilities are for each verb."""

    latency_s: tuple[float, float] = (0.005, 0.05)
    slow: float = 0.0
    lost: float = 0.0
    lost_answer: float = 0.0
    late: float = 0.0
    conflict: float = 0.0
    away_until_s: float = 0.0

    def clear_up(self) -> None:
        """Only the latency stays."""
        self.slow = self.lost = self.lost_answer = self.late = self.conflict = 0.0
        self.away_until_s = 0.0


def at_once(verb: Coroutine[Any, Any, Value]) -> Value:
    """What a verb of the memory store returns: it never waits."""
    try:
        verb.send(None)
    except StopIteration as stop:
        value: Value = stop.value
        return value
    raise AssertionError("the memory store waited")


class SharedStore:
    """What really is in the store, and who is told of each swap that succeeded."""

    def __init__(self, loop: VirtualLoop, random: Random, weather: Weather) -> None:
        self.kept = MemoryStore(now_ms=lambda: EPOCH_MS + int(loop.now_s * 1000))
        self.weather = weather
        self.on_swap: OnSwap = lambda name, data, writer: None
        self.on_delete: Callable[[str, str], None] = lambda name, by: None
        self._loop = loop
        self._random = random
        self._nobody = Context()

    def peek(self, name: str) -> bytes | None:
        """An object as it is now; for judges alone."""
        stored = at_once(self.kept.get(name))
        return None if stored is None else stored.data

    async def ask(self, verb: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """Have a verb carried out, or not; raises `StoreError`, `StoreRefused`."""
        answer: asyncio.Future[Value] = self._loop.create_future()
        delay_s, is_answered = self._way()
        if delay_s is not None:
            self._loop.call_later(
                delay_s, self._decide, verb, answer, is_answered, context=self._nobody
            )
        try:
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            raise StoreError("the store gave no answer in time") from None

    def _way(self) -> tuple[float | None, bool]:
        """When a question arrives, if it does, and whether its answer does."""
        weather, chance = self.weather, self._random.random()
        delay_s = self._random.uniform(*weather.latency_s)
        for share, way in (
            (weather.lost, (None, False)),
            (weather.lost_answer, (delay_s, False)),
            (weather.late, (self._random.uniform(*LATE_S), False)),
            (weather.slow, (self._random.uniform(0.3, ANSWER_S), True)),
        ):
            if chance < share:
                return way
            chance -= share
        return delay_s, True

    def _decide(
        self,
        verb: Callable[[], Coroutine[Any, Any, Value]],
        answer: "asyncio.Future[Value]",
        is_answered: bool,
    ) -> None:
        error: Exception | None = None
        value: Any = None
        if self._loop.now_s < self.weather.away_until_s:
            error = StoreError("the store is away")
        elif self._random.random() < self.weather.conflict:
            error = StoreError("409: conflicting requests")
        else:
            try:
                value = at_once(verb())
            except StoreRefused as refused:
                error = refused
        if is_answered:
            delay_s = self._random.uniform(*self.weather.latency_s)
            self._loop.call_later(delay_s, _tell, answer, value, error, context=self._nobody)

    async def swap(self, name: str, data: bytes, *, expected: str | None, writer: str) -> str:
        """The memory store's swap, and word of it."""
        tag = await self.kept.swap(name, data, expected=expected)
        self.on_swap(name, data, writer)
        return tag

    async def delete(self, name: str, *, by: str) -> None:
        """The memory store's, and word of it before."""
        self.on_delete(name, by)
        await self.kept.delete(name)


def _tell(answer: "asyncio.Future[Any]", value: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(value)
    else:
        answer.set_exception(error)


class ReachedStore:
    """Implements `ports.Store` for the process that calls."""

    def __init__(self, shared: SharedStore) -> None:
        self._shared = shared

    @property
    def url(self) -> str:
        return self._shared.kept.url

    @property
    def background_puts_max(self) -> int:
        return self._shared.kept.background_puts_max

    @property
    def background_share(self) -> float:
        return self._shared.kept.background_share

    @property
    def writes_apart_s(self) -> float:
        return self._shared.kept.writes_apart_s

    async def get(self, name: str) -> Stored | None:
        return await self._shared.ask(lambda: self._shared.kept.get(name))

    async def put(self, name: str, data: bytes) -> None:
        await self._shared.ask(lambda: self._shared.kept.put(name, data))

    async def swap(self, name: str, data: bytes, *, expected: str | None) -> str:
        writer = this_process().name
        return await self._shared.ask(
            lambda: self._shared.swap(name, data, expected=expected, writer=writer)
        )

    async def delete(self, name: str) -> None:
        by = this_process().name
        await self._shared.ask(lambda: self._shared.delete(name, by=by))

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Listed]:
        return await self._shared.ask(
            lambda: self._shared.kept.list(prefix, after=after, limit=limit)
        )

    async def now_ms(self) -> int:
        return await self._shared.ask(self._shared.kept.now_ms)

    async def close(self) -> None:
        """Nothing to release."""
