"""Append, fence, replay: what a run's next head is, and what a swap's answer means.

One owner's view of one run's log. Everything here is decided without waiting: `append` gives
records their place, `snapshot` freezes what the next head is to hold, and the engine puts the
objects that it names, swaps the head, and says how that went.

    append -> journal
           -> snapshot -> put objects -> swap -> tag                          -> `shipped`
                                           |-> refused, or no clear answer -> read -> `judge`
"""

from collections import deque
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from coatcheck_sidecar.core.delta import (
    Chain,
    Delta,
    encode_delta,
    needs_new_base,
)
from coatcheck_sidecar.core.head import (
    Head,
    Kind,
    PackRef,
    Tombstone,
    encode_head,
    encode_pack,
    encode_sealed,
    reference,
)
from coatcheck_sidecar.core.model import CallState, ObjectRef
from coatcheck_sidecar.core.pages import Paged
from coatcheck_sidecar.core.patch_delta import Draft, NewState, draft, draft_bytes, next_state
from coatcheck_sidecar.core.record import (
    Checkpoint,
    Claimed,
    Event,
    Record,
    bodies_of,
    encode_record,
    with_body,
)
from coatcheck_sidecar.core.runstate import CallEvent, RunState, fold
from coatcheck_sidecar.core.undo import next_by
from coatcheck_sidecar.core.undo_records import Undo

TAIL_BYTES_MAX: Final = 16_384
"""Call records and tombstones that a head carries before they are set aside in a pack."""
PACKS_MAX: Final = 8
"""A restore reads each, so they stay few: past this all become one."""
BODY_BYTES_MAX: Final = 4_096
"""A body above this goes to an object of its own as soon as it comes."""
RECORD_BYTES: Final = 100
"""What a record weighs in a head beside its body: an intent has about as many."""
NAME_RANDOM_BYTES: Final = 8
"""Makes a name that is never used twice, even by two owners who count alike."""


class Verdict(Enum):
    """What the head in the store means to one who tried to swap it."""

    COMMITTED = auto()
    """It is one that we wrote in this epoch: all up to its `seq` is shipped."""
    UNCHANGED = auto()
    """It is still the one that we wanted to replace: try again."""
    FENCED = auto()
    """Somebody else wrote it: this ownership is over."""


def judge(seen: Head | None, *, expected: bytes | None, written: AbstractSet[bytes]) -> Verdict:
    """Judge a head read after a swap was refused or got no clear answer.

    `expected` is the nonce of the head that the swap was to replace (`None`: no head), `written`
    are the nonces of every head that we tried to write since. An older one of ours can be the one
    that stands: its answer was lost, and it landed before the newer one.
    """
    if seen is None:
        return Verdict.UNCHANGED if expected is None else Verdict.FENCED
    if seen.nonce == expected:
        return Verdict.UNCHANGED
    return Verdict.COMMITTED if seen.nonce in written else Verdict.FENCED


def head_name(run: str) -> str:
    """Name of a run's head."""
    return f"runs/{run}/head"


def object_name(run: str, *, epoch: int, seq: int, random: bytes) -> str:
    """A name for an immutable object of a run; `random` makes it one that was never used."""
    return f"runs/{run}/o/{epoch}-{seq}-{random[:NAME_RANDOM_BYTES].hex()}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the next head is to hold, frozen at one sequence number, and what must be put first."""

    head: Head
    state: bytes
    """The state of the last checkpoint, for sealing."""
    puts: tuple[tuple[str, bytes], ...] = ()
    buried: int = 0
    """How many tombstones a new pack among `puts` takes over from the log."""


@dataclass(frozen=True, slots=True)
class Written:
    """What must be known of a head that we tried to write, should it turn out to stand."""

    seq: int
    base: ObjectRef | None
    mid: ObjectRef | None
    packs: tuple[PackRef, ...]
    buried: int


