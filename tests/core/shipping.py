"""A run's log beside a store that is a dict: swaps that land late, twice asked for, or never."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from coatcheck_sidecar.core import delta, packs, patch_delta
from coatcheck_sidecar.core.delta import decode_delta
from coatcheck_sidecar.core.head import (
    Head,
    Tombstone,
    decode_head,
    decode_pack,
    decode_sealed,
    encode_head,
)
from coatcheck_sidecar.core.layout import head_name, object_name
from coatcheck_sidecar.core.model import Body, CallClass, CallState, Status
from coatcheck_sidecar.core.objects import Kind, check, reference, seal, unseal
from coatcheck_sidecar.core.pages import Paged
from coatcheck_sidecar.core.patch_delta import NewState, next_state
from coatcheck_sidecar.core.record import (
    Birth,
    CallOutcome,
    Checkpoint,
    Claimed,
    Dispatched,
    Event,
    Intent,
    Record,
    bodies_of,
)
from coatcheck_sidecar.core.retention import chain_of
from coatcheck_sidecar.core.runlog import RunLog, Verdict, judge, restore
from coatcheck_sidecar.core.runstate import RunState, fold
from coatcheck_sidecar.core.snapshot import Snapshot, seal_state
from tests.core.histories import History, observed

HEAD = head_name("run")
STATE_BYTES_MAX = 1 << 20
BODY_BYTES_MAX = 20
"""In these tests: bigger bodies go to objects."""


@contextmanager
def small_limits() -> Iterator[None]:
    """Packs, merges and seals after a few records; patches of small states."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packs, "TAIL_BYTES_MAX", 250)
        patch.setattr(packs, "PACKS_MAX", 2)
        patch.setattr(delta, "HEAD_DELTAS_BYTES_MAX", 200)
        patch.setattr(patch_delta, "STATE_BYTES_MIN", 0)
        patch.setattr(patch_delta, "TOUCHED_SHARE_MAX", 100)
        yield


class Shipping(History):
    """A history that goes through a `RunLog`."""

    def __init__(self) -> None:
        self.store: dict[str, bytes] = {}
        self.states = {0: b""}
        self.log = RunLog(RunState("run"))
        self.in_flight: list[tuple[Snapshot, bytes | None]] = []
        self.count = 0
        self.is_rewound = False
        """Bodies of what came back are in the store alone, until the next restore."""
        super().__init__()
        self.state = self.log.state

    def append(self, event: Event, *, epoch: int | None = None) -> Record:
        self.state = self.log.state
        at_ms = (self.seq + 1) * 1000
        if isinstance(event, Claimed):
            record = self.log.claim(event, at_ms=at_ms)
        elif isinstance(event, Checkpoint):
            before = self.log.checkpoint_bytes
            state = before[-300:] + self.chance() * 3
            old = before if self.count % 2 else None
            draft = self.log.draft(NewState(state, old, [(0, len(state))]))
            event = replace(event, length=len(state), delta=Body(draft.delta))
            record = self.log.commit(event, draft.state, at_ms=at_ms)
            self.states[record.seq] = state
        else:
            record = self.log.append(event, at_ms=at_ms)
        self.records.append(record)
        for body in bodies_of(record):
            if body.data is not None and len(body.data) > BODY_BYTES_MAX:
                name = object_name("run", epoch=record.epoch, seq=record.seq, random=self.chance())
                self.store[name] = seal(Kind.BODY, body.data)
                self.log.attach(record.seq, reference(name, self.store[name]))
        return record

    def chance(self) -> bytes:
        self.count += 1
        return hashlib.sha256(str(self.count).encode()).digest()[:16]

    # One swap, in parts

    def begin(self) -> Snapshot:
        snapshot = self.log.snapshot(nonce=self.chance(), random=self.chance())
        if snapshot.head.chain.must_seal:
            base = snapshot.head.chain.base
            whole = None if base is None else self.sealed(base.name, Kind.BASE, b"")
            snapshot = seal_state(snapshot, base_state=whole, random=self.chance())
        self.store.update(snapshot.puts)
        self.log.remember(snapshot)
        self.in_flight.append((snapshot, self.log.nonce))
        return snapshot

    def land(self, at: int = 0) -> bool:
        """The swap reaches the store, however late; its answer is not heard."""
        snapshot, expected = self.in_flight.pop(at)
        stands = self.head()
        if (None if stands is None else stands.nonce) != expected:
            return False
        self.store[HEAD] = encode_head(snapshot.head)
        return True

    def settle(self) -> Verdict:
        """No clear answer came: look at the head."""
        seen = self.head()
        verdict = judge(seen, expected=self.log.nonce, written=self.log.written.keys())
        if verdict is Verdict.COMMITTED and seen is not None:
            self.log.shipped(seen.nonce, tag="tag")
        return verdict

    def ship(self) -> Head:
        self.begin()
        assert self.land(-1)
        assert self.settle() is Verdict.COMMITTED
        head = self.head()
        assert head is not None
        return head

    # Reading back

    def head(self) -> Head | None:
        return decode_head(HEAD, self.store[HEAD]) if HEAD in self.store else None

    def sealed(self, name: str, kind: Kind, before: bytes) -> bytes:
        _, data = decode_sealed(name, self.store[name], kind=kind)
        return decode_delta(before, data, bytes_max=STATE_BYTES_MAX)

    def restored(self) -> RunLog:
        head = self.head()
        assert head is not None
        objects = {ref.name: check(ref, self.store[ref.name]) for ref in head.named_objects()}
        packs = [decode_pack(pack.ref.name, objects[pack.ref.name]) for pack in head.packs]
        bodies = {
            name: unseal(name, data, kind=Kind.BODY)[0]
            for name, data in objects.items()
            if data[4:5] == Kind.BODY.value
        }
        log = restore(head, tag="tag", packs=packs, bodies=bodies)
        log.checkpoint = Paged(self.built(head.chain))
        return log

    def built(self, chain: delta.Chain) -> bytes:
        state = Paged(b"")
        for ref, kind in ((chain.base, Kind.BASE), (chain.mid, Kind.MID)):
            if ref is not None:
                state = Paged(self.sealed(ref.name, kind, state.data))
        for change in chain.deltas:
            state = next_state(state, change.data, bytes_max=STATE_BYTES_MAX)
        return state.data

    def step(self, number: int) -> Record | None:
        """One in eleven times the run is set back, or forth again, to a checkpoint that is kept."""
        there = [kept for kept in self.log.kept if kept.seq >= self.log.horizon]
        if number % 11 or self.state.status is not Status.OWNED or not there:
            return super().step(number)
        kept = there[number % len(there)]
        state, high = self.states[kept.seq], self.state.checkpoint.step_high
        event = Checkpoint(step=kept.step, step_high=high, rewinds=kept.seq)
        draft = self.log.draft(NewState(state))
        record = self.log.commit(
            replace(event, length=len(state), delta=Body(draft.delta)),
            draft.state,
            at_ms=(self.seq + 1) * 1000,
        )
        self.states[record.seq] = state
        self.records.append(record)
        self.is_rewound = True
        return record

    def tombstones(self) -> list[Tombstone]:
        """All that a restore reads, from packs and head."""
        head = self.head()
        assert head is not None
        packs = [decode_pack(p.ref.name, self.store[p.ref.name])[1] for p in head.packs]
        return [*(stone for pack in packs for stone in pack), *head.tombstones]

    def restart(self) -> None:
        """The process died with what was not shipped."""
        self.log = self.restored()
        self.state = self.log.state
        self.in_flight = []
        self.records = [r for r in self.records if r.seq <= self.seq]

    def up_to(self, seq: int) -> Iterable[Record]:
        """All records, as they were appended."""
        return [record for record in self.records if record.seq <= seq]


