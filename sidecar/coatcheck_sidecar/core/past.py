"""What steps that are over leave behind: a tombstone a key, and records that may count again.

A run can be set back to a checkpoint that was kept. What its later steps did stays done, so their
calls, and the signals that they took, count again: their records are kept until no checkpoint
before the one that ended them is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from coatcheck_sidecar.core.call_state import with_tombstone
from coatcheck_sidecar.core.head import Over, Tombstone
from coatcheck_sidecar.core.model import Call, CallClass, CallState, ObjectRef
from coatcheck_sidecar.core.record import (
    Record,
    Signalled,
    bodies_of,
    encode_record,
    number_of,
    with_body,
    with_ref,
)

BYTES_MAX: Final = 1_048_576
"""Of records that may count again: a restore reads them, and an owner has them in memory."""
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
    """Records by the checkpoint that ended them, oldest first."""

    def __init__(self) -> None:
        self.records: dict[int, Record] = {}
        """By their place in the log."""
        self.ends: dict[int, int] = {}
        """By a record's place: that of the checkpoint."""

    def keep(self, records: Mapping[int, Record], *, end: int) -> None:
        """The checkpoint at `end` ended these. A body that lies in the store is not held here."""
        self.records |= {at: _light(record) for at, record in records.items()}
        self.ends |= dict.fromkeys(records, end)

    def take_back(self, seq: int) -> list[Record]:
        """Those that the run had not ended at `seq`: they are no longer past."""
        back = sorted(at for at, end in self.ends.items() if end > seq)
        for at in back:
            del self.ends[at]
        return [self.records.pop(at) for at in back]

    def horizon(self) -> int:
        """The least horizon that keeps what there is within its limits."""
        left, signals_left = BYTES_MAX, SIGNALS_BYTES_MAX
        for at in sorted(self.ends, key=lambda at: (self.ends[at], at), reverse=True):
            record = self.records[at]
            size = len(encode_record(record, inline=False))
            left -= size
            signals_left -= size if isinstance(record.event, Signalled) else 0
            if left < 0 or signals_left < 0:
                return self.ends[at]
        return 0

    def forget(self, horizon: int) -> None:
        """The run is set back to before `horizon` no more."""
        for at in [at for at, end in self.ends.items() if end <= horizon]:
            del self.ends[at], self.records[at]

    def over(self) -> tuple[Over, ...]:
        """As a head says it."""
        numbers: dict[int, dict[int, None]] = {}
        for at, end in self.ends.items():
            numbers.setdefault(end, {})[number_of(self.records[at])] = None
        return tuple(Over(end, tuple(sorted(numbers[end]))) for end in sorted(numbers))

    def attach(self, at: int, ref: ObjectRef) -> None:
        """The body of the record at `at`, if it is one of these, lies in the store now."""
        if at in self.records:
            self.records[at] = _light(with_ref(self.records[at], ref))

    def restore(self, over: Iterable[Over], records: Iterable[Record]) -> list[Record]:
        """Take in those of `records` that are over; the others."""
        ends = {number: each.seq for each in over for number in each.numbers}
        live = []
        for record in records:
            end = ends.get(number_of(record))
            if end is None:
                live.append(record)
            else:
                self.keep({record.seq: record}, end=end)
        return live


def _light(record: Record) -> Record:
    for body in bodies_of(record):
        if body.ref is not None and body.data is not None:
            return with_body(record, replace(body, data=None))
    return record
