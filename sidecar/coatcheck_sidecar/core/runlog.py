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

from coatcheck_sidecar.core import packs as packing
from coatcheck_sidecar.core.delta import Chain, Delta
from coatcheck_sidecar.core.head import Head, Kept, PackRef, Tombstone, encode_pack
from coatcheck_sidecar.core.layout import object_name
from coatcheck_sidecar.core.model import CallState, ObjectRef
from coatcheck_sidecar.core.objects import FORMAT, reference
from coatcheck_sidecar.core.pages import Paged
from coatcheck_sidecar.core.past import Past, tombstone_of
from coatcheck_sidecar.core.patch_delta import Draft, NewState, draft, draft_bytes, next_state
from coatcheck_sidecar.core.record import (
    Checkpoint,
    Claimed,
    Event,
    Record,
    bodies_of,
    number_of,
    with_body,
)
from coatcheck_sidecar.core.retention import KEEP, retained
from coatcheck_sidecar.core.runstate import RunState, fold
from coatcheck_sidecar.core.snapshot import Snapshot
from coatcheck_sidecar.core.undo import next_by

BODY_BYTES_MAX: Final = 4_096
"""A body above this goes to an object of its own as soon as it comes."""
RECORD_BYTES: Final = 100
"""What a record weighs in a head beside its body: an intent has about as many."""


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


@dataclass(frozen=True, slots=True)
class Written:
    """What must be known of a head that we tried to write, should it turn out to stand."""

    seq: int
    base: ObjectRef | None
    mid: ObjectRef | None
    packs: tuple[PackRef, ...]
    kept: tuple[Kept, ...]
    buried: int
    stones: tuple[str, ...]