class RunLog:
    """The log of a run as its owner writes it."""

    def __init__(self, state: RunState) -> None:
        """Begin with what was restored, or with nothing."""
        self.state = state
        self._sealed: tuple[ObjectRef | None, ObjectRef | None] = (None, None)
        self._deltas: list[Delta] = []
        self.packs: tuple[PackRef, ...] = ()
        self.checkpoint = Paged(b"")
        self.shipped_seq = 0
        self.unshipped_bytes = 0
        """About what the records weigh that no head holds yet."""
        self.unshipped_deltas_bytes = 0
        """What of that are deltas."""
        self._weights: deque[tuple[int, int, int]] = deque()
        self.deltas_bytes = 0
        """Of all that the next head would carry."""
        self.tag: str | None = None
        self.nonce: bytes | None = None
        """Of the head that stands in the store, as far as we know."""
        self.written: dict[bytes, Written] = {}
        """By nonce: what we tried to write since then."""

    @property
    def checkpoint_bytes(self) -> bytes:
        """The state of the last checkpoint."""
        return self.checkpoint.data

    @property
    def chain(self) -> Chain:
        """How the next head says to build the state."""
        return Chain(*self._sealed, tuple(self._deltas))

    @chain.setter
    def chain(self, chain: Chain) -> None:
        self._sealed, self._deltas = (chain.base, chain.mid), list(chain.deltas)
        self.deltas_bytes = chain.deltas_bytes

    def claim(self, event: Claimed, *, at_ms: int) -> Record:
        """Begin a new epoch: the next head swapped in fences every earlier owner."""
        self.state.epoch += 1
        return self.append(event, at_ms=at_ms)

    def append(self, event: Event, *, at_ms: int) -> Record:
        """Give an event its place in the log."""
        record = Record(self.state.seq + 1, self.state.epoch, at_ms, event)
        self.take(record)
        return record

    def take(self, record: Record) -> None:
        """Take in a record that has its place: ours, or one from the journal of a former life."""
        event, weight, delta_bytes = record.event, RECORD_BYTES, 0
        if isinstance(event, Checkpoint):
            delta = event.delta.data or b""
            self._deltas.append(Delta(record.seq, delta))
            delta_bytes = len(delta)
        weight += delta_bytes + sum(len(body.data or b"") for body in bodies_of(record))
        self._weights.append((record.seq, weight, delta_bytes))
        self.unshipped_bytes += weight
        self.unshipped_deltas_bytes += delta_bytes
        self.deltas_bytes += delta_bytes
        self.state.apply(record)

    def replay(self, record: Record, *, bytes_max: int) -> None:
        """Take in a record from the journal of a former life, with the state it makes."""
        if isinstance(record.event, Checkpoint):
            delta = record.event.delta.data or b""
            self.checkpoint = next_state(self.checkpoint, delta, bytes_max=bytes_max)
        self.take(record)

    def attach(self, seq: int, ref: ObjectRef) -> None:
        """Say where the body of record `seq` lies in the store, before the next snapshot."""
        kept = self.state.records.get(seq)
        if kept is not None:
            (body,) = bodies_of(kept)
            self.state.records[seq] = with_body(kept, replace(body, ref=ref))

    def draft(self, state: NewState) -> Draft:
        """What `commit` of this state will add; may run in a thread, between two commits."""
        return draft(self.checkpoint, state)

    def draft_bytes(self, state: NewState) -> int:
        """How much `draft` has to look at."""
        return draft_bytes(self.checkpoint, state)

    def commit(self, event: Checkpoint, state: Paged, *, at_ms: int) -> Record:
        """Append a checkpoint that makes `state`, as drafted, of the one before."""
        record = self.append(event, at_ms=at_ms)
        self.checkpoint = state
        return record

    @property
    def base_bytes(self) -> int:
        """Of the base that the state is built on; 0 if there is none."""
        return self._sealed[0].length if self._sealed[0] is not None else 0

    @property
    def unshipped(self) -> int:
        """Records that no head holds yet."""
        return self.state.seq - self.shipped_seq

    def snapshot(self, *, nonce: bytes, random: bytes) -> Snapshot:
        """The next head: everything up to now. Objects in `puts` go before it."""
        state, packs = self.state, self._live_packs()
        puts: tuple[tuple[str, bytes], ...] = ()
        tombstones, buried = tuple(state.tombstones), 0
        if _tail_bytes(_tail(state, packs), tombstones) > TAIL_BYTES_MAX:
            name = object_name(state.run, epoch=state.epoch, seq=state.seq, random=random)
            packs, data = self._pack(packs, name=name)
            puts, tombstones, buried = ((name, data),), (), len(tombstones)
        covered = _covered(packs)
        packed = [r for r in state.records.values() if _is_packed(r, covered)]
        head = Head(
            run=state.run,
            epoch=state.epoch,
            owner=state.claimed.owner,
            nonce=nonce,
            seq=state.seq,
            status=state.status,
            reason=state.reason,
            queue=state.created.queue,
            undo=next_by(state),
            step=state.checkpoint.step,
            step_high=state.checkpoint.step_high,
            code_version=state.checkpoint.code_version or state.created.code_version,
            state_schema=state.checkpoint.schema if state.step else state.created.schema,
            pinned=state.created.pinned,
            not_before_ms=state.not_before_ms,
            chain=self.chain,
            records=tuple(_tail(state, packs)),
            tombstones=tombstones,
            packs=packs,
            calls=tuple(dict.fromkeys(call_of(record) for record in packed)),
            bodies=tuple(b.ref for r in packed for b in bodies_of(r) if b.ref is not None),
            commands=state.commands,
        )
        return Snapshot(head, self.checkpoint_bytes, puts, buried)

    def remember(self, snapshot: Snapshot) -> None:
        """The swap of this head is about to be sent."""
        head, chain = snapshot.head, snapshot.head.chain
        self.written[head.nonce] = Written(
            head.seq, chain.base, chain.mid, head.packs, snapshot.buried
        )

    def shipped(self, nonce: bytes, *, tag: str) -> None:
        """One of the heads that we wrote stands in the store; what it sealed leaves the next."""
        done = self.written[nonce]
        self.written = {}
        self.tag, self.nonce, self.shipped_seq = tag, nonce, done.seq
        while self._weights and self._weights[0][0] <= done.seq:
            _, weight, delta_bytes = self._weights.popleft()
            self.unshipped_bytes -= weight
            self.unshipped_deltas_bytes -= delta_bytes
        if (done.base, done.mid) != self._sealed:
            self._sealed = (done.base, done.mid)
            self._deltas = [delta for delta in self._deltas if delta.seq > done.seq]
            self.deltas_bytes = self.unshipped_deltas_bytes
        self.packs = done.packs
        del self.state.tombstones[: done.buried]

    def _pack(self, packs: tuple[PackRef, ...], *, name: str) -> tuple[tuple[PackRef, ...], bytes]:
        """One more pack, with the tail's calls; past `PACKS_MAX` one in place of all."""
        tombstones: Sequence[Tombstone] = self.state.tombstones
        if len(packs) >= PACKS_MAX:
            packs, tombstones = (), self._all_tombstones()
        data = encode_pack([r for r in _tail(self.state, packs) if _is_call(r)], tombstones)
        return (*packs, PackRef(self.state.seq, reference(name, data), len(tombstones))), data

    def _live_packs(self) -> tuple[PackRef, ...]:
        """Packs that still hold a tombstone or a record that counts."""
        live, low = [], 0
        numbers = [r.seq for r in self.state.records.values() if _is_call(r)]
        for pack in self.packs:
            if pack.tombstones or any(low < number <= pack.last for number in numbers):
                live.append(pack)
            low = pack.last
        return tuple(live)

    def _all_tombstones(self) -> list[Tombstone]:
        return [
            Tombstone(call.key, call.number, call.tool, call.fingerprint, call.reason)
            for call in self.state.by_key.values()
            if call.state is CallState.TOMBSTONE
        ]


