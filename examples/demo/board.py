"""Where every run is, as the heads in the store say."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from coatcheck_sidecar.core.head import decode_head
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.objects import BadObject
from coatcheck_sidecar.ports import Store, StoreError

READS_MAX: Final = 8
"""Heads read at once."""


@dataclass(frozen=True, slots=True)
class Order:
    """A run as it was ordered: an invoice of some lines."""

    run: str
    kind: str
    """How its payments are made safe: `keyed`, `probed` or `blind`."""
    lines: tuple[tuple[str, int], ...]
    """(ref, cents)"""

    @property
    def steps(self) -> int:
        """One a line, and one to say that it is done."""
        return len(self.lines) + 1

    @property
    def input(self) -> dict[str, str]:
        """What the agent gets."""
        text = "\n".join(f"{ref}: {cents} cents" for ref, cents in self.lines)
        return {"kind": self.kind, "lines": text}


@dataclass(frozen=True, slots=True)
class Row:
    """One run."""

    order: Order
    status: Status | None = None
    """`None`: not in the store yet."""
    reason: str = ""
    step: int = 0
    """The last step with a checkpoint in the store."""
    epoch: int = 0
    """How many owners it had."""
    owner: str = ""
    hits: int = 0
    """How often it was owned by what was killed."""

    @property
    def is_over(self) -> bool:
        return self.status is not None and self.status.is_final

    @property
    def is_in_doubt(self) -> bool:
        return self.status is Status.HELD and self.reason.startswith("in_doubt")

    def is_on(self, uid: str) -> bool:
        """It is owned by a sidecar of this pod."""
        return self.status is Status.OWNED and self.owner.startswith(f"{uid}.")


class Board:
    """The rows, kept fresh by reading."""

    def __init__(self, store: Store, orders: Iterable[Order]) -> None:
        self.rows = {order.run: Row(order) for order in orders}
        self._store = store
        self._gate = asyncio.Semaphore(READS_MAX)

    @property
    def is_over(self) -> bool:
        return all(row.is_over for row in self.rows.values())

    def is_owned(self, uids: Iterable[str]) -> bool:
        """Each run that is not over is owned by one of these pods."""
        known = list(uids)
        left = [row for row in self.rows.values() if not row.is_over]
        return all(any(row.is_on(uid) for uid in known) for row in left)

    @property
    def is_stuck(self) -> bool:
        """Nothing here will go on unless somebody decides what nobody here decides."""
        left = [row for row in self.rows.values() if not row.is_over]
        is_held = [row.status is Status.HELD and not row.is_in_doubt for row in left]
        return bool(left) and all(is_held)

    @property
    def finished(self) -> int:
        return sum(row.status is Status.FINISHED for row in self.rows.values())

    async def refresh(self) -> list[tuple[Row, Row]]:
        """Read what may have changed; the rows that did, before and after."""
        before = [row for row in self.rows.values() if not row.is_over]
        after = await asyncio.gather(*(self._read(row) for row in before))
        self.rows.update((row.order.run, row) for row in after)
        return [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]

    async def _read(self, row: Row) -> Row:
        name = f"runs/{row.order.run}/head"
        async with self._gate:
            try:
                stored = await self._store.get(name)
                head = None if stored is None else decode_head(name, stored.data)
            except (StoreError, BadObject):
                return row  # a busy store is looked at again in a moment
        if head is None:
            return row
        return replace(
            row,
            status=head.status,
            reason=head.reason,
            step=head.step,
            epoch=head.epoch,
            owner=head.owner,
        )

    def hit(self, uid: str) -> list[str]:
        """Note that what ran in a pod was killed; the runs that it had."""
        struck = [run for run, row in self.rows.items() if row.is_on(uid)]
        for run in struck:
            self.rows[run] = replace(self.rows[run], hits=self.rows[run].hits + 1)
        return struck
