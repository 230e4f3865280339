"""What must hold, whatever happens: watched at each swap of a head, each send, each answer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol
from unittest.mock import patch

from coatcheck.errors import Conflict, Damaged, ProtocolError, ReplayDivergence
from coatcheck_sidecar.core.collection import named
from coatcheck_sidecar.core.head import Head, decode_head, decode_pack
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.ownership import pod_of
from coatcheck_sidecar.core.record import (
    CallOutcome,
    Checkpoint,
    Dispatched,
    Record,
    Resolved,
    Signalled,
)
from coatcheck_sidecar.core.runlog import RunLog
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.core.snapshot import Snapshot
from coatcheck_sidecar.engine.shipper import MARKED, marker_name
from tests.sim.compare import differences, restored_checkpoint, restored_state
from tests.sim.loop import PROCESS
from tests.sim.store import SharedStore
from tests.sim.upstream import KEYED, ONCE, UNDO, Charge

if TYPE_CHECKING:
    from tests.sim.agent_plan import Act
    from tests.sim.saga_judge import SagaJudge
    from tests.sim.world import Pod

NEVER: Final = (ReplayDivergence, Conflict, Damaged, ProtocolError)
"""What an agent whose script is deterministic must never be told in a run."""


class Owned(Protocol):
    """A run in one of its epochs, as an agent or its sidecar knows it."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def epoch(self) -> int:
        """The ownership's number."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Something that was acknowledged, and how far that reached."""

    level: str
    epoch: int
    pod: "Pod"
    losses: int
    """Of the pod's disk at this level, when it was acknowledged."""


@dataclass(slots=True)
class RunWatch:
    """One run, as the judge saw it."""

    head: Head | None = None
    landed_s: dict[int, float] = field(default_factory=dict)
    """By epoch: when its last head came to stand."""
    shadow: RunState | None = None
    """The fold of every record that its owners appended and shipped."""
    writers: dict[int, str] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)
    attempts: dict[str, set[int]] = field(default_factory=dict)
    """By upstream key: attempts whose `dispatched` a head held."""
    starts: dict[str, int] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    """Upstream keys whose final outcome a head held."""
    signals: set[tuple[str, str]] = field(default_factory=set)
    steps: dict[int, list[tuple[int, Kept]]] = field(default_factory=dict)
    rewinds: list[tuple[int, int]] = field(default_factory=list)
    """Epoch and step of each time that it was set back."""
    answers: dict[str, Kept] = field(default_factory=dict)


