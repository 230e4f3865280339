"""The blocking half of the directory store: what one verb does to files and folders."""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from coatcheck_sidecar.ports import Clock, Listed, Stored

ASIDE: Final = ".aside"
"""Where files are written before they get their name; no object name begins with a dot."""

ASIDE_AGE_MAX_MS: Final = 3_600_000
"""What lies aside for an hour belongs to a process that died."""

SETTLED_MAX: Final = 4096
"""Folders known to be durable; beyond this they are learnt anew, at 1 ms each."""

MODE: Final = 0o660
"""Runs hold prompts and results: nothing for others."""


class FolderBusy(Exception):  # noqa: N818 - a state, met and waited out
    """Another thread or process holds the folder's lock."""


class FolderGone(Exception):  # noqa: N818 - a state, met and waited out
    """The folder was empty and removed between our opening it and our using it."""


BUSY: Final = (FolderBusy, FolderGone)
"""Nothing happened: the same job may be done again."""


class Files:
    """Verbs on files under `root`; any thread may call any of them. All raise `OSError`.

    The lock of an object is flock(2) on its folder: no lock files to keep, it dies with its holder,
    and the descriptor also serves to rename into the folder and to fsync it. If the folder is
    removed meanwhile, a rename through the descriptor fails, so a stale lock protects nothing.
    It is held for a look and a rename, and through no fsync: a process that is stopped while it
    holds a lock locks the others out until it goes on or dies.
    """

    def __init__(self, root: Path, *, clock: Clock) -> None:
        """Make `root` and clear away what dead processes left aside."""
        self._root = str(root)
        self._aside = str(root / ASIDE)
        self._clock = clock
        self._settled: set[str] = set()
        Path(self._aside).mkdir(parents=True, exist_ok=True)
        self._sweep()

    def read(self, name: str) -> Stored | None:
        """The object and its tag; a file is never changed once it has its name."""
        try:
            descriptor = os.open(f"{self._root}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            self._check_root()
            return None
        return _read(descriptor)

    def write(self, name: str, data: bytes) -> None:
        """Put the object there, durable; needs no lock. May raise `FolderGone`."""
        folder, leaf = self._split(name)
        with _closing(self._open_or_make(folder)) as descriptor, self._written(data) as aside:
            _rename(aside, leaf, folder=descriptor)
            os.fsync(descriptor)

    def swap(self, name: str, data: bytes, *, expected: str | None) -> str | None:
        """Replace what is tagged `expected`: the new tag, or `None` for a refusal.

        May raise `FolderBusy` or `FolderGone`.
        """
        folder, leaf = self._split(name)
        if expected is None:
            descriptor = self._open_or_make(folder)
        else:
            try:
                descriptor = _open_folder(folder)
            except (FileNotFoundError, NotADirectoryError):
                self._check_root()
                return None
        with _closing(descriptor), self._written(data) as aside:
            with _locked(descriptor):
                if _tag_in(descriptor, leaf) != expected:
                    os.unlink(aside)
                    return None
                _rename(aside, leaf, folder=descriptor)
            # Whoever sees it already is of this machine, and would go down with it.
            os.fsync(descriptor)
        return _tag(data)

    def remove(self, name: str) -> None:
        """Unlink under the lock, since a swap must not bring back what is deleted meanwhile."""
        folder, leaf = self._split(name)
        try:
            descriptor = _open_folder(folder)
        except (FileNotFoundError, NotADirectoryError):
            self._check_root()
            return
        with _closing(descriptor), _locked(descriptor):
            try:
                os.unlink(leaf, dir_fd=descriptor)
            except FileNotFoundError:
                return
            os.fsync(descriptor)
            self._prune(folder)

    def scan(self, prefix: str, *, after: str, limit: int) -> list[Listed]:
        """List by name; folders that can't hold a match aren't opened."""
        parent = prefix[: prefix.rfind("/") + 1]
        return list(islice(self._walk(parent, prefix=prefix, after=after), limit))

    def _walk(self, parent: str, *, prefix: str, after: str) -> Iterator[Listed]:
        """`parent` is "" or ends in a slash, so that folders sort as their objects do."""
        try:
            with os.scandir(f"{self._root}/{parent}") as entries:
                found = sorted(
                    (f"{parent}{entry.name}/" if is_folder else f"{parent}{entry.name}", is_folder)
                    for entry in entries
                    if not entry.name.startswith(".")
                    for is_folder in (entry.is_dir(follow_symlinks=False),)
                )
        except (FileNotFoundError, NotADirectoryError):
            self._check_root()
            return
        for key, is_folder in found:
            if is_folder:
                may_match = key.startswith(prefix) or prefix.startswith(key)
                if may_match and (key > after or after.startswith(key)):
                    yield from self._walk(key, prefix=prefix, after=after)
            elif key.startswith(prefix) and key > after:
                with contextlib.suppress(FileNotFoundError):
                    yield self._listed(key)

    def _listed(self, name: str) -> Listed:
        found = os.stat(f"{self._root}/{name}", follow_symlinks=False)
        version = f"{found.st_ino:x}-{found.st_mtime_ns:x}"
        return Listed(name, found.st_size, version, found.st_mtime_ns // 1_000_000)

    @contextlib.contextmanager
    def _written(self, data: bytes) -> Iterator[str]:
        """A file aside, synced, to be given a name; removed if that fails.

        Below the millisecond the time of change is random: the kernel stamps files in ticks of
        4 ms and gives inodes out again at once, so two writes could look like none to a listing.
        """
        aside = f"{self._aside}/{self._clock.random_bytes(8).hex()}"
        chance = int.from_bytes(self._clock.random_bytes(4)) % 1_000_000
        stamp_ns = self._clock.wall_ms() * 1_000_000 + chance
        try:
            _write_file(aside, data, stamp_ns=stamp_ns)
            yield aside
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise

    def _split(self, name: str) -> tuple[str, str]:
        folder, _, leaf = name.rpartition("/")
        return (f"{self._root}/{folder}" if folder else self._root), leaf

    def _open_or_make(self, folder: str) -> int:
        """A descriptor of the folder, whose own name is durable in its parents.

        A folder that another process has just made may not be; so the parents are synced once in
        this process, whoever made it.
        """
        if folder in self._settled:
            with contextlib.suppress(FileNotFoundError):
                return _open_folder(folder)
        try:
            self._make(folder)
            descriptor = _open_folder(folder)
        except FileNotFoundError as error:
            self._check_root()
            raise FolderGone from error
        if len(self._settled) >= SETTLED_MAX:
            self._settled.clear()
        self._settled.add(folder)
        return descriptor

    def _make(self, folder: str) -> None:
        path = self._root
        for part in folder[len(self._root) :].split("/")[1:]:
            parent, path = path, f"{path}/{part}"
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
            _sync_folder(parent)

    def _check_root(self) -> None:
        """Tell an object that isn't there from a disk that isn't: an unmounted store holds runs."""
        if not os.path.isdir(self._aside):
            raise FileNotFoundError(errno.ENOENT, "the store's own folder is gone", self._root)

    def _prune(self, folder: str) -> None:
        """Remove folders that became empty, or every listing would walk the runs of all time."""
        with contextlib.suppress(OSError):
            while folder != self._root:
                os.rmdir(folder)
                self._settled.discard(folder)
                folder = folder.rpartition("/")[0]

    def _sweep(self) -> None:
        with os.scandir(self._aside) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    age_ms = self._clock.wall_ms() - entry.stat().st_mtime_ns // 1_000_000
                    if age_ms > ASIDE_AGE_MAX_MS:
                        os.unlink(entry.path)


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _tag_in(folder_descriptor: int, leaf: str) -> str | None:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        stored = _read(os.open(leaf, flags, dir_fd=folder_descriptor))
    except FileNotFoundError:
        return None
    return None if stored is None else stored.tag


def _read(descriptor: int) -> Stored | None:
    """Read all and close; `None` for a folder, which is no object."""
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            return None
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            data = file.readall()
    finally:
        os.close(descriptor)
    return Stored(data, _tag(data))


def _rename(path: str, leaf: str, *, folder: int) -> None:
    try:
        os.rename(path, leaf, dst_dir_fd=folder)
    except FileNotFoundError as error:
        raise FolderGone from error


def _write_file(path: str, data: bytes, *, stamp_ns: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, MODE)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.utime(descriptor, ns=(stamp_ns, stamp_ns))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_folder(folder: str) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _sync_folder(folder: str) -> None:
    descriptor = _open_folder(folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Hold the folder's lock; raises `FolderBusy`."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FolderBusy from error
    try:
        yield
    finally:
        # Said aloud: a forked child would keep the lock alive by its copy of the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
