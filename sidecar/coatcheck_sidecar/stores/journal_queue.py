"""What waits for the journal's writer: appends in the order of calls, and jobs between them."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from coatcheck_sidecar.ports import Row
from coatcheck_sidecar.stores.journal_rows import Record, RowIndex

BATCH_ROWS_MAX: Final = 256
"""Enough for the producers of one pod; more rows only make the first of them wait longer."""

BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
"""About 15 ms of writing: what a small append waits at most for its big neighbours."""


@dataclass(slots=True, eq=False)
class Append:
    """One call of append. Its caller may cancel `done`: the rows are written all the same."""

    rows: Sequence[Row]
    is_synced: bool
    done: asyncio.Future[None]
    length: int
    records: list[Record] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Job:
    """Something that the writer does alone, in its turn."""

    work: Callable[[], Awaitable[Any]]
    done: asyncio.Future[Any]


class WriteQueue:
    """Appends and jobs that were let in, and before the gate, appends that wait for room."""

    def __init__(self, index: RowIndex, *, rows_max: int, bytes_max: int) -> None:
        self._index = index
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._admitted: deque[Append | Job] = deque()
        self._gate: deque[Append] = deque()
        self._rows = 0

    def __bool__(self) -> bool:
        return bool(self._admitted)

    def put(self, entry: Append) -> None:
        """Let an append in, or have it wait behind those that wait already."""
        self._gate.append(entry)
        self.admit()
        if self._gate and self._gate[-1] is entry:
            entry.done.add_done_callback(lambda _: self._withdraw(entry))

    def put_job(self, job: Job) -> None:
        """Jobs pass the gate: reads and clean-up must work when there is no room."""
        self._admitted.append(job)

    def admit(self) -> None:
        """Let in what there is room for, in order."""
        while self._gate and self._has_room(self._gate[0]):
            entry = self._gate.popleft()
            entry.records = [self._index.admit(row) for row in entry.rows]
            self._rows += len(entry.records)
            self._admitted.append(entry)

    def take(self) -> Job | list[Append]:
        """The next job, or the appends that form the next batch: at least one."""
        first = self._admitted[0]
        if isinstance(first, Job):
            self._admitted.popleft()
            return first
        batch: list[Append] = []
        rows, length = 0, 0
        while self._admitted:
            entry = self._admitted[0]
            if isinstance(entry, Job):
                break
            rows += len(entry.records)
            length += entry.length
            if batch and (rows > BATCH_ROWS_MAX or length > BATCH_BYTES_MAX):
                break
            self._rows -= len(entry.records)
            batch.append(entry)
            self._admitted.popleft()
        self.admit()
        return batch

    def clear(self) -> list[Append | Job]:
        """Everything that still waits, taken out."""
        entries = [*self._admitted, *self._gate]
        self._admitted.clear()
        self._gate.clear()
        return entries

    def _withdraw(self, entry: Append) -> None:
        """Forget an append that its caller gave up, if it was not let in yet."""
        if entry.done.cancelled() and entry in self._gate:
            self._gate.remove(entry)
            self.admit()

    def _has_room(self, entry: Append) -> bool:
        if self._rows and self._rows + len(entry.rows) > self._rows_max:
            return False
        kept = self._index.kept_bytes
        return not kept or kept + entry.length <= self._bytes_max
