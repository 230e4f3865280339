"""An object store, by way of obstore: S3 and what speaks like it.

What is particular to a kind of store is in its builder (`s3.py`); this file knows obstore alone.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import obstore
from obstore.exceptions import BaseError

from coatcheck_sidecar.ports import Clock, Listed, Stored, StoreError, StoreRefused
from coatcheck_sidecar.stores.answers import is_lasting, is_missing, is_refusal, reason_of
from coatcheck_sidecar.stores.names import check_name, check_prefix

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutMode
    from obstore.store import ObjectStore as Backend

CHUNK: Final = 1000
"""Lines of a listing taken at once: what S3 gives with one answer."""

CLOCK_AGE_MAX_S: Final = 60.0
"""How long one reading of the store's clock is carried on by ours: 6 ms at a drift of 100 ppm."""

CLOCK_NAMES: Final = 256
"""So many objects serve all sidecars of a store as clocks: little litter, few writes to each."""

SETTLE_S: Final = 0.05
"""An answer's last references fall in obstore's own threads; an interpreter that ends before
aborts the process (seen in 1 of 7 processes that ended right after a read)."""

FAILURES: Final = (BaseError, OSError, ValueError)
"""What obstore raises; `TimeoutError` is an `OSError`."""

Answer = TypeVar("Answer")
Lines = list[Listed]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a verb may take and how often one that may be repeated is tried."""

    connect_s: float = 3.0
    """A second lost SYN is the last that we wait for."""
    answer_s: float = 10.0
    """Far above S3's 99th percentile (1 s); below the 30 s of a lease."""
    bytes_per_s_min: int = 65_536
    """A body gets this much time more; a slower link could not ship a run within its grace."""
    tries: int = 4
    """Of a get, a put, a delete or a listing. Never of a swap."""
    pause_s: float = 0.1
    """Before the second try; doubles, with jitter."""

    def for_body(self, length: int) -> float:
        """Seconds for one request that carries `length` bytes."""
        return self.answer_s + length / self.bytes_per_s_min


BACKGROUND_PUTS_MAX: Final = 12
"""Of the 16 that a pod sends at once."""


