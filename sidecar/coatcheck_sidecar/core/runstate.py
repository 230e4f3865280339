"""What the records of a run add up to.

The fold law, on which every head's size rests: a record that no longer matters is left out, and
nothing changes. So `fold(records kept, tombstones) == fold(all records)`.

- Of the kinds that share a place only the newest record is kept, and each older one that put a
  call in doubt, as long as that call is kept.
- The records of a call go all at once, with the checkpoint after which it is over, and a signal
  with the one that consumes it: into the past (`core/past.py`), out of which a checkpoint that
  makes an older one current takes them again.
- What takes a call back, and a blob that is not dropped, go when the run ends.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final, assert_never

from coatcheck_sidecar.core.blob_records import Blob, Dropped
from coatcheck_sidecar.core.call_events import Resolution
from coatcheck_sidecar.core.call_state import (
    with_dispatched,
    with_recorded,
    with_resolved,
    with_restart,
)
from coatcheck_sidecar.core.head import Tombstone
from coatcheck_sidecar.core.model import Body, Call, CallState, Outcome, OutcomeKind, Status
from coatcheck_sidecar.core.past import Past, buried, tombstone_of
from coatcheck_sidecar.core.record import (
    BadRecord,
    Birth,
    CallEvent,
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
    number_of,
)
from coatcheck_sidecar.core.undo_records import FORWARD, Compensated, Compensating, Undo, said_of

COMMANDS_MAX: Final = 64
"""Ids remembered so that a command is carried out once, long after its caller stopped waiting."""

UndoEvent = Undo | Compensating
BIRTH: Final = tuple(Birth.__slots__)
IN_DOUBT: Final = "in_doubt"
"""How the reason of a run begins that is held until its calls in doubt are decided."""
TOOK_PLACE: Final = frozenset({CallState.DONE, CallState.COMPENSATED})
"""Calls that must never be made again under their key."""
LETS_GO_ON: Final = {"retry": (Status.HELD,), "rewind": (Status.HELD, Status.PARKED)}
"""Commands that forget a run's crashes, and the statuses that they end."""
StatusEvent = Claimed | Parked | Released | Held | Finished | Failed | Compensated
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
    Compensating: "compensating",
    Compensated: "status",
}
"""Of the kinds that share a place the newest record says it all."""


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
        self.unsettled: dict[int, Call] = {}
        """Of `calls` those that `is_unsettled`, looked for at every new call."""
        self.records: dict[int, Record] = {}
        self.blobs: dict[bytes, int] = {}
        """By digest: the record that says where it lies."""
        self.undos: dict[int, Undo] = {}
        """By call, in the order in which the calls were done: what takes them back."""
        self.compensating: Compensating | None = None
        """The run is to be taken back, or was."""
        self.tombstones: list[Tombstone] = []
        """Those not in a pack."""
        self.past = Past()
        self._places: dict[str, int] = {}
        self._undo_at: dict[int, int] = {}
        """By call: the record that says how to take it back."""
        self._doubts: dict[int, set[int]] = {}
        """By record: the calls that it put in doubt."""

    @property
    def step(self) -> int:
        """The last step with a checkpoint; 0 before the first."""
        return self.checkpoint.step

    @property
    def gap_ms(self) -> int:
        """Since when records of the step under way may be lost (store time); 0: none is.

        They are of a pod that was taken over, and what its journal had was not shipped.
        """
        return self.claimed.gap_ms if self._places.get("claimed", 0) > self.checkpoint_seq else 0

    def bury(self, tombstones: Iterable[Tombstone]) -> None:
        """Take in tombstones read from a head or a pack."""
        for stone in tombstones:
            self.by_key[stone.key] = buried(stone)

    def apply(self, record: Record) -> None:
        """Take in the next record; `seq` may jump over records that were left out.

        Raises `BadRecord` for one that can't come here.
        """
        if record.seq <= self.seq or record.epoch < self.epoch:
            raise BadRecord(
                f"record {record.seq} of epoch {record.epoch} after "
                f"record {self.seq} of epoch {self.epoch}"
            )
        self.seq = record.seq
        self.epoch = record.epoch
        event = record.event
        if isinstance(event, CallEvent):
            self._apply_call(record, event)
        elif isinstance(event, UndoEvent):
            self._apply_undo(record, event)
        elif isinstance(event, Blob | Dropped):
            self.records.pop(self.blobs.pop(event.digest, 0), None)
            if isinstance(event, Dropped):
                return
            self.blobs[event.digest] = record.seq
        else:
            self._apply_run(record, event)
        self.records[record.seq] = record
        place = PLACE.get(type(event))
        if place is not None:
            former = self._places.get(place, 0)
            self._places[place] = record.seq
            self._drop_if_superseded(former)
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
                    self._set_status(Status.READY)
            case Commanded():
                if event.what in LETS_GO_ON and not event.refused:
                    self.crashes = 0
                    if self.status in LETS_GO_ON[event.what]:
                        self._set_status(Status.READY)
            case _:
                self._apply_status(record, event)

    def _apply_undo(self, record: Record, event: UndoEvent) -> None:
        match event:
            case Undo():  # a call whose answer was not kept may be made again, and done again
                self._forget_undo(event.call)
                self.undos[event.call], self._undo_at[event.call] = event, record.seq
            case Compensating():
                is_on = event.then != FORWARD
                self.compensating, self.crashes = event if is_on else None, 0
                self.created = replace(self._made(), deadline_ms=0) if is_on else self._made()
                if self.status is not Status.OWNED:
                    self._set_status(Status.READY)
            case _:
                assert_never(event)

    def _made(self) -> Created:
        """The first record as it was written: a run that is taken back has no deadline."""
        first = self.records.get(self._places.get("created", 0))
        return first.event if first and isinstance(first.event, Created) else self.created

    def _forget_undo(self, call: int) -> None:
        self.undos.pop(call, None)
        self.records.pop(self._undo_at.pop(call, 0), None)

    def _apply_status(self, record: Record, event: StatusEvent) -> None:
        self._interrupt(record)
        match event:
            case Claimed():
                self._set_status(Status.OWNED)
                self.claimed, self.crashes = event, event.crashes
            case Parked():
                self._set_status(Status.PARKED, event.name)
                self.parked = event if self.status is Status.PARKED else None
            case Released():
                self._set_status(Status.READY, event.error or event.reason)
                self.crashes, self.not_before_ms = event.crashes, event.not_before_ms
            case Held():
                self._set_status(Status.HELD, event.reason)
            case Finished():
                self._set_status(Status.FINISHED)
                self.result = event.result
            case Failed():
                status = Status.CANCELLED if event.is_cancelled else Status.FAILED
                self._set_status(status, event.error)
            case Compensated():
                self._set_status(Status.COMPENSATED, said_of(event))
            case _:
                assert_never(event)
        if self.status.is_final:
            self._end()

    def _end(self) -> None:
        for call in list(self.undos):
            self._forget_undo(call)
        for seq in self.blobs.values():
            self.records.pop(seq, None)
        self.blobs = {}

    def _set_status(self, status: Status, reason: str = "") -> None:
        """Whatever only an earlier status had to say is over."""
        if self.compensating is not None and status in (Status.READY, Status.PARKED):
            status = Status.COMPENSATING
        self.status, self.reason, self.not_before_ms, self.parked = status, reason, 0, None

    def _interrupt(self, record: Record, *, among: AbstractSet[int] | None = None) -> None:
        """An ownership begins or ends: calls in flight are in doubt, until somebody adopts them."""
        calls = (c for c in self.calls.values() if among is None or c.number in among)
        in_flight = [c for c in calls if c.state is CallState.DISPATCHED]
        for call in in_flight:
            self._set(with_restart(call, at_ms=record.at_ms))
        if in_flight:
            doubted = self._doubts.setdefault(record.seq, set())
            doubted.update(call.number for call in in_flight)

    def _apply_checkpoint(self, seq: int, event: Checkpoint) -> None:
        self.checkpoint, self.checkpoint_seq, self.crashes = event, seq, 0
        if event.rewinds:
            self._bring_back(event.rewinds)
        over = [
            call
            for call in self.calls.values()
            if call.step <= event.step
            and call.state is not CallState.DISPATCHED
            and not call.is_decidable
        ]
        for call in over:
            self._retire(call)
        gone = {call.number: call.state in TOOK_PLACE for call in over}
        gone |= {at: True for at in event.consumed if self.signals.pop(at, None)}
        ended = [r for r in self.records.values() if number_of(r) in gone]
        self.past.keep({r.seq: r for r in ended if gone[number_of(r)]}, end=seq)
        kept = [r for r in self.records.values() if number_of(r) not in gone]
        self.records = {r.seq: r for r in kept if not self._is_over(r, seq=seq)}
        for number, doubted in list(self._doubts.items()):
            doubted.difference_update(gone)
            self._drop_if_superseded(number)

    def amend(self, record: Record, event: CallEvent) -> None:
        """Say something else of a call whose answer is lost; the record is one that is kept."""
        self.records[record.seq] = replace(record, event=event)
        self._set(self._folded(record, event))

    def _bring_back(self, seq: int) -> None:
        """The run is set back to its checkpoint at `seq`: what was over since then is not."""
        back = self.past.take_back(seq)
        numbers = {number_of(record) for record in back}
        statuses = [r for r in self.records.values() if isinstance(r.event, StatusEvent)]
        for record in sorted((*back, *statuses), key=lambda record: record.seq):
            if isinstance(record.event, CallEvent):
                self._set(self._folded(record, record.event))
            elif isinstance(record.event, StatusEvent):  # as a restore of these records folds them
                self._interrupt(record, among=numbers)
        signals = {r.seq: r.event for r in back if isinstance(r.event, Signalled)}
        self.signals = dict(sorted((self.signals | signals).items()))
        self.records = dict(sorted((self.records | {r.seq: r for r in back}).items()))

    def _is_over(self, record: Record, *, seq: int) -> bool:
        """A checkpoint at `seq` takes commands before it away.

        A refusal stays while its id is remembered: who sent the command may not have read it yet.
        """
        event = record.event
        if not isinstance(event, Commanded) or record.seq >= seq:
            return False
        return not event.refused or event.command not in self.commands

    def _drop_if_superseded(self, seq: int) -> None:
        if not self._doubts.get(seq):
            self._doubts.pop(seq, None)
            if seq not in self._places.values():
                self.records.pop(seq, None)

    def _retire(self, call: Call) -> None:
        """Its step is over: if it took place its key is kept, else it is as if never asked."""
        del self.calls[call.number]
        del self.by_key[call.key]
        if call.is_named and call.state in TOOK_PLACE:
            stone = tombstone_of(call)
            self.tombstones.append(stone)
            self.bury([stone])

    def _apply_call(self, record: Record, event: CallEvent) -> None:
        self._set(self._folded(record, event))
        if self.status is Status.HELD and self.reason.startswith(IN_DOUBT) and not self.in_doubt:
            self._set_status(Status.READY)

    def _folded(self, record: Record, event: CallEvent) -> Call:
        call = self.calls.get(event.call)
        match event:
            case Intent():
                call = self._born(record, event)
            case _ if call is None:
                raise BadRecord(f"record {record.seq}: there is no call {event.call}")
            case Dispatched():
                call = with_dispatched(
                    call, attempt=event.attempt, epoch=record.epoch, at_ms=record.at_ms
                )
            case CallOutcome():
                call = with_recorded(call, event, at_ms=record.at_ms)
                self.crashes = 0 if event.what == "done" else self.crashes
            case Resolved():
                call = with_resolved(
                    call,
                    Resolution(event.verdict),
                    outcome=Outcome(OutcomeKind.RESULT, event.body, event.head),
                    by=event.by,
                    why=event.why,
                )
                if call.state is CallState.COMPENSATED:
                    self._forget_undo(call.number)
            case _:
                assert_never(event)
        return call

    def _born(self, record: Record, event: Intent) -> Call:
        former = self.by_key.get(event.birth.key)
        is_its_own = former is None or former.number == event.call  # its tombstone: it is back
        if event.call != record.seq or not is_its_own:
            raise BadRecord(
                f"record {record.seq}: call {event.call} can't be new under key {event.birth.key!r}"
            )
        birth = {name: getattr(event.birth, name) for name in BIRTH}
        return Call(number=event.call, state=CallState.INTENT, **birth)

    def _set(self, call: Call) -> None:
        self.calls[call.number] = call
        self.by_key[call.key] = call
        if call.is_unsettled:
            self.unsettled[call.number] = call
        else:
            self.unsettled.pop(call.number, None)

    @property
    def in_doubt(self) -> list[Call]:
        """Calls for an operator to decide, oldest first.

        While the run is taken back also those that could be sent again without harm: nobody does.
        """
        found = dict(self.unsettled)
        if self.compensating is not None:
            doubts = (c for c in self.calls.values() if c.state is CallState.IN_DOUBT)
            found |= {call.number: call for call in doubts if call.is_decidable}
        return [found[number] for number in sorted(found)]


def fold(run: str, records: Iterable[Record], *, tombstones: Iterable[Tombstone] = ()) -> RunState:
    """The state of records in order of their sequence numbers."""
    state = RunState(run)
    state.bury(tombstones)
    for record in records:
        state.apply(record)
    return state
