"""Request bodies: small ones in memory, big ones in a file until they were sent."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coatcheck.wire import ErrorCode
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.ports import Clock

MEMORY_BYTES_MAX: Final = 1_048_576
"""A chat of 250,000 tokens; times the requests at once, this is memory."""
FOLDER_MODE: Final = 0o700


@dataclass(frozen=True, slots=True)
class Taken:
    """A body, whole. `digest` is the SHA-256 of one in a file."""

    body: bytes | Path = b""
    digest: bytes = b""


class Bodies:
    """Takes bodies in."""

    def __init__(self, folder: Path, *, clock: Clock) -> None:
        """`folder` holds nothing else: what a former life left is removed at the start."""
        self._folder = folder
        self._clock = clock

    def clear(self) -> None:
        """Remove what a former life left."""
        self._folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        for path in self._folder.iterdir():
            path.unlink(missing_ok=True)

    async def take(self, pieces: AsyncIterator[bytes], *, bytes_max: int) -> Taken:
        """All of a body; raises `Refusal` above `bytes_max`."""
        held = bytearray()
        async for data in pieces:
            held += data
            _check(len(held), bytes_max)
            if len(held) > MEMORY_BYTES_MAX:
                return await self._spool(held, pieces, bytes_max=bytes_max)
        return Taken(bytes(held))

    async def _spool(
        self, held: bytearray, pieces: AsyncIterator[bytes], *, bytes_max: int
    ) -> Taken:
        path = self._folder / self._clock.random_bytes(12).hex()
        digest, length = hashlib.sha256(), 0
        try:
            with path.open("xb") as file:

                def write(data: bytes) -> None:
                    digest.update(data)
                    file.write(data)

                async for data in pieces:
                    held += data
                    _check(length + len(held), bytes_max)
                    if len(held) >= MEMORY_BYTES_MAX:
                        length += len(held)
                        await asyncio.to_thread(write, bytes(held))
                        held.clear()
                await asyncio.to_thread(write, bytes(held))
        except BaseException:
            with suppress(OSError):
                path.unlink()
            raise
        return Taken(path, digest.digest())


def _check(length: int, bytes_max: int) -> None:
    if length > bytes_max:
        raise too_large(bytes_max)


def too_large(bytes_max: int) -> Refusal:
    """A body above its tool's limit."""
    return Refusal(
        ErrorCode.TOO_LARGE,
        f"the body has more than the {bytes_max} bytes that request_bytes_max allows",
        limit=bytes_max,
    )
