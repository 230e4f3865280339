"""What keeps a data folder ours and usable: its lock, its ballast, the watch over its space."""

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from coatcheck_sidecar.core.space import BALLAST_BYTES

LOCK_NAME: Final = "journal.lock"
BALLAST_NAME: Final = "journal.ballast"

BALLAST_REFILL_FACTOR: Final = 4
"""The ballast is laid again when this many times its size is free: a disk on the edge is left."""

ALARM_FRACTION: Final = 0.8
"""An operator needs the last fifth to act in."""

LOCK_POLL_S: Final = 0.05
"""A waiting `flock` can't be cancelled, so the lock is asked for again; only while opening."""

DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class FolderInUse(Exception):  # noqa: N818 - a refusal is an answer, not an error
    """Another process holds the data folder. The message names both."""


class FolderLock:
    """An exclusive `flock` on a file of the folder; the kernel drops it with the process."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    @classmethod
    async def acquire(cls, folder: Path, *, wait_s: float) -> Self:
        """Take the lock, waiting up to `wait_s` for an older sidecar to leave.

        Raises `FolderInUse`.
        """
        fd = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await _wait_for_lock(fd, wait_s)
        except TimeoutError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            message = (
                f"the data folder {folder} is in use by another sidecar (process {holder}); "
                f"waited {wait_s:g} s. Stop it, or give each sidecar a folder of its own."
            )
            raise FolderInUse(message) from None
        except BaseException:
            os.close(fd)
            raise
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return cls(fd)

    def release(self) -> None:
        """Let the folder go; may be called again."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


async def _wait_for_lock(fd: int, wait_s: float) -> None:
    """Return once locked. Raises `TimeoutError`."""
    if _try_lock(fd):
        return
    async with asyncio.timeout(wait_s):
        while not _try_lock(fd):  # noqa: ASYNC110 - nothing in this process could set an event
            await asyncio.sleep(LOCK_POLL_S)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class SpaceWatch:
    """Keeps a ballast file to release on a full disk, and says when space runs low."""

    def __init__(self, folder: Path, *, on_alarm: Callable[[str | None], None] | None) -> None:
        self._folder = folder
        self._ballast = folder / BALLAST_NAME
        self._on_alarm = on_alarm
        self.alarm: str | None = None
        """Why space is low, as a sentence; `None` when it isn't."""

    def disk_fraction(self) -> float:
        """How much of the file system is used, from 0 to 1, as an ordinary user sees it."""
        stat = os.statvfs(self._folder)
        usable = stat.f_blocks - stat.f_bfree + stat.f_bavail
        return 1 - stat.f_bavail / usable if usable else 0.0

    def lay_ballast(self) -> None:
        """Put the ballast in place, if it isn't and there is ample room."""
        stat = os.statvfs(self._folder)
        free_bytes = stat.f_bavail * stat.f_frsize
        if self._ballast.exists() or free_bytes < BALLAST_BYTES * BALLAST_REFILL_FACTOR:
            return
        fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(fd, 0, BALLAST_BYTES)
        except OSError as exc:
            self._ballast.unlink()
            if exc.errno not in DISK_FULL:
                raise
        finally:
            os.close(fd)

    def release_ballast(self) -> bool:
        """Give its room to the journal; whether there was any to give."""
        try:
            self._ballast.unlink()
        except OSError:
            return False
        return True

    def check(self, *, kept_bytes: int, bytes_max: int) -> None:
        """Compare both limits with what is used; report when the answer changes."""
        disk = self.disk_fraction()
        alarm = None
        if not self._ballast.exists():
            alarm = f"the disk of {self._folder} is full; the ballast was released"
        elif kept_bytes >= ALARM_FRACTION * bytes_max:
            alarm = f"the journal in {self._folder} nears its limit of {bytes_max} bytes"
        elif disk >= ALARM_FRACTION:
            alarm = f"the disk of {self._folder} is over {ALARM_FRACTION:.0%} full"
        if alarm != self.alarm:
            self.alarm = alarm
            if self._on_alarm is not None:
                self._on_alarm(alarm)
