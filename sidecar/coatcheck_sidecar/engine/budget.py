"""The flush budget at work: measures the link, holds back acknowledgements that would break it.

A checkpoint asks before it is appended: what has not been admitted must not stand in the way of
what was acknowledged. One that alone exceeds the budget waits until all that was acknowledged is
shipped, and is acknowledged itself when it is. Records of calls are appended at once, since what
they tell of has happened; over the budget they are acknowledged when they are remote.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

from coatcheck_sidecar.core.budget import Link, Put, Rate, admits, allowed_bytes
from coatcheck_sidecar.core.drain import ENDING_BYTES, ROUND_TRIPS, Latch
from coatcheck_sidecar.engine.settings import ENFORCE, OFF, WARN, Settings
from coatcheck_sidecar.engine.tasks import happens
from coatcheck_sidecar.ports import Clock, Listed, Observer, Store, Stored, StoreError, StoreRefused

SETTLE_S: Final = 0.25
"""From the start of the grace until a drain has begun here: a hook's way, on a busy node."""
RATE_AGE_MAX_S: Final = 0.25
"""Percentiles are taken so often at most: they cost 0.1 ms."""
LOOK_S: Final = 0.25
"""Who waits looks this often, since time alone changes the budget of a drain."""
PROBE_S: Final = 0.25
"""A probe is as big as what the link takes in so long, within its bounds."""
PROBE_BYTES_MIN: Final = 65_536
"""Less would measure latency alone."""
PROBE_BYTES_MAX: Final = 262_144
"""11 GB a month at a probe a minute; more tells nothing that a budget of megabytes needs."""
PROBE_RETRY_S: Final = 5.0
"""A store that is away may come back; what it is like then is worth knowing soon."""
WARN_EVERY_S: Final = 10.0
"""Between two log lines that say the same; the metric counts each time."""


class Log(Protocol):
    """What ships one run's log."""

    def shipped(self, seq: int) -> Awaitable[None]:
        """Wait until the head holds `seq`."""