def assert_restores(run: Shipping) -> None:
    """What the head describes is the fold of all records up to it, and its state."""
    head, log = run.head(), run.restored()
    assert head is not None
    whole = fold("run", run.up_to(head.seq))
    assert observed(log.state) == observed(whole)
    assert log.state.commands == whole.commands
    assert (head.status, head.reason, head.step) == (whole.status, whole.reason, whole.step)
    assert log.checkpoint_bytes == run.states[whole.checkpoint_seq]
    stones = run.tombstones()
    dead = {key for key, call in whole.by_key.items() if call.state is CallState.TOMBSTONE}
    if whole.status.is_final:
        assert stones == []
    else:
        assert {stone.key for stone in stones} >= dead
        assert run.log.horizon >= head.horizon
        ends = {at: end for at, end in whole.past.ends.items() if end > head.horizon}
        assert log.state.past.ends == ends
        assert_goes_back(run, head)


def assert_goes_back(run: Shipping, head: Head) -> None:
    """The state of each checkpoint that the head names as kept is built of what it names."""
    assert not head.step or head.kept[-1].seq == run.restored().state.checkpoint_seq
    for kept in head.kept:
        assert run.built(chain_of(kept, head.chain)) == run.states[kept.seq]


def call(run: Shipping, *, key: str, size: int = 500, named: bool = True) -> int:
    at = run.seq + 1
    birth = Birth(
        key=key,
        step=run.state.step + 1,
        tool="charge",
        call_class=CallClass.ONCE,
        fingerprint=bytes(32),
        is_named=named,
        summary="x" * size,
    )
    run.append(Intent(call=at, birth=birth))
    run.append(Dispatched(call=at, attempt=1))
    return at


def done(run: Shipping, number: int) -> None:
    run.append(CallOutcome(call=number, attempt=1, what="done", body=Body(b"ok")))


def checkpoint(run: Shipping) -> None:
    step = run.state.step + 1
    run.append(Checkpoint(step=step, step_high=step))


def owned() -> Shipping:
    run = Shipping()
    run.append(Claimed(owner="pod.a"))
    return run
