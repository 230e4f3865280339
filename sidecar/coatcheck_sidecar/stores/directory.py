"""A directory as a store: lock the folder, compare, write aside, fsync, rename, fsync the folder.

Several processes may share it. Each verb is a job of `files.py` in a small pool of threads of its
own, so that the event loop never waits for a disk.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from coatcheck_sidecar.ports import Clock, Listed, Stored, StoreError, StoreRefused, StoreUnfit
from coatcheck_sidecar.stores.files import BUSY, Files
from coatcheck_sidecar.stores.mounts import network_file_system
from coatcheck_sidecar.stores.names import check_name, check_prefix

BACKGROUND_PUTS_MAX: Final = 1
"""With two, commits at `node` wait twice as long for the disk (see `bench`)."""
BACKGROUND_SHARE: Final = 0.2
"""Without a rest between ships 50 busy runs commit a quarter slower (see `bench`)."""
THREADS: Final = 8
"""Enough for fsyncs to share a commit of the file system; a stuck disk holds no more than these."""

ANSWER_S: Final = 30.0
"""A disk that takes longer is as good as gone."""

BUSY_S: Final = (0.0002, 0.002)
"""A folder is locked for about one swap, 0.4 ms."""

Answer = TypeVar("Answer")


class DirectoryStore:
    """Implements `ports.Store` on a local file system. Tags are digests of the content.

    A process that is stopped in the middle of a swap keeps its folder locked, and others get
    `StoreError` there, until it goes on or dies.
    """

    def __init__(self, root: Path, *, clock: Clock, answer_s: float = ANSWER_S) -> None:
        """Open or make `root`. Raises `StoreUnfit` on a network file system, or `OSError`."""
        root = root.absolute()
        self._url = root.as_uri()
        kind = network_file_system(root)
        if kind is not None:
            raise StoreUnfit(
                self._url,
                f"is on a network file system ({kind}), where a lock does not fence other "
                "machines; take a local disk, or an object store (s3://bucket/prefix)",
            )
        self._clock = clock
        self._answer_s = answer_s
        self._files = Files(root, clock=clock)
        self._is_closed = False
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="store")

    @property
    def url(self) -> str:
        """`file:///path`."""
        return self._url

    @property
    def background_puts_max(self) -> int:
        """One: each put syncs three times, and the journal syncs on the same disk."""
        return BACKGROUND_PUTS_MAX

    @property
    def background_share(self) -> float:
        """A fifth: a swap is twenty system calls, each of them a turn at the interpreter's lock."""
        return BACKGROUND_SHARE

    @property
    def writes_apart_s(self) -> float:
        """See `Store`."""
        return 0.0

    async def get(self, name: str) -> Stored | None:
        """Read one object; `None` if there is none. Raises `StoreError`."""
        check_name(name)
        return await self._answer(f"get of {name}", partial(self._files.read, name))

    async def put(self, name: str, data: bytes) -> None:
        """Write one object durably, whatever was there. Raises `StoreError`."""
        check_name(name)
        await self._answer(f"put of {name}", partial(self._files.write, name, data))

    async def swap(self, name: str, data: bytes, *, expected: str | None) -> str:
        """Replace the object tagged `expected`, or create it; the new tag.

        Raises `StoreRefused`, or `StoreError` after which it may have happened.
        """
        check_name(name)
        job = partial(self._files.swap, name, data, expected=expected)
        tag = await self._answer(f"swap of {name}", job)
        if tag is None:
            raise StoreRefused(f"swap of {name} in {self._url}: it is not as expected")
        return tag

    async def delete(self, name: str) -> None:
        """Remove one object and the folders that it leaves empty. Raises `StoreError`."""
        check_name(name)
        await self._answer(f"delete of {name}", partial(self._files.remove, name))

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Listed]:
        """Objects under `prefix` by name, strictly after `after`. Raises `StoreError`."""
        check_prefix(prefix)
        job = partial(self._files.scan, prefix, after=after, limit=limit)
        return await self._answer(f"list of {prefix}*", job)

    async def now_ms(self) -> int:
        """The clock of this node: all who share the directory are on it."""
        return self._clock.wall_ms()

    async def close(self) -> None:
        """Let go of the threads; a job that has begun ends by itself."""
        self._is_closed = True
        self._pool.shutdown(wait=False)

    async def _answer(self, what: str, job: Callable[[], Answer]) -> Answer:
        """Do the job in a thread, again while the folder is busy.

        The wait for a lock is here, not in the thread: a thread that waits can't be called back.
        """
        loop = asyncio.get_running_loop()
        what = f"{what} in {self._url}"
        if self._is_closed:
            raise StoreError(f"{what}: the store is closed")
        try:
            async with asyncio.timeout(self._answer_s):
                while True:
                    try:
                        return await loop.run_in_executor(self._pool, job)
                    except BUSY:
                        await self._clock.sleep(self._clock.uniform(*BUSY_S))
        except TimeoutError as error:
            raise StoreError(f"{what}: no answer within {self._answer_s:g} s") from error
        except OSError as error:
            raise StoreError(f"{what}: {error.strerror or error}") from error
