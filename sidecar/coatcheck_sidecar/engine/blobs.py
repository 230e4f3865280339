"""Big values of a run, on their way to the store and back, part by part.

They go straight to the store: a blob that is acknowledged is off the pod, so nothing of it is ever
unshipped. At most so many parts are in memory, whatever the blob's size.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core.blob import BLOBS_MAX, PART_BYTES, blob_of, parts_of
from coatcheck_sidecar.core.blob_records import Blob, Dropped
from coatcheck_sidecar.core.layout import object_name
from coatcheck_sidecar.core.model import Level, ObjectRef
from coatcheck_sidecar.core.objects import BadObject, Kind, payload_of, reference, seal
from coatcheck_sidecar.core.record import bodies_of
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.engine.restore import damaged
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.ports import Stored, StoreError

PARTS_MAX: Final = 4
"""Of one blob on their way at once."""
COMING_MAX: Final = 4
"""Blobs of one run on their way, those included that were broken off; the oldest gives way."""
TRIES_MAX: Final = 5
RETRY_BASE_S: Final = 0.2


@dataclass(slots=True)
class Coming:
    """A blob of which some parts are in the store, and no record names them."""

    length: int
    epoch: int
    seq: int
    """In the names of its parts. Once the run is claimed anew these are anybody's to collect."""
    parts: list[ObjectRef] = field(default_factory=list)
    received: int = 0
    """Bytes that these parts hold."""
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    is_busy: bool = False


class Sent(NamedTuple):
    """A part on its way, and the digest of all up to its end."""

    task: asyncio.Task[ObjectRef]
    digest: "hashlib._Hash"


async def _landed(coming: Coming, sent: Sent) -> None:
    """Parts count in their order: what was broken off goes on behind the last of these."""
    coming.parts.append(await sent.task)
    coming.received = min(coming.length, len(coming.parts) * PART_BYTES)
    coming.digest = sent.digest


def _opened(ref: ObjectRef, stored: Stored | None) -> memoryview:
    return payload_of(ref, None if stored is None else stored.data, kind=Kind.PART)


