"""A store in memory: exact and atomic, for simulations and for agents' own tests."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from coatcheck_sidecar.ports import Listed, Stored, StoreRefused
from coatcheck_sidecar.stores.names import check_name, check_prefix


@dataclass(frozen=True, slots=True)
class _Kept:
    data: bytes
    tag: str
    version: int
    modified_ms: int


class MemoryStore:
    """Implements `ports.Store`. No verb awaits, so each is one atomic moment of the loop.

    Tags are digests of the content, as on most object stores: a head written without a nonce
    shows here as it would there. Versions count writes.
    """

    def __init__(self, *, now_ms: Callable[[], int]) -> None:
        """`now_ms` is the store's clock, in ms since 1970."""
        self._now_ms = now_ms
        self._kept: dict[str, _Kept] = {}
        self._writes = 0

    @property
    def url(self) -> str:
        """Always the same: nothing else could open it."""
        return "memory://"

    @property
    def background_puts_max(self) -> int:
        """As an object store's."""
        return 12

    @property
    def background_share(self) -> float:
        """As an object store's."""
        return 1.0

    @property
    def writes_apart_s(self) -> float:
        """See `Store`."""
        return 0.0

    async def get(self, name: str) -> Stored | None:
        """Read one object; `None` if there is none."""
        check_name(name)
        kept = self._kept.get(name)
        return None if kept is None else Stored(kept.data, kept.tag)

    async def put(self, name: str, data: bytes) -> None:
        """Write one object, whatever was there."""
        check_name(name)
        self._keep(name, data)

    async def swap(self, name: str, data: bytes, *, expected: str | None) -> str:
        """Replace the object tagged `expected` or create it; raises `StoreRefused`."""
        check_name(name)
        kept = self._kept.get(name)
        if (None if kept is None else kept.tag) != expected:
            raise StoreRefused(f"swap of {name} in {self.url}: it is not as expected")
        return self._keep(name, data)

    async def delete(self, name: str) -> None:
        """Remove one object; nothing happens if there is none."""
        check_name(name)
        self._kept.pop(name, None)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Listed]:
        """Objects under `prefix` by name, strictly after `after`."""
        check_prefix(prefix)
        names = sorted(name for name in self._kept if name.startswith(prefix) and name > after)
        return [self._listed(name) for name in names[:limit]]

    async def now_ms(self) -> int:
        """The injected clock, in ms since 1970."""
        return self._now_ms()

    async def close(self) -> None:
        """Nothing to release; what is kept stays readable."""

    def _listed(self, name: str) -> Listed:
        kept = self._kept[name]
        return Listed(name, len(kept.data), str(kept.version), kept.modified_ms)

    def _keep(self, name: str, data: bytes) -> str:
        self._writes += 1
        tag = hashlib.sha256(data).hexdigest()
        self._kept[name] = _Kept(bytes(data), tag, self._writes, self._now_ms())
        return tag