def seal_state(snapshot: Snapshot, *, base_state: bytes | None, random: bytes) -> Snapshot:
    """The same head with its deltas folded into a mid, or a new base, put before it.

    `base_state` is the state that the base holds, read back; `None` asks for a new base.
    """
    head, state = snapshot.head, snapshot.state
    name = object_name(head.run, epoch=head.epoch, seq=head.seq, random=random)
    base = head.chain.base
    if base is not None and base_state is not None:
        delta = encode_delta(base_state, state)
        if not needs_new_base(base.length, len(delta)):
            bare = replace(head, chain=Chain(base))
            data = encode_sealed(Kind.MID, delta, head_copy=encode_head(bare))
            return _sealed(snapshot, name=name, data=data, base=base)
    bare = replace(head, chain=Chain())
    whole = encode_delta(b"", state)
    data = encode_sealed(Kind.BASE, whole, head_copy=encode_head(bare))
    return _sealed(snapshot, name=name, data=data, base=None)


def _sealed(snapshot: Snapshot, *, name: str, data: bytes, base: ObjectRef | None) -> Snapshot:
    ref = reference(name, data)
    chain = Chain(ref) if base is None else Chain(base, ref)
    head = replace(snapshot.head, chain=chain)
    return replace(snapshot, head=head, puts=(*snapshot.puts, (name, data)))