class RunLog:
    """The log of a run as its owner writes it."""

    def __init__(self, state: RunState) -> None:
        """Begin with what was restored, or with nothing."""
        self.state = state
        self._sealed: tuple[ObjectRef | None, ObjectRef | None] = (None, None)
        self._deltas: list[Delta] = []
        self.packs: tuple[PackRef, ...] = ()
        self.stones: tuple[str, ...] = ()
        """Keys of the tombstones in them, in their order."""
        self.format = FORMAT
        """Of the heads to write; what it can't say is written in the newest all the same."""
        self.keep = KEEP
        """How many checkpoints of either kind the run can be set back to."""
        self.kept: tuple[Kept, ...] = ()
        self.horizon = 0
        self.uploading: dict[str, int] = {}
        """What is on its way to objects that no record names yet: the seq in their names."""
        self.must_seal = False
        """Other code goes on from here: what it began with is kept."""
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
        is_other = event.code_version != self.state.checkpoint.code_version
        self.must_seal |= is_other and bool(self._deltas)
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
            kept = Kept(record.seq, event.step, event.schema, event.code_version)
            self.kept = (*self.kept, kept)
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
        else:
            self.state.past.attach(seq, ref)

    def unpack(self) -> None:
        """Name no pack any more: what they held, as it stands now, goes into a new one."""
        self.state.tombstones[:0] = [self._stone(key) for key in dict.fromkeys(self.stones)]
        self.packs, self.stones = (), ()
        self.state.past.unpacked()

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
        state, past = self.state, self.state.past
        self._retain()
        places = [r.seq for r in state.records.values() if packing.is_packable(r)]
        packs = packing.live(self.packs, places, since=past.oldest)
        puts: tuple[tuple[str, bytes], ...] = ()
        tombstones, buried, stones = tuple(state.tombstones), 0, self.stones
        tail = self._tail(packs)
        weight = packing.tail_bytes(tail, tombstones, encoded=past.encoded)
        if weight > packing.TAIL_BYTES_MAX:
            name = object_name(state.run, epoch=state.epoch, seq=state.seq, random=random)
            packs, data, stones = self._pack(packs, name=name)
            puts, tombstones, buried = ((name, data),), (), len(tombstones)
            tail = self._tail(packs)
        up_to = packing.covered(packs)
        packed = [r for r in state.records.values() if packing.is_packed(r, up_to)]
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
            records=tuple(tail),
            tombstones=tombstones,
            packs=packs,
            calls=tuple(dict.fromkeys(number_of(record) for record in packed)),
            bodies=tuple(b.ref for r in packed for b in bodies_of(r) if b.ref is not None),
            commands=state.commands,
            kept=self.kept,
            over=state.past.over(),
            horizon=self.horizon,
            floor=min(self.uploading.values(), default=state.seq + 1),
            format=FORMAT if state.checkpoint.blind or state.blobs else self.format,
        )
        return Snapshot(
            head, self.checkpoint_bytes, puts, buried=buried, stones=stones, encoded=past.encoded
        )

    def _tail(self, packs: Sequence[PackRef]) -> list[Record]:
        """What the head carries itself: records that count, or may again, and are in no pack."""
        up_to, past = packing.covered(packs), self.state.past
        over = (past.records[at] for at in past.encoded)
        records = (*over, *self.state.records.values())
        return [record for record in records if not packing.is_packed(record, up_to)]

    def _retain(self) -> None:
        """Forget checkpoints that are too many, and what only they needed; all, once it is over."""
        past = self.state.past
        if self.state.status.is_final:
            self.kept, self.horizon = self.kept[-1:], self.state.seq
        elif self.format < FORMAT:
            self.kept, self.horizon = self.kept[-1:], self.state.checkpoint_seq
        else:
            self.kept, horizon = retained(self.kept, most=self.keep)
            self.horizon = max(self.horizon, horizon, past.horizon())
        past.forget(self.horizon)

    def remember(self, snapshot: Snapshot) -> None:
        """The swap of this head is about to be sent."""
        head, chain = snapshot.head, snapshot.head.chain
        self.written[head.nonce] = Written(
            head.seq, chain.base, chain.mid, head.packs, head.kept, snapshot.buried, snapshot.stones
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
            newer = (kept for kept in self.kept if kept.seq > done.kept[-1].seq)
            self.kept, self.must_seal = (*done.kept, *newer), False
        self.packs, self.stones = done.packs, done.stones
        self.state.past.packed(packing.covered(self.packs))
        del self.state.tombstones[: done.buried]

    def _pack(
        self, packs: tuple[PackRef, ...], *, name: str
    ) -> tuple[tuple[PackRef, ...], bytes, tuple[str, ...]]:
        """One more pack, with the tail's calls and what was in the packs that it takes over."""
        state = self.state
        tombstones, encoded = state.tombstones, state.past.encoded
        added = packing.tail_bytes(self._tail(packs), tombstones, encoded=encoded)
        first = packing.merge_from(packs, added)
        stones, left = self.stones, sum(pack.tombstones for pack in packs[:first])
        taken = [self._stone(key) for key in dict.fromkeys(stones[left:])]
        packs, tombstones = packs[:first], [*taken, *tombstones]
        up_to = packing.covered(packs)
        counting = (*state.records.values(), *state.past.records.values())
        records = [r for r in counting if r.seq > up_to and packing.is_packable(r)]
        data = encode_pack(sorted(records, key=lambda r: r.seq), tombstones)
        ref = PackRef(state.seq, reference(name, data), len(tombstones))
        return (*packs, ref), data, (*stones[:left], *(stone.key for stone in tombstones))

    def _stone(self, key: str) -> Tombstone:
        call = self.state.by_key[key]
        is_buried = call.state is CallState.TOMBSTONE
        return replace(tombstone_of(call), what=call.reason) if is_buried else tombstone_of(call)


def restore(
    head: Head,
    *,
    tag: str,
    packs: Sequence[tuple[Sequence[Record], Sequence[Tombstone]]],
    bodies: Mapping[str, bytes],
) -> RunLog:
    """The log that a head and the packs and bodies it names describe; its state is not built."""
    wanted = {*head.calls, *head.over_numbers}
    packed = [record for pack, _ in packs for record in pack if number_of(record) in wanted]
    records = sorted((*head.records, *packed), key=lambda record: record.seq)
    past = Past()
    live = [_filled(record, bodies) for record in past.restore(head.over, records)]
    buried = [tombstone for _, pack_tombstones in packs for tombstone in pack_tombstones]
    state = fold(head.run, live, tombstones=[*buried, *head.tombstones])
    state.past = past
    past.packed(packing.covered(head.packs))
    state.tombstones = list(head.tombstones)
    state.seq, state.epoch, state.commands = head.seq, head.epoch, head.commands
    log = RunLog(state)
    log.chain, log.packs, log.stones = head.chain, head.packs, tuple(s.key for s in buried)
    log.kept, log.horizon = head.kept, head.horizon
    log.shipped_seq, log.tag, log.nonce = head.seq, tag, head.nonce
    return log


def _filled(record: Record, bodies: Mapping[str, bytes]) -> Record:
    for body in bodies_of(record):
        if body.ref is not None and body.ref.name in bodies:
            return with_body(record, replace(body, data=bodies[body.ref.name]))
    return record
