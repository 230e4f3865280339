"""What the records of a run add up to.

The fold law, on which every head's size rests: a record that a newer one supersedes can be left
out. So `fold(kept) == fold(all)`, for every set of records between those kept and all of them.
Records of calls may lie in packs, where superseded ones stay until their pack goes; all others
stand in the head, and leave it the moment they are superseded.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, assert_never

from coatcheck_sidecar.core.call_events import Resolution
from coatcheck_sidecar.core.call_state import (
    with_dispatched,
    with_doubt,
    with_not_applied,
    with_outcome,
    with_resolved,
    with_restart,
    with_tombstone,
)
from coatcheck_sidecar.core.head import Tombstone
from coatcheck_sidecar.core.model import (
    Body,
    Call,
    CallClass,
    CallState,
    Outcome,
    OutcomeKind,
    Status,
)
from coatcheck_sidecar.core.record import (
    Birth,
    CallOutcome,
    Checkpoint,
    Claimed,
    Commanded,
    Created,
    Dispatched,
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
BIRTH: Final = tuple(Birth.__slots__)
IN_DOUBT: Final = "in_doubt"
"""How the reason of a run begins that is held until its calls in doubt are decided."""
StatusEvent = Claimed | Parked | Released | Held | Finished | Failed
RunEvent = Created | Checkpoint | Signalled | Commanded | StatusEvent
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

    def _apply_run(self, record: Record, event: RunEvent) -> None:
        match event:
            case Created():
                self.created = event
            case Checkpoint():
                self._apply_checkpoint(record.seq, event)
            case Signalled():
                self.signals[record.seq] = event
                if self.parked is not None and self.parked.name == event.name:
                    self._set_ready_if(Status.PARKED)
            case Commanded():
                if event.what == "retry" and not event.refused:
                    self.crashes = 0
                    self._set_ready_if(Status.HELD)
            case _:
                self._apply_status(record, event)

    def _apply_status(self, record: Record, event: StatusEvent) -> None:
        match event:
            case Claimed():
                self._interrupt(record)
                self.claimed, self.status, self.reason = event, Status.OWNED, ""
                self.crashes, self.not_before_ms = event.crashes, 0
            case Parked():
                self.status, self.reason, self.parked = Status.PARKED, event.name, event
            case Released():
                self._interrupt(record)
                self.status, self.reason = Status.READY, event.error or event.reason
                self.crashes, self.not_before_ms = event.crashes, event.not_before_ms
            case Held():
                self._interrupt(record)
                self.status, self.reason = Status.HELD, event.reason
            case Finished():
                self.status, self.reason, self.result = Status.FINISHED, "", event.result
            case Failed():
                self.status = Status.CANCELLED if event.is_cancelled else Status.FAILED
                self.reason = event.error
            case _:
                assert_never(event)

    def _set_ready_if(self, status: Status) -> None:
        if self.status is status:
            self.status, self.reason, self.not_before_ms = Status.READY, "", 0

    def _interrupt(self, record: Record) -> None:
        """An ownership ends: calls in flight are in doubt, until somebody adopts them."""
        for call in list(self.calls.values()):
            self._set(with_restart(call, at_ms=record.at_ms))

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
        for number in [n for n, r in self.records.items() if _is_superseded(r, gone=gone, seq=seq)]:
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
                call = _born(event)
            case _ if call is None:
                return
            case Dispatched():
                call = with_dispatched(
                    call, attempt=event.attempt, epoch=record.epoch, at_ms=record.at_ms
                )
            case CallOutcome():
                call = _with_outcome(call, event, at_ms=record.at_ms)
                self.crashes = 0 if event.what == "done" else self.crashes
            case Resolved():
                call = with_resolved(
                    call,
                    Resolution(event.verdict),
                    outcome=Outcome(OutcomeKind.RESULT, event.body),
                    by=event.by,
                    why=event.why,
                )
            case _:
                assert_never(event)
        self._set(call)
        if self.status is Status.HELD and self.reason.startswith(IN_DOUBT) and not self.in_doubt:
            self._set_ready_if(Status.HELD)

    def _set(self, call: Call) -> None:
        self.calls[call.number] = call
        self.by_key[call.key] = call

    @property
    def in_doubt(self) -> list[Call]:
        """Calls for an operator to decide, oldest first."""
        return [call for call in self.calls.values() if call.is_unsettled]


def _is_superseded(record: Record, *, gone: AbstractSet[int], seq: int) -> bool:
    event = record.event
    if isinstance(event, CallEvent):
        return event.call in gone
    return isinstance(event, Commanded) and record.seq < seq


def _born(event: Intent) -> Call:
    birth = {name: getattr(event.birth, name) for name in BIRTH}
    return Call(number=event.call, state=CallState.INTENT, **birth)


def _with_outcome(call: Call, event: CallOutcome, *, at_ms: int) -> Call:
    if event.what == "not_applied":
        return with_not_applied(call, event.reason)
    if event.what == "in_doubt":
        return with_doubt(call, event.reason, at_ms=at_ms)
    kind = event.outcome or OutcomeKind.RESULT
    return with_outcome(call, Outcome(kind, event.body, event.head), at_ms=at_ms)


def _tombstone_call(stone: Tombstone) -> Call:
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


def fold(run: str, records: Sequence[Record], tombstones: Iterable[Tombstone] = ()) -> RunState:
    """The state of records in order of their sequence numbers."""
    state = RunState(run)
    state.bury(tombstones)
    for record in records:
        state.apply(record)
    return state