class ObjectStore:
    """Implements `ports.Store`. Tags are ETags: digests of the content on most stores."""

    def __init__(
        self,
        backend: "Backend",
        *,
        url: str,
        prefix: str,
        clock: Clock,
        limits: Limits,
        lists_from_start: bool = False,
        has_generations: bool = False,
        writes_apart_s: float = 0.0,
    ) -> None:
        """`backend` must have its own retries off; `prefix` is "" or ends in a slash.

        `lists_from_start`: its listings are in the order of bytes, and may begin before what they
        were asked to begin after. `has_generations`: its conditions are on these, not on ETags.
        `writes_apart_s`: it takes no two writes of one object within this; a swap waits for its
        turn, so what is measured of it includes the wait.
        """
        self._has_generations = has_generations
        self._writes_apart_s = writes_apart_s
        self._swapped_s: dict[str, float] = {}
        """When objects were last swapped, oldest first; as far as that matters still."""
        self._lists_from_start = lists_from_start
        self._backend = backend
        self._url = url
        self._prefix = prefix
        self._clock = clock
        self._limits = limits
        self._clock_name = f"clock/{clock.random_bytes(1)[0] % CLOCK_NAMES:02x}"
        self._clock_lock = asyncio.Lock()
        self._clock_read: tuple[float, int] | None = None

    @property
    def url(self) -> str:
        """As given, which is without credentials."""
        return self._url

    @property
    def background_puts_max(self) -> int:
        """Most of a pod's puts; the rest is for those that somebody waits for."""
        return BACKGROUND_PUTS_MAX

    @property
    def background_share(self) -> float:
        """All: the work is done elsewhere."""
        return 1.0

    @property
    def writes_apart_s(self) -> float:
        """See `Store`."""
        return self._writes_apart_s

    async def get(self, name: str) -> Stored | None:
        """Read one object; `None` if there is none. Raises `StoreError`."""
        check_name(name)

        async def ask() -> Stored | None:
            try:
                async with asyncio.timeout(self._limits.answer_s) as limit:
                    found = await obstore.get_async(self._backend, self._prefix + name)
                    more_s = found.meta["size"] / self._limits.bytes_per_s_min
                    limit.reschedule((limit.when() or 0.0) + more_s)
                    data = bytes(await found.bytes_async())
            except FileNotFoundError as error:
                if is_missing(error):
                    return None
                raise
            tag = found.meta["version"] if self._has_generations else found.meta["e_tag"]
            return Stored(data, self._tag(tag, f"get of {name}"))

        return await self._repeat(f"get of {name}", ask)

    async def put(self, name: str, data: bytes) -> None:
        """Write one object, whatever was there. Raises `StoreError`."""
        check_name(name)

        async def ask() -> None:
            async with asyncio.timeout(self._limits.for_body(len(data))):
                await self._write(name, data, mode="overwrite")

        await self._repeat(f"put of {name}", ask)

    async def swap(self, name: str, data: bytes, *, expected: str | None) -> str:
        """Replace the object tagged `expected`, or create it; the new tag. Tried once.

        Raises `StoreRefused`, or `StoreError` after which it may have happened.
        """
        check_name(name)
        what = f"swap of {name}"
        mode: PutMode = "create"
        if expected is not None:
            # A mode of {"e_tag": ..., "version": None} is taken for a version and raises.
            mode = {"version": expected} if self._has_generations else {"e_tag": expected}
        await self._turn(name)
        try:
            async with asyncio.timeout(self._limits.for_body(len(data))):
                tag = await self._write(name, data, mode=mode)
        except FAILURES as error:
            if is_refusal(error):
                raise StoreRefused(f"{what} in {self._url}: it is not as expected") from error
            raise self._error(what, error) from error
        finally:
            if self._writes_apart_s:  # from the answer on: on its way it may have been held up
                self._swapped_s[name] = self._clock.monotonic()
        return self._tag(tag, what)

    async def delete(self, name: str) -> None:
        """Remove one object; nothing happens if there is none. Raises `StoreError`."""
        check_name(name)

        async def ask() -> None:
            try:
                async with asyncio.timeout(self._limits.answer_s):
                    await obstore.delete_async(self._backend, self._prefix + name)
            except FileNotFoundError as error:
                if not is_missing(error):
                    raise

        await self._repeat(f"delete of {name}", ask)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Listed]:
        """Objects under `prefix` in the store's order, after `after`. Raises `StoreError`."""
        check_prefix(prefix)

        ask = partial(self._list, prefix, after=after, limit=limit)
        return await self._repeat(f"list of {prefix}*", ask)

    async def now_ms(self) -> int:
        """The store's clock, to within a second and a round trip. Raises `StoreError`.

        obstore shows no `Date`, so a small object is written and the time that the store gave it
        is read. That lies between our asking and the answer, also if another sidecar writes the
        same object meanwhile; it is cut to whole seconds by S3. Carried on for a minute by
        this machine's clock that counts suspended time.
        """
        async with self._clock_lock:
            read = self._clock_read
            if read is None or self._clock.boottime() - read[0] > CLOCK_AGE_MAX_S:
                asked_s = self._clock.boottime()
                # Not empty: some servers then leave out the length, and obstore wants one.
                await self.put(self._clock_name, b"tick")
                read = self._clock_read = (asked_s, await self._written_ms(self._clock_name))
            return read[1] + int((self._clock.boottime() - read[0]) * 1000)

    async def close(self) -> None:
        """Wait until obstore's threads have let go of what was answered."""
        await self._clock.sleep(SETTLE_S)

    async def _written_ms(self, name: str) -> int:
        async def ask() -> int:
            async with asyncio.timeout(self._limits.answer_s):
                meta = await obstore.head_async(self._backend, self._prefix + name)
            return _ms(meta["last_modified"])

        return await self._repeat(f"head of {name}", ask)

    async def _write(self, name: str, data: bytes, *, mode: "PutMode") -> str | None:
        path = self._prefix + name
        # Above 5 MiB obstore would send parts, which take no condition.
        answer = await obstore.put_async(self._backend, path, data, mode=mode, use_multipart=False)
        return answer["version"] if self._has_generations else answer["e_tag"]

    async def _turn(self, name: str) -> None:
        """Wait until this object may be written again."""
        now_s = self._clock.monotonic()
        for other, at_s in list(self._swapped_s.items()):
            if at_s + self._writes_apart_s > now_s:
                break
            del self._swapped_s[other]
        if name in self._swapped_s:
            await self._clock.sleep(self._swapped_s.pop(name) + self._writes_apart_s - now_s)

    async def _list(self, prefix: str, *, after: str, limit: int) -> Lines:
        """Ask for the folder of `prefix` and keep what begins with it: obstore cuts at slashes."""
        folder, _, partial = prefix.rpartition("/")
        folder = f"{folder}/" if folder else ""
        # All that begins with `prefix` comes after `prefix` less its last letter.
        start = max(after, folder + partial[:-1] if len(partial) > 1 else "")
        pages = obstore.list(
            self._backend,
            self._prefix + folder or None,
            offset=self._prefix + start if start else None,
            chunk_size=CHUNK,
        )
        found: Lines = []
        while len(found) < limit:
            try:
                async with asyncio.timeout(self._limits.answer_s):
                    page = await anext(pages)
            except StopAsyncIteration:
                break
            for meta in page:
                name = meta["path"][len(self._prefix) :]
                if self._lists_from_start and name <= after:
                    continue
                if name.startswith(prefix):
                    found.append(_listed(name, meta))
                elif name[len(folder) :].split("/")[0] > partial:
                    return found[:limit]
        return found[:limit]

    async def _repeat(self, what: str, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask until it is answered, the tries are used up or an answer's time has gone by."""
        pause_s = self._limits.pause_s
        end_s = self._clock.monotonic() + self._limits.answer_s
        for left in reversed(range(self._limits.tries)):
            try:
                return await ask()
            except FAILURES as error:
                if left == 0 or is_lasting(error) or self._clock.monotonic() >= end_s:
                    raise self._error(what, error) from error
            await self._clock.sleep(self._clock.uniform(pause_s / 2, pause_s))
            pause_s *= 2
        raise AssertionError("the last try returns or raises")

    def _error(self, what: str, error: Exception) -> StoreError:
        return StoreError(f"{what} in {self._url}: {reason_of(error)}")

    def _tag(self, e_tag: str | None, what: str) -> str:
        if not e_tag:
            raise StoreError(f"{what} in {self._url}: the answer has no ETag or generation")
        return e_tag


def _listed(name: str, meta: "ObjectMeta") -> Listed:
    """The version has both, since an ETag stays when the same bytes are written again.

    A second write of the same bytes within the tick of the store's clock (1 s on S3) is not seen.
    """
    modified_ms = _ms(meta["last_modified"])
    return Listed(name, meta["size"], f"{meta['e_tag']}-{modified_ms}", modified_ms)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
