"""Any store, with all that goes there encrypted. The one place where keys meet bytes.

Names are not: they hold the ids of runs, queues and pods.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from coatcheck_sidecar.core.envelope import (
    MEND,
    OVERHEAD_BYTES,
    RANDOM_BYTES,
    BadEnvelope,
    key_id_of,
    open_envelope,
    seal_envelope,
    unread,
)
from coatcheck_sidecar.core.keyring import PLAIN, KeyRing, parse_key_ring
from coatcheck_sidecar.ports import Clock, Listed, Store, Stored

LOOK_S: Final = 1.0
"""How often the file is looked at: a kubelet takes up to a minute to bring a changed Secret."""
INLINE_BYTES_MAX: Final = 262_144
"""A head. What is bigger is encrypted in a thread: 1 MiB takes about a millisecond."""
FILE_BYTES_MAX: Final = 65_536
"""Ten times the longest ring."""

Trouble = Callable[[str], None]


def with_keys(
    store: Store, file: Path | None, *, clock: Clock, on_trouble: Trouble = lambda _: None
) -> Store:
    """The store, encrypted where there is a file of keys.

    Raises `ValueError` that names the file and what is wrong, and shows no key. What is wrong
    with it later is told to `on_trouble`, and the keys read before stay.
    """
    if file is None:
        return store
    return EncryptedStore(store, KeyFile(file, clock=clock, on_trouble=on_trouble), clock=clock)


class KeyFile:
    """A key ring in a file, read again when the file changes."""

    def __init__(self, path: Path, *, clock: Clock, on_trouble: Trouble) -> None:
        """Raises `ValueError`."""
        self._path = path
        self._clock = clock
        self._on_trouble = on_trouble
        self._seen = self._stamp()
        self._looked_s = clock.monotonic()
        self._told = ""
        self._ring = self._read()

    def ring(self, *, wanted: str = "") -> KeyRing:
        """The keys; looks at the file at once if the key `wanted` is not among them."""
        is_missing = bool(wanted) and wanted not in self._ring.keys
        if is_missing or self._clock.monotonic() - self._looked_s >= LOOK_S:
            self._look()
        return self._ring

    def _look(self) -> None:
        self._looked_s = self._clock.monotonic()
        stamp = self._stamp()
        if stamp == self._seen:
            return
        try:
            self._ring = self._read()
        except ValueError as error:  # looked at again each time: it may be in the middle of a write
            if str(error) != self._told:
                self._told = str(error)
                self._on_trouble(self._told)
            return
        self._seen, self._told = stamp, ""

    def _stamp(self) -> tuple[int, ...]:
        """Changes with the file, also where it is a link that is turned, as in a Secret volume."""
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)

    def _read(self) -> KeyRing:
        try:
            with self._path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
            if len(data) <= FILE_BYTES_MAX:
                return parse_key_ring(data.decode())
            problem = f"it is longer than {FILE_BYTES_MAX} bytes"
        except UnicodeDecodeError:
            problem = "it is no text"
        except ValueError as error:
            problem = str(error)
        except OSError as error:
            problem = str(error.strerror)
        raise ValueError(f"encryption_keys ({self._path}): {problem}")


class EncryptedStore:
    """Implements `ports.Store` over another one.

    An object that can't be opened is handed out as one that says why, and so is damage to
    whoever decodes it, with its name: it is not put over, and the store counts as reached.
    """

    def __init__(self, store: Store, keys: KeyFile, *, clock: Clock) -> None:
        """`store` is closed with this one."""
        self._store = store
        self._keys = keys
        self._clock = clock

    @property
    def url(self) -> str:
        """That of the store."""
        return self._store.url

    @property
    def background_puts_max(self) -> int:
        """That of the store."""
        return self._store.background_puts_max

    @property
    def background_share(self) -> float:
        """That of the store."""
        return self._store.background_share

    @property
    def writes_apart_s(self) -> float:
        """See `Store`."""
        return self._store.writes_apart_s

    async def get(self, name: str) -> Stored | None:
        """Read one object and open it; `None` if there is none."""
        stored = await self._store.get(name)
        if stored is None:
            return None
        try:
            return replace(stored, data=await self._open(name, stored.data))
        except BadEnvelope as error:
            return replace(stored, data=unread(str(error)))

    async def put(self, name: str, data: bytes) -> None:
        """Encrypt an object and write it."""
        await self._store.put(name, await self._seal(name, data))

    async def swap(self, name: str, data: bytes, *, expected: str | None) -> str:
        """Encrypt an object and swap it in."""
        return await self._store.swap(name, await self._seal(name, data), expected=expected)

    async def delete(self, name: str) -> None:
        """Remove one object; this takes no key."""
        await self._store.delete(name)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Listed]:
        """As the store lists; a length is that of the object, as far as it is encrypted."""
        lines = await self._store.list(prefix, after=after, limit=limit)
        if self._keys.ring().writer == PLAIN:
            return lines
        return [replace(line, length=max(0, line.length - OVERHEAD_BYTES)) for line in lines]

    async def now_ms(self) -> int:
        """The store's clock."""
        return await self._store.now_ms()

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    async def _seal(self, name: str, data: bytes) -> bytes:
        ring = self._keys.ring()
        if ring.writer == PLAIN:
            return data
        random = self._clock.random_bytes(RANDOM_BYTES)
        key = ring.keys[ring.writer]
        work = partial(seal_envelope, data, name=name, key_id=ring.writer, key=key, random=random)
        return work() if len(data) <= INLINE_BYTES_MAX else await asyncio.to_thread(work)

    async def _open(self, name: str, data: bytes) -> bytes:
        key_id = key_id_of(data)
        if key_id is None:
            if self._keys.ring().reads_plain:
                return data
            raise BadEnvelope("not encrypted, and the key ring has no line `plain` to allow it")
        key = self._keys.ring(wanted=key_id).keys.get(key_id)
        if key is None:
            raise BadEnvelope(f"encrypted with key {key_id}, which the key ring lacks; {MEND}")
        work = partial(open_envelope, data, name=name, key=key)
        return work() if len(data) <= INLINE_BYTES_MAX else await asyncio.to_thread(work)