class Budget:
    """Of one pod."""

    def __init__(self, clock: Clock, *, settings: Settings, observer: Observer) -> None:
        """Nothing is unshipped, and nothing measured."""
        self.link = Link()
        self.latch: Callable[[], Latch | None] = lambda: None
        """The drain that has begun, if one has."""
        self._clock = clock
        self._settings = settings
        self._observer = observer
        self._left: dict[Log, int] = {}
        """What has to be put for each log until its head holds all of it."""
        self._owed: dict[Log, int] = {}
        """Up to which sequence number each log was acknowledged before it was remote."""
        self.used_bytes = 0
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._rate: tuple[float, Rate] | None = None
        self._warned_s = float("-inf")

    # How it stands

    def rate(self) -> Rate:
        """What the link is good for, as of a moment ago."""
        now_s = self._clock.monotonic()
        if self._rate is None or now_s - self._rate[0] > RATE_AGE_MAX_S:
            self._rate = (now_s, self.link.rate(now_s=now_s))
        return self._rate[1]

    def allowed_bytes(self) -> float:
        """How much may be unshipped now."""
        settings, drain = self._settings, self.latch()
        turns = -(-(len(self._left) + 1) // settings.puts_max)
        left_s, settle_s = settings.grace_s, SETTLE_S
        if drain is not None:
            left_s = drain.deadline_s + settings.margin_s - self._clock.monotonic()
            settle_s = 0.0
        return allowed_bytes(
            self.rate(),
            grace_left_s=left_s,
            settle_s=settle_s,
            interval_s=settings.ship_interval_s,
            round_trips=ROUND_TRIPS * turns,
            margin_s=settings.margin_s,
        )

    # What logs have to ship

    def weigh(self, log: Log, left_bytes: int, *, shipped_seq: int) -> None:
        """So much is to be put for this log now; 0 once nothing is left, or nothing counts."""
        before = self._left.pop(log, 0)
        if left_bytes:
            self._left[log] = left_bytes
        self.used_bytes += left_bytes - before
        if self._owed.get(log, shipped_seq + 1) <= shipped_seq or not left_bytes:
            self._owed.pop(log, None)
        if left_bytes < before:
            self._changed.set()

    def owe(self, log: Log, seq: int) -> None:
        """What this log holds up to `seq` was acknowledged before it is remote."""
        self._owed[log] = max(seq, self._owed.get(log, 0))

    def forget(self, log: Log) -> None:
        """It ships nothing more."""
        self.weigh(log, 0, shipped_seq=0)

    # Who may go on

    def _fits(self, size_bytes: int) -> bool:
        return admits(self.used_bytes, size_bytes, allowed=self.allowed_bytes())

    async def turn(self, size_bytes: int, *, is_over: Callable[[], bool]) -> bool:
        """Wait until so much more may be appended; whether it may be acknowledged before remote.

        Returns at once when `is_over` says that nothing will be appended. There is no wait between
        the return and the caller's next step.
        """
        mode = self._settings.flush_budget
        if mode == OFF or (not self._turn.locked() and self._fits(size_bytes)):
            return True
        if mode == WARN:
            self._warn(size_bytes)
            return True
        began_s = self._clock.monotonic()
        async with self._turn:
            while not is_over() and not self._fits(size_bytes):
                if not self._owed:
                    self._waited(began_s)
                    return False
                await self._change(LOOK_S)
        self._waited(began_s)
        return True

    async def pay(self, log: Log, seq: int) -> None:
        """What was appended unasked, up to `seq`, is to be acknowledged: at once, if it fits."""
        mode = self._settings.flush_budget
        if mode != OFF and (self._turn.locked() or not self._fits(0)):
            if mode == ENFORCE:
                began_s = self._clock.monotonic()
                await log.shipped(seq)
                self._waited(began_s)
                return
            self._warn(0)
        if log in self._left:
            self.owe(log, seq)

    async def carries(self, *, within_s: float) -> bool:
        """Whether one more run can be carried; waits for that a while."""
        mode = self._settings.flush_budget
        until_s = self._clock.monotonic() + within_s
        while mode != OFF and self._owed and not self._fits(ENDING_BYTES):
            if mode == WARN:
                self._warn(ENDING_BYTES)
                return True
            left_s = until_s - self._clock.monotonic()
            if left_s <= 0:
                return False
            await self._change(min(left_s, LOOK_S))
        return True

    async def _change(self, within_s: float) -> None:
        self._changed.clear()
        await happens(self._changed, within_s=within_s)

    def _waited(self, began_s: float) -> None:
        self._observer.note("budget_waited", seconds=self._clock.monotonic() - began_s)

    def _warn(self, size_bytes: int) -> None:
        self._observer.note("budget_broken")
        now_s = self._clock.monotonic()
        if now_s - self._warned_s >= WARN_EVERY_S:
            self._warned_s = now_s
            rate = self.rate()
            self._observer.note(
                "budget_warning",
                unshipped_bytes=self.used_bytes + size_bytes,
                budget_bytes=int(self.allowed_bytes()),
                bytes_per_s=int(rate.bytes_per_s),
                latency_s=round(rate.latency_s, 3),
                why="a shutdown now would leave acknowledged state behind",
            )

    # Measuring

    async def probe(self, store: Store, me: str) -> None:
        """Measure a link that nothing big went over for a while; for ever. `store` measures.

        The first time a small put goes before, so that its latency is not taken for goodput.
        """
        name, every_s = f"probe/link-{me}", self._settings.budget_probe_s
        while self._settings.flush_budget != OFF:
            left_s = self.link.measured_s + every_s - self._clock.monotonic()
            if left_s <= 0:
                size = self.rate().bytes_per_s * PROBE_S
                size = int(max(PROBE_BYTES_MIN, min(size, PROBE_BYTES_MAX)))
                is_first = self.link.measured_s < 0
                left_s = min(every_s, PROBE_RETRY_S)
                with suppress(StoreError):
                    if is_first:
                        await store.put(name, b"-")
                        size = PROBE_BYTES_MIN
                    await store.put(name, bytes(size))
                    left_s = every_s
                    await store.delete(name)
            await self._clock.sleep(left_s)


class Measured:
    """Implements `ports.Store` by another one, whose puts it times."""

    def __init__(self, store: Store, *, link: Link, clock: Clock, observer: Observer) -> None:
        """Everything but the timing is that store's; `observer` hears of each verb."""
        self._store = store
        self._link = link
        self._clock = clock
        self._observer = observer

    @property
    def url(self) -> str:
        """That store's."""
        return self._store.url

    @property
    def background_puts_max(self) -> int:
        """That store's."""
        return self._store.background_puts_max

    @property
    def background_share(self) -> float:
        """That store's."""
        return self._store.background_share

    @property
    def writes_apart_s(self) -> float:
        """See `Store`."""
        return self._store.writes_apart_s

    async def get(self, name: str) -> Stored | None:
        """As that store does."""
        with self._timed("get"):
            return await self._store.get(name)

    async def put(self, name: str, data: bytes) -> None:
        """As that store does, timed."""
        put = self._began(data)
        try:
            with self._timed("put"):
                await self._store.put(name, data)
        except BaseException:
            self._link.failed(put)
            raise
        self._ended(put)

    async def swap(self, name: str, data: bytes, *, expected: str | None) -> str:
        """As that store does, timed; a refusal is an answer."""
        put = self._began(data)
        try:
            with self._timed("swap"):
                tag = await self._store.swap(name, data, expected=expected)
        except StoreRefused:
            self._ended(put)
            raise
        except BaseException:
            self._link.failed(put)
            raise
        self._ended(put)
        return tag

    async def delete(self, name: str) -> None:
        """As that store does."""
        with self._timed("delete"):
            await self._store.delete(name)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Listed]:
        """As that store does."""
        with self._timed("list"):
            return await self._store.list(prefix, after=after, limit=limit)

    async def now_ms(self) -> int:
        """As that store does."""
        return await self._store.now_ms()

    async def close(self) -> None:
        """As that store does."""
        await self._store.close()

    @contextmanager
    def _timed(self, operation: str) -> Iterator[None]:
        began_s, outcome = self._clock.monotonic(), "cut"
        try:
            yield
            outcome = "ok"
        except StoreRefused:
            outcome = "refused"
            raise
        except StoreError:
            outcome = "failed"
            raise
        finally:
            seconds = self._clock.monotonic() - began_s
            self._observer.note("store", operation=operation, outcome=outcome, seconds=seconds)

    def _began(self, data: bytes) -> Put:
        return self._link.began(len(data), now_s=self._clock.monotonic())

    def _ended(self, put: Put) -> None:
        self._link.ended(put, now_s=self._clock.monotonic())
