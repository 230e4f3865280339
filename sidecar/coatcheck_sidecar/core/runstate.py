"""What the records of a run add up to.

The fold law, on which every head's size rests: a record that a newer one supersedes can be left
out. So `fold(kept) == fold(all)`, for every set of records between those kept and all of them.
Records of calls may lie in packs, where superseded ones stay until their pack goes; all others
stand in the head, and leave it the moment they are superseded.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, assert_never

from coatcheck_sidecar.core.call import (
    with_dispatched,
    with_doubt,
    with_intent,
    with_outcome,
    with_resolved,
)
from coatcheck_sidecar.core.head import Tombstone
from coatcheck_sidecar.core.model import Body, Call, CallClass, CallState, Status
from coatcheck_sidecar.core.record import (
    CallOutcome,
    Checkpoint,
    Claimed,
    Commanded,
    Created,
    Dispatched,
    Event,
    Failed,
    Finished,
    Held,
    Intent,
    Parked,
    Record,
    Released,
    Resolved,
    Signalled,
)

COMMANDS_MAX: Final = 64
"""Ids remembered so that a command is carried out once; one is forgotten long after its caller
stopped waiting."""

CallEvent = Intent | Dispatched | CallOutcome | Resolved
PLACE: Final[dict[type, str]] = {
    Created: "created",
    Claimed: "claimed",
    Checkpoint: "checkpoint",
    Parked: "status",
    Released: "status",
    Held: "status",
    Finished: "status",
    Failed: "status",
}
"""Of the kinds that share a place only the newest record counts."""


class RunState:
    """What the records add up to. Changes by `apply` alone."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.created = Created()
        self.status = Status.READY
        self.reason = ""
        self.epoch = 0
        self.claimed = Claimed(owner="")
        self.seq = 0
        self.checkpoint = Checkpoint(step=0, step_high=0)
        self.checkpoint_seq = 0
        self.crashes = 0
        self.not_before_ms = 0
        self.parked: Parked | None = None
        self.signals: dict[int, Signalled] = {}
        self.result: Body | None = None
        self.commands: tuple[str, ...] = ()
        self.calls: dict[int, Call] = {}
        self.by_key: dict[str, Call] = {}
        self.records: dict[int, Record] = {}
        self.tombstones: list[Tombstone] = []
        """Those not in a pack."""
        self._places: dict[str, int] = {}

    @property
    def step(self) -> int:
        """The last step with a checkpoint; 0 before the first."""
        return self.checkpoint.step

    def bury(self, tombstones: Iterable[Tombstone]) -> None:
        """Take in tombstones read from a head or a pack."""
        for stone in tombstones:
            self.by_key[stone.key] = _tombstone_call(stone)

    def apply(self, record: Record) -> None:
        """Take in the next record; `seq` may jump over records that were superseded."""
        self.seq = record.seq
        self.epoch = record.epoch
        event = record.event
        if isinstance(event, CallEvent):
            self._apply_call(record, event)
        else:
            self._apply_run(record, event)
        self.records[record.seq] = record
        place = PLACE.get(type(event))
        if place is not None:
            self.records.pop(self._places.get(place, 0), None)
            self._places[place] = record.seq
        command = getattr(event, "command", "")
        if command and command not in self.commands:
            self.commands = (*self.commands, command)[-COMMANDS_MAX:]

    def _apply_run(self, record: Record, event: Event) -> None:
        match event:
            case Created():
                self.created = event
            case Claimed():
                self._apply_claimed(event)
            case Checkpoint():
                self._apply_checkpoint(record.seq, event)
            case Parked():
                self.status, self.reason, self.parked = Status.PARKED, event.name, event
            case Signalled():
                self.signals[record.seq] = event
                if self.parked is not None and self.parked.name == event.name:
                    self._set_ready_if(Status.PARKED)
            case Commanded():
                if event.what == "retry" and not event.refused:
                    self.crashes = 0
                    self._set_ready_if(Status.HELD)
            case Released():
                self.status, self.reason = Status.READY, event.error or event.reason
                self.crashes, self.not_before_ms = event.crashes, event.not_before_ms
            case Held():
                self.status, self.reason = Status.HELD, event.reason
            case Finished():
                self.status, self.reason, self.result = Status.FINISHED, "", event.result
            case Failed():
                self.status = Status.CANCELLED if event.is_cancelled else Status.FAILED
                self.reason = event.error
            case Intent() | Dispatched() | CallOutcome() | Resolved():
                raise AssertionError("taken by _apply_call")
            case _:
                assert_never(event)

    def _set_ready_if(self, status: Status) -> None:
        if self.status is status:
            self.status, self.reason, self.not_before_ms = Status.READY, "", 0

    def _apply_claimed(self, event: Claimed) -> None:
        self.claimed, self.status, self.reason = event, Status.OWNED, ""
        self.crashes, self.not_before_ms = event.crashes, 0
        for number, call in self.calls.items():
            if call.state is CallState.DISPATCHED and number not in event.running:
                self._set(with_doubt(call, reason=f"the agent's {event.cause or 'owner'} changed"))

    def _apply_checkpoint(self, seq: int, event: Checkpoint) -> None:
        self.checkpoint, self.checkpoint_seq, self.crashes = event, seq, 0
        for number in event.consumed:
            self.signals.pop(number, None)
            self.records.pop(number, None)
        self.parked = None
        over = [
            call
            for call in self.calls.values()
            if call.step <= event.step and not call.is_open and not call.is_unsettled
        ]
        for call in over:
            self._retire(call)
        gone = {call.number for call in over}
        for number in [n for n, r in self.records.items() if _is_superseded(r, gone, seq)]:
            del self.records[number]

    def _retire(self, call: Call) -> None:
        del self.calls[call.number]
        if not call.is_named:
            del self.by_key[call.key]
            return
        stone = Tombstone(call.key, call.number, call.tool, call.fingerprint, call.state.value)
        self.tombstones.append(stone)
        self.by_key[call.key] = _tombstone_call(stone)

    def _apply_call(self, record: Record, event: CallEvent) -> None:
        call = self.calls.get(event.call)
        match event:
            case Intent():
                call = with_intent(event)
            case Dispatched():
                call = with_dispatched(call, event, epoch=record.epoch)
            case CallOutcome():
                call = with_outcome(call, event)
                if event.what == "done":
                    self.crashes = 0
            case Resolved():
                if call is None:
                    return
                call = with_resolved(call, event)
            case _:
                assert_never(event)
        self._set(call)

    def _set(self, call: Call) -> None:
        self.calls[call.number] = call
        self.by_key[call.key] = call

    @property
    def in_doubt(self) -> list[Call]:
        """Calls for an operator to decide, oldest first."""
        return [call for call in self.calls.values() if call.is_unsettled]


def _is_superseded(record: Record, gone: AbstractSet[int], seq: int) -> bool:
    event = record.event
    if isinstance(event, CallEvent):
        return event.call in gone
    return isinstance(event, Commanded) and record.seq < seq


def _tombstone_call(stone: Tombstone) -> Call:
    return Call(
        number=stone.number,
        key=stone.key,
        step=0,
        tool=stone.tool,
        call_class=CallClass.ONCE,
        fingerprint=stone.fingerprint,
        state=CallState.TOMBSTONE,
        is_named=True,
        reason=stone.what,
    )


def fold(
    run: str, records: Sequence[Record], tombstones: Iterable[Tombstone] = ()
) -> RunState:
    """The state of records in order of their sequence numbers."""
    state = RunState(run)
    state.bury(tombstones)
    for record in records:
        state.apply(record)
    return state
