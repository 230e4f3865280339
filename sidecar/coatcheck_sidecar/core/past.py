"""What steps that are over leave behind: a tombstone a key, and records that may count again.

A run can be set back to a checkpoint that was kept. What its later steps did stays done, so their
calls, and the signals that they took, count again: their records are kept until no checkpoint
before the one that ended them is.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from coatcheck_sidecar.core.call_state import with_tombstone
from coatcheck_sidecar.core.head import Over, Tombstone
from coatcheck_sidecar.core.model import Body, Call, CallClass, CallState, ObjectRef
from coatcheck_sidecar.core.packs import is_packed
from coatcheck_sidecar.core.record import (
    Record,
    Signalled,
    bodies_of,
    encode_record,
    number_of,
    with_body,
)

BYTES_MAX: Final = 131_072
"""Of records that may count again: a restore reads them, and an owner has them in memory, where
they take ten times as much."""
SIGNALS_BYTES_MAX: Final = 32_768
"""Of signals among them, which the head carries."""


def tombstone_of(call: Call) -> Tombstone:
    """What is kept of a call for the run's life."""
    return Tombstone(call.key, call.number, call.tool, call.fingerprint, call.state.value)


def buried(stone: Tombstone) -> Call:
    """The call that a tombstone is of, as far as it tells."""
    call = Call(
        number=stone.number,
        key=stone.key,
        step=0,
        tool=stone.tool,
        call_class=CallClass.ONCE,
        fingerprint=stone.fingerprint,
        state=CallState.DONE,
        is_named=True,
        reason=stone.what,
    )
    return with_tombstone(call)


class Past:
    """Records by the checkpoint that ended them, oldest first.

    What is asked for at every swap is kept ready: there may be a thousand of them.
    """

    def __init__(self) -> None:
        self.records: dict[int, Record] = {}
        """By their place in the log."""
        self.encoded: dict[int, bytes] = {}
        """Those that are in no pack, as a head has them."""
        self._ended: dict[int, list[int]] = {}
        """By a checkpoint's place: those of the records that it ended."""
        self._bytes: dict[int, tuple[int, int]] = {}
        """By the same: what they weigh, and the signals among them."""
        self._first: dict[int, int] = {}
        """By the same: the lowest place."""
        self._over: tuple[Over, ...] | None = None

    @property
    def ends(self) -> dict[int, int]:
        """By a record's place: that of the checkpoint that ended it."""
        return {at: end for end, places in self._ended.items() for at in places}

    @property
    def oldest(self) -> int:
        """The first place of any; 0 if there is none."""
        return min(self._first.values(), default=0)

    def keep(self, records: Mapping[int, Record], *, end: int) -> None:
        """The checkpoint at `end` ended these. A body that lies in the store is not held here."""
        self._over = None
        weight, signals = self._bytes.get(end, (0, 0))
        for at, record in records.items():
            self.records[at] = light = _light(record)
            self.encoded[at] = data = encode_record(light, inline=False)
            weight += len(data)
            signals += len(data) if isinstance(record.event, Signalled) else 0
        if records:
            self._ended.setdefault(end, []).extend(records)
            self._bytes[end] = (weight, signals)
            self._first[end] = min(self._ended[end])

    def packed(self, up_to: int) -> None:
        """Call records up to there lie in packs."""
        for at in [at for at in self.encoded if is_packed(self.records[at], up_to)]:
            del self.encoded[at]

    def unpacked(self) -> None:
        """No record lies in a pack any more."""
        self.encoded = {at: encode_record(r, inline=False) for at, r in self.records.items()}

    def take_back(self, seq: int) -> list[Record]:
        """Those that the run had not ended at `seq`: they are no longer past."""
        places = [at for end in self._ended if end > seq for at in self._ended[end]]
        records = [self.records[at] for at in sorted(places)]
        for end in [end for end in self._ended if end > seq]:
            self._drop(end)
        return records

    def horizon(self) -> int:
        """The least horizon that keeps what there is within its limits."""
        left, signals_left = BYTES_MAX, SIGNALS_BYTES_MAX
        for end in reversed(self._bytes):
            left -= self._bytes[end][0]
            signals_left -= self._bytes[end][1]
            if left < 0 or signals_left < 0:
                return end
        return 0

    def forget(self, horizon: int) -> None:
        """The run is set back to before `horizon` no more."""
        for end in [*itertools.takewhile(lambda end: end <= horizon, self._ended)]:
            self._drop(end)

    def _drop(self, end: int) -> None:
        self._over = None
        del self._bytes[end], self._first[end]
        for at in self._ended.pop(end):
            del self.records[at]
            self.encoded.pop(at, None)

    def over(self) -> tuple[Over, ...]:
        """As a head says it."""
        if self._over is None:
            self._over = tuple(
                Over(end, tuple(sorted({number_of(self.records[at]) for at in places})))
                for end, places in self._ended.items()
            )
        return self._over

    def attach(self, at: int, ref: ObjectRef) -> None:
        """The body of the record at `at`, if it is one of these, lies in the store now."""
        if at in self.records:
            self.records[at] = light = with_body(self.records[at], Body(None, ref))
            if at in self.encoded:
                self.encoded[at] = encode_record(light, inline=False)

    def restore(self, over: Iterable[Over], records: Iterable[Record]) -> list[Record]:
        """Take in those of `records` that are over; the others."""
        ends = {number: each.seq for each in over for number in each.numbers}
        live: list[Record] = []
        past: dict[int, dict[int, Record]] = {}
        for record in records:
            end = ends.get(number_of(record))
            if end is None:
                live.append(record)
            else:
                past.setdefault(end, {})[record.seq] = record
        for end in sorted(past):
            self.keep(past[end], end=end)
        return live


def _light(record: Record) -> Record:
    for body in bodies_of(record):
        if body.ref is not None and body.data is not None:
            return with_body(record, replace(body, data=None))
    return record