class Judge:
    """Collects what went wrong; the first fault ends the simulation."""

    def __init__(self, store: SharedStore, *, on_fault: Callable[[str], None]) -> None:
        self.runs: dict[str, RunWatch] = {}
        self.charges: dict[str, str] = {}
        """Upstream key -> logical charge."""
        self.acts: dict[str, list[str]] = {}
        """Run -> all that it must have done when it is finished."""
        self.sent: dict[tuple[str, str], int] = {}
        """By run and name, each signal's value."""
        self.effects: Callable[[str], int] = lambda name: 0
        self.now_s: Callable[[], float] = lambda: 0.0
        self.lease_s = 0.0
        self.on_told: Callable[[Pod], None] = lambda pod: None
        """An agent of the pod learned that something of its own is kept."""
        self.on_dispatched: Callable[[int], None] = lambda attempt: None
        """A sidecar decided to send a call, and begins to write that down."""
        self.on_new: Callable[[str], None] = lambda run: None
        """A run has its first head."""
        self.saga: SagaJudge
        self._store = store
        self._fault = on_fault
        self._lines: dict[bytes, tuple[dict[int, Record], bytes]] = {}
        store.on_swap, store.on_delete = self.swapped, self.deleted

    def watch(self, run: str) -> RunWatch:
        return self.runs.setdefault(run, RunWatch())

    def is_final(self, run: str) -> bool:
        head = self.watch(run).head
        return head is not None and head.status.is_final

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear of each record that any process appends, and of each head it tries to write."""
        take, remember = RunLog.take, RunLog.remember

        def heard(log: RunLog, record: Record) -> None:
            vars(log).setdefault("line", {})[record.seq] = record
            take(log, record)
            if isinstance(record.event, Dispatched) and PROCESS.get() is not None:
                self.on_dispatched(record.event.attempt)

        def noted(log: RunLog, snapshot: Snapshot) -> None:
            self._lines[snapshot.head.nonce] = (vars(log).get("line", {}), snapshot.state)
            remember(log, snapshot)

        with patch.object(RunLog, "take", heard), patch.object(RunLog, "remember", noted):
            yield

    # The store

    def swapped(self, name: str, data: bytes, writer: str) -> None:
        """A head was replaced: it must go on from the one before."""
        head = decode_head(name, data)
        watch = self.watch(head.run)
        before, watch.head = watch.head, head
        if before is None:
            self.on_new(head.run)
        what = f"head of {head.run}, epoch {head.epoch}, seq {head.seq}, by {writer}"
        if before is not None and _is_takeover(before, head):
            silent_s = self.now_s() - watch.landed_s[before.epoch]
            if silent_s < self.lease_s:
                self._fault(f"{what}: taken over {silent_s:.3f} s after its owner's last swap")
        watch.landed_s[head.epoch] = self.now_s()
        self._check_order(watch, head, before=before, writer=writer, what=what)
        line, state = self._lines.pop(head.nonce, (None, b""))
        if line is None:
            self._fault(f"{what}: written by nobody who keeps its log")
            return
        self._check_fold(watch, head, line=line, what=what)
        if restored_checkpoint(head, self._store.peek) != state:
            self._fault(f"{what}: its checkpoint is not the one that was committed")
        if head.status in MARKED and self._store.peek(marker_name(head)) is None:
            self._fault(f"{what}: {head.status.value}, and there is no marker")
        if head.status is Status.FINISHED:
            missing = [act for act in self.acts.get(head.run, ()) if not self.effects(act)]
            if missing:
                self._fault(f"{what}: finished, and {missing} never happened")

    def _check_order(
        self, watch: RunWatch, head: Head, *, before: Head | None, writer: str, what: str
    ) -> None:
        last = (0, 0) if before is None else (before.epoch, before.seq)
        if head.epoch < last[0] or head.seq < last[1]:
            self._fault(f"{what}: after epoch {last[0]}, seq {last[1]}")
        if before is not None and before.status.is_final:
            new = [record for record in head.records if record.seq > before.seq]
            if head.status is not before.status or not _are_decisions(new):
                self._fault(f"{what}: the run was {before.status.value} already")
        if watch.writers.setdefault(head.epoch, writer) != writer:
            self._fault(f"{what}: the epoch's writer was {watch.writers[head.epoch]}")
        watch.owners[head.epoch] = head.owner

    def _check_fold(
        self, watch: RunWatch, head: Head, *, line: dict[int, Record], what: str
    ) -> None:
        shadow = watch.shadow = watch.shadow or RunState(head.run)
        for seq in range(shadow.seq + 1, head.seq + 1):
            record = line.get(seq)
            if record is None:
                self._fault(f"{what}: record {seq} is not of its writer's log")
                return
            self.saga.before(shadow, record)
            shadow.apply(record)
            self.saga.after(shadow, record)
            self._note_record(watch, shadow, record)
        restored = restored_state(head, self._store.peek)
        if isinstance(restored, str):
            self._fault(f"{what}: {restored}")
            return
        for difference in differences(restored, shadow):
            self._fault(f"{what}: {difference}")
        shadow.past.forget(head.horizon)

    def _note_record(self, watch: RunWatch, shadow: RunState, record: Record) -> None:
        event = record.event
        if isinstance(event, Checkpoint) and event.rewinds:
            watch.rewinds.append((record.epoch, event.step))
        if isinstance(event, Signalled):
            if (event.name, event.by) in watch.signals:
                self._fault(f"{shadow.run} was signalled {event.name} twice")
            watch.signals.add((event.name, event.by))
        if not isinstance(event, Dispatched | CallOutcome | Resolved) or (
            event.call not in shadow.calls
        ):
            return
        key = shadow.calls[event.call].upstream_key
        if isinstance(event, Resolved):
            if event.verdict in ("not_applied", "retry"):  # of an answer that told nothing
                watch.done.discard(key)
                watch.answers.pop(key, None)
            else:
                watch.done.add(key)
        elif isinstance(event, Dispatched):
            watch.attempts.setdefault(key, set()).add(event.attempt)
        elif event.what == "done":
            watch.done.add(key)

    def deleted(self, name: str, by: str) -> None:
        """An object is gone: the head that stands must not lead to it."""
        if "/o/" not in name:
            return
        head = self.watch(name.split("/")[1]).head
        if head is None:
            self._fault(f"{by} deletes {name} of a run without a head")
            return
        packed = [
            record
            for pack in head.packs
            for record in decode_pack(pack.ref.name, self._store.peek(pack.ref.name) or b"")[0]
        ]
        if name in named(head, packed):
            self._fault(f"{by} deletes {name}, which the head of {head.run} leads to")

    # Agents

    def excuse(self, run: str, act: str) -> None:
        """The world said no, for good, or did not say: it need not have happened."""
        if act in self.acts[run]:
            self.acts[run].remove(act)

    def opened(self, run: str, epoch: int, *, pod: "Pod", state: Any) -> None:
        """An agent was given a run: everything acknowledged must be in it."""
        log = state["log"]
        for step, acks in self.watch(run).steps.items():
            for token, kept in acks:
                is_past = any(e > kept.epoch and step > at for e, at in self.watch(run).rewinds)
                if (
                    not is_past
                    and self._survives(run, kept, epoch=epoch)
                    and (len(log) < step or log[step - 1][0] != token)
                ):
                    self._fault(
                        f"{run} opened in epoch {epoch} by {pod.uid} without step {step}, which "
                        f"was acknowledged at level {kept.level} in epoch {kept.epoch}"
                    )

    def committed(
        self, run: str, epoch: int, *, pod: "Pod", step: int, token: int, level: str
    ) -> None:
        """A checkpoint was acknowledged."""
        watch = self.watch(run)
        kept = Kept(level, epoch, pod, pod.losses(level))
        watch.steps.setdefault(step, []).append((token, kept))
        self.on_told(pod)
        is_past = any(at_epoch > epoch and step > at for at_epoch, at in watch.rewinds)
        is_there = watch.head is not None and watch.head.step >= step
        if level == "remote" and not (is_past or is_there):
            self._fault(f"step {step} of {run} was acknowledged as remote, and no head has it")

    def finished(self, run: str, epoch: int) -> None:
        """A result was acknowledged."""
        head = self.watch(run).head
        if head is None or head.status is not Status.FINISHED:
            self._fault(f"the finish of {run} in epoch {epoch} was acknowledged: no head has it")

    def acknowledged(self, run: Owned, key: str, *, pod: "Pod", level: str = "node") -> None:
        """The answer of a call was recorded, and given to the agent."""
        self.watch(run.id).answers[key] = Kept(level, run.epoch, pod, pod.losses(level))
        self.on_told(pod)

    def asked(self, run: Owned, key: str, *, pod: "Pod") -> None:
        """A call is about to be made: its answer must not be known already."""
        watch = self.watch(run.id)
        head = watch.head
        if key in watch.done and head is not None and head.epoch == run.epoch:
            self._fault(f"{run.id} makes call {key} again: its outcome is in the head")
        if self.is_kept(run, key):
            self._fault(
                f"{run.id} makes call {key} again in epoch {run.epoch} on {pod.uid}: its answer "
                f"was acknowledged there in epoch {watch.answers[key].epoch}"
            )

    def is_kept(self, run: Owned, key: str) -> bool:
        """Its answer was acknowledged, and nothing happened that may take it away."""
        kept = self.watch(run.id).answers.get(key)
        return kept is not None and self._survives(run.id, kept, epoch=run.epoch)

    def charging(self, run: Owned, key: str, *, act: "Act", pod: "Pod", attempt: int = 0) -> None:
        """The same, for a call with an effect; a guarded one must be in the head.

        So must the `attempt` of one that takes another back, if it is told.
        """
        self.charges[key] = act.name
        self.asked(run, key, pod=pod)
        if act.name.startswith(UNDO):
            self.saga.leaving(run, key, act.name, attempt=attempt)
        if act.kind in ONCE:
            watch = self.watch(run.id)
            silent_s = self.now_s() - watch.landed_s.get(run.epoch, 0.0)
            if silent_s > self.lease_s:
                self._fault(f"{run.id} sends {act.name} {silent_s:.3f} s after its last swap")
            watch.starts[key] = watch.starts.get(key, 0) + 1
            if watch.starts[key] > len(watch.attempts.get(key, ())):
                self._fault(
                    f"{run.id} sends {act.name} ({act.kind}) for the {watch.starts[key]}. time, "
                    f"and heads hold {len(watch.attempts.get(key, ()))} attempts"
                )

    def left(self, run: str, error: BaseException) -> None:
        """An agent gave a run up."""
        if isinstance(error, NEVER):
            self._fault(f"the agent of {run} was told {type(error).__name__}: {error}")

    def signalled(self, run: str, name: str, value: Any) -> None:
        """An agent received a signal: the one that was sent to it."""
        if value != self.sent.get((run, name)):
            self._fault(f"{run} received {value} for the signal {name}")

    def drained(self, pod: "Pod") -> None:
        """A pod says that it shipped everything: all that it still owned is remote."""
        for run, watch in self.runs.items():
            for acks in watch.steps.values():
                acks[:] = [(token, self._shipped(run, kept, pod=pod)) for token, kept in acks]
            for key, kept in watch.answers.items():
                watch.answers[key] = self._shipped(run, kept, pod=pod)

    def _shipped(self, run: str, kept: Kept, *, pod: "Pod") -> Kept:
        head = self.watch(run).head
        if kept.pod is not pod or head is None:
            return kept
        is_there = self._survives(run, kept, epoch=head.epoch)
        return replace(kept, level="remote") if is_there else kept

    def _survives(self, run: str, kept: Kept, *, epoch: int) -> bool:
        """What was acknowledged must still be there in this epoch."""
        if kept.level == "remote":
            return epoch >= kept.epoch
        if kept.losses != kept.pod.losses(kept.level):
            return False
        owners = self.watch(run).owners
        since = [owners.get(number, "") for number in range(kept.epoch, epoch + 1)]
        return bool(since) and all(pod_of(owner) == kept.pod.uid for owner in since)

    # Upstream

    def effect(self, name: str, charge: Charge) -> None:
        """Something happened in the world."""
        self.saga.took_place(name, charge)
        if charge.effects > 1 and charge.tool in ONCE | KEYED:
            self._fault(f"{name} ({charge.tool}) happened {charge.effects} times")


def _are_decisions(records: Sequence[Record]) -> bool:
    """About doubts: they can be settled when the run is over, too."""
    return bool(records) and all(isinstance(record.event, Resolved) for record in records)


def _is_takeover(before: Head, head: Head) -> bool:
    is_other = pod_of(before.owner) != pod_of(head.owner)
    return is_other and before.status is Status.OWNED and head.epoch > before.epoch