def _is_there(task: asyncio.Task[ObjectRef]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


class Blobs:
    """Those of one owned run."""

    def __init__(self, keeper: Keeper, *, bytes_max: int) -> None:
        """`bytes_max` bounds one blob."""
        self._keeper = keeper
        self._doors = keeper.doors
        self._bytes_max = bytes_max
        self._coming: dict[str, Coming] = {}

    def length_of(self, name: str) -> int | None:
        """In bytes; `None` if the run has no such blob."""
        found = self._find(name)
        return None if found is None else found.length

    def received(self, name: str) -> int:
        """How much of a blob that is not there yet need not be sent again."""
        coming = self._coming.get(name)
        return 0 if coming is None or self._is_stale(coming) else coming.received

    def _is_stale(self, coming: Coming) -> bool:
        return coming.epoch != self._keeper.log.state.epoch

    async def put(
        self, name: str, pieces: AsyncIterator[bytes], *, offset: int, length: int
    ) -> None:
        """Take a blob in, from `offset` on; it is in the store and in the log when this returns.

        Raises `Refusal`: too_large, conflict (what comes is not what is missing, or it comes
        already), protocol_error (it is not of that digest), draining, store_unavailable.
        """
        self._keeper.check_owned()
        if self._find(name) is not None:
            return
        coming = self._begin(name, offset=offset, length=length)
        coming.is_busy = True
        try:
            await self._take(coming, pieces)
        finally:
            coming.is_busy = False
        if coming.received < length:
            why = f"{coming.received} of {length} bytes of blob {name} came"
            raise Refusal(ErrorCode.UNAVAILABLE, why, retry=Retry.LATER)
        if self._is_stale(coming):
            self._forget(name)
            why = f"the run was claimed anew while blob {name} came: it must come again"
            raise Refusal(ErrorCode.UNAVAILABLE, why, retry=Retry.LATER)
        if coming.digest.hexdigest() != name:
            self._forget(name)
            raise Refusal(
                ErrorCode.PROTOCOL_ERROR, f"these {length} bytes are not of digest {name}"
            )
        try:
            record = blob_of(name, length, parts=coming.parts)
            await self._keeper.write(record, level=Level.REMOTE)
        finally:
            self._forget(name)

    def _begin(self, name: str, *, offset: int, length: int) -> Coming:
        if length > self._bytes_max:
            why = f"a blob of {length} bytes; blob_bytes_max is {self._bytes_max}"
            raise Refusal(ErrorCode.TOO_LARGE, why, limit=self._bytes_max)
        if len(self._keeper.log.state.blobs) >= BLOBS_MAX:
            why = f"the run has {BLOBS_MAX} blobs: drop those that are of no use any more"
            raise Refusal(ErrorCode.TOO_LARGE, why, limit=BLOBS_MAX)
        coming = self._coming.get(name)
        if coming is not None and coming.is_busy:
            why = f"blob {name} comes already, by another request"
            raise Refusal(ErrorCode.CONFLICT, why, retry=Retry.LATER)
        if coming is None or offset == 0 or self._is_stale(coming):
            self._forget(name)
            state = self._keeper.log.state
            coming = Coming(length, state.epoch, state.seq + 1)
            self._keeper.log.uploading[name] = coming.seq
            self._coming[name] = coming
            self._make_room()
        if (coming.received, coming.length) != (offset, length):
            why = (
                f"{coming.received} of {coming.length} bytes of blob {name} are here, not {offset}"
            )
            raise Refusal(ErrorCode.CONFLICT, why, received=coming.received)
        return coming

    def _make_room(self) -> None:
        idle = [name for name, coming in self._coming.items() if not coming.is_busy]
        for name in idle[: max(0, len(self._coming) - COMING_MAX)]:
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._coming.pop(name, None)
        self._keeper.log.uploading.pop(name, None)

    async def _take(self, coming: Coming, pieces: AsyncIterator[bytes]) -> None:
        """Cut what comes into parts, and send them as they fill."""
        tasks = TaskSet(lambda _name, _error: None)
        sent: deque[Sent] = deque()
        running, buffer, left = coming.digest, bytearray(), coming.length - coming.received
        try:
            async for piece in pieces:
                buffer += piece
                left -= len(piece)
                while len(buffer) >= PART_BYTES or (buffer and not left):
                    with memoryview(buffer) as view:
                        part = bytes(view[:PART_BYTES])
                    del buffer[:PART_BYTES]
                    self._check_goes_on()
                    running = running.copy()
                    running.update(part)
                    task = tasks.start(self._send(coming, part), name="part of a blob")
                    sent.append(Sent(task, running))
                    if len(sent) >= PARTS_MAX:
                        await _landed(coming, sent.popleft())
            while sent:
                await _landed(coming, sent.popleft())
        finally:
            while sent and _is_there(sent[0].task):
                await _landed(coming, sent.popleft())
            await tasks.close()

    def _check_goes_on(self) -> None:
        self._keeper.check_owned()
        if self._keeper.is_draining:
            why = "this pod is shutting down: its link is for what is not shipped yet"
            raise Refusal(ErrorCode.DRAINING, why, retry=Retry.LATER)

    async def _send(self, coming: Coming, part: bytes) -> ObjectRef:
        random = self._doors.clock.random_bytes(8)
        name = object_name(self._keeper.run, epoch=coming.epoch, seq=coming.seq, random=random)

        def sealed() -> tuple[bytes, ObjectRef]:
            data = seal(Kind.PART, part)
            return data, reference(name, data)

        data, ref = await asyncio.to_thread(sealed)
        for number in range(TRIES_MAX):
            try:
                async with self._doors.gate:
                    await self._doors.store.put(name, data)
            except StoreError as error:
                if number == TRIES_MAX - 1:
                    why = f"the store does not answer: {error}"
                    raise Refusal(ErrorCode.STORE_UNAVAILABLE, why, retry=Retry.LATER) from error
                await self._doors.clock.sleep(RETRY_BASE_S * 2**number)
            else:
                break
        return ref

    async def get(self, name: str) -> AsyncIterator[memoryview]:
        """Its parts, one after another; the next ones are read meanwhile. Raises `Refusal`."""
        blob, data = self._found(name)
        try:
            refs = parts_of(blob, data)
        except BadObject as error:
            raise damaged(self._keeper.run, str(error)) from error
        tasks = TaskSet(lambda _name, _error: None)
        reads: deque[asyncio.Task[memoryview]] = deque()
        try:
            for ref in refs:
                reads.append(tasks.start(self._read(ref), name=ref.name))
                if len(reads) >= PARTS_MAX:
                    yield await reads.popleft()
            while reads:
                yield await reads.popleft()
        finally:
            await tasks.close()

    async def _read(self, ref: ObjectRef) -> memoryview:
        try:
            async with self._doors.gate:
                stored = await self._doors.store.get(ref.name)
            return await asyncio.to_thread(_opened, ref, stored)
        except BadObject as error:
            self._doors.observer.note("damaged", run=self._keeper.run, error=str(error))
            raise damaged(self._keeper.run, str(error)) from error
        except StoreError as error:
            why = f"the store does not answer: {error}"
            raise Refusal(ErrorCode.STORE_UNAVAILABLE, why, retry=Retry.LATER) from error

    async def drop(self, name: str) -> None:
        """It is of no use any more: its parts go with the next collection."""
        self._keeper.check_owned()
        self._forget(name)
        if self._find(name) is not None:
            await self._keeper.write(Dropped(digest=bytes.fromhex(name)), level=Level.NODE)

    def _find(self, name: str) -> Blob | None:
        state = self._keeper.log.state
        record = state.records.get(state.blobs.get(bytes.fromhex(name), 0))
        return record.event if record is not None and isinstance(record.event, Blob) else None

    def _found(self, name: str) -> tuple[Blob, bytes | None]:
        state = self._keeper.log.state
        blob = self._find(name)
        if blob is None:
            why = f"run {state.run} has no blob {name}"
            raise Refusal(ErrorCode.NOT_FOUND, why, run=state.run)
        (body,) = bodies_of(state.records[state.blobs[blob.digest]])
        return blob, body.data