def call_of(record: Record) -> int:
    """By what a head says that a record in a pack still counts; 0: it is never in one.

    The number of its call; of an undo its own place in the log, since it outlives its call.
    """
    if isinstance(record.event, Undo):
        return record.seq
    return record.event.call if isinstance(record.event, CallEvent) else 0


def _is_call(record: Record) -> bool:
    return isinstance(record.event, CallEvent | Undo)


def _is_packed(record: Record, covered: int) -> bool:
    return record.seq <= covered and _is_call(record)


def _covered(packs: Sequence[PackRef]) -> int:
    """Call records up to this sequence number are in packs."""
    return packs[-1].last if packs else 0


def _tail(state: RunState, packs: Sequence[PackRef]) -> list[Record]:
    covered = _covered(packs)
    return [record for record in state.records.values() if not _is_packed(record, covered)]


def _tail_bytes(tail: Sequence[Record], tombstones: Sequence[Tombstone]) -> int:
    size = sum(len(stone.key) + len(stone.tool) + 48 for stone in tombstones)
    return size + sum(len(encode_record(r, inline=False)) for r in tail if _is_call(r))


def restore(
    head: Head,
    *,
    tag: str,
    packs: Sequence[tuple[Sequence[Record], Sequence[Tombstone]]],
    bodies: Mapping[str, bytes],
) -> RunLog:
    """The log that a head and the packs and bodies it names describe; its state is not built."""
    calls = set(head.calls)
    packed = [record for pack, _ in packs for record in pack if call_of(record) in calls]
    records = sorted((*head.records, *packed), key=lambda record: record.seq)
    buried = [tombstone for _, pack_tombstones in packs for tombstone in pack_tombstones]
    state = fold(
        head.run, [_filled(r, bodies) for r in records], tombstones=[*buried, *head.tombstones]
    )
    state.tombstones = list(head.tombstones)
    state.seq, state.epoch, state.commands = head.seq, head.epoch, head.commands
    log = RunLog(state)
    log.chain, log.packs = head.chain, head.packs
    log.shipped_seq, log.tag, log.nonce = head.seq, tag, head.nonce
    return log


def _filled(record: Record, bodies: Mapping[str, bytes]) -> Record:
    for body in bodies_of(record):
        if body.ref is not None and body.ref.name in bodies:
            return with_body(record, replace(body, data=bodies[body.ref.name]))
    return record
