import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck_sidecar.core.delta import BadDelta
from coatcheck_sidecar.core.head import Head, decode_head, decode_sealed, encode_head
from coatcheck_sidecar.core.layout import object_name
from coatcheck_sidecar.core.model import NO_BODY, Body, CallState, Status
from coatcheck_sidecar.core.objects import Kind
from coatcheck_sidecar.core.patch_delta import NewState
from coatcheck_sidecar.core.record import (
    Checkpoint,
    Claimed,
    Created,
    Held,
    Signalled,
    decode_record,
    encode_record,
)
from coatcheck_sidecar.core.runlog import RunLog, Verdict, judge
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.core.snapshot import seal_state
from tests.core.histories import CHOICES, observed
from tests.core.shipping import (
    STATE_BYTES_MAX,
    Shipping,
    assert_restores,
    call,
    checkpoint,
    owned,
    small_limits,
)

# A restored log is the log that was shipped


@given(CHOICES, st.integers(1, 12))
def test_a_log_comes_back_as_it_was_shipped(numbers: list[int], each: int) -> None:
    with small_limits():
        run = Shipping()
        for at, number in enumerate(numbers):
            run.step(number)
            if at % each == 0:
                run.ship()
                assert_restores(run)


MOVES = st.lists(
    st.tuples(
        st.sampled_from(("step", "step", "step", "begin", "land", "lose", "settle", "restart")),
        st.integers(0, 9_999),
    ),
    max_size=80,
)


@given(MOVES)
@settings(max_examples=200)
def test_swaps_that_land_late_or_never_lose_nothing_and_ship_nothing_early(
    moves: list[tuple[str, int]],
) -> None:
    with small_limits():
        run = Shipping()
        for move, number in moves:
            if move == "step":
                run.step(number)
            elif move == "begin":
                run.begin()
            elif move == "land" and run.in_flight:
                run.land(number % len(run.in_flight))
            elif move == "lose" and run.in_flight:
                del run.in_flight[number % len(run.in_flight)]
            elif move == "settle":
                assert run.settle() is not Verdict.FENCED
            elif move == "restart" and run.head() is not None:
                run.restart()
            head = run.head()
            if head is not None:
                assert run.log.shipped_seq <= head.seq <= run.seq
                assert_restores(run)


@given(CHOICES)
def test_a_journal_is_replayed_onto_what_was_shipped(numbers: list[int]) -> None:
    with small_limits():
        run = Shipping()
        for number in numbers[::2]:
            run.step(number)
        shipped = run.ship().seq
        for number in numbers[1::2]:
            run.step(number)
        log = run.restored()
        for record in run.records[shipped:]:
            row = decode_record(encode_record(record))
            log.replay(row, bytes_max=STATE_BYTES_MAX)
        has_bodies = not run.is_rewound
        found, kept = (observed(s, has_bodies=has_bodies) for s in (log.state, run.state))
        assert found == kept
        assert log.checkpoint_bytes == run.log.checkpoint_bytes
        assert log.chain == run.log.chain


def test_a_journal_row_without_its_delta_is_damage() -> None:
    log = RunLog(RunState("run"))
    bare = decode_record(
        encode_record(RunLog(RunState("run")).append(Checkpoint(step=1, step_high=1), at_ms=0))
    )
    with pytest.raises(BadDelta):
        log.replay(bare, bytes_max=10)
    assert log.state.seq == 0


# Group commit


def test_what_comes_while_a_swap_is_in_flight_goes_with_the_next() -> None:
    run = owned()
    first = run.begin()
    run.append(Signalled(name="late"))
    checkpoint(run)
    assert run.land()
    assert run.settle() is Verdict.COMMITTED
    assert run.log.shipped_seq == first.head.seq == 2
    assert run.log.unshipped == 2
    assert run.ship().seq == 4
    assert run.log.unshipped == 0
    assert_restores(run)


def test_an_older_attempt_that_stands_ships_what_it_held() -> None:
    run = owned()
    run.ship()
    checkpoint(run)
    older = run.begin()
    checkpoint(run)
    run.begin()
    assert run.land(0)
    assert not run.land(0)
    assert run.settle() is Verdict.COMMITTED
    assert run.log.shipped_seq == older.head.seq
    assert [d.seq for d in run.log.chain.deltas] == [3, 4]
    run.ship()
    assert_restores(run)


def test_a_claim_beside_a_swap_in_flight_still_knows_its_answer() -> None:
    run = owned()
    snapshot = run.begin()
    run.append(Claimed(owner="pod.a"))
    assert run.land()
    run.log.shipped(snapshot.head.nonce, tag="t")
    assert (run.log.tag, run.log.nonce) == ("t", snapshot.head.nonce)
    assert run.ship().epoch == 2


def test_the_first_head_of_a_claim_has_the_next_epoch() -> None:
    run = Shipping()
    assert run.ship().epoch == 0
    run.append(Claimed(owner="pod.a"))
    head = run.ship()
    assert (head.epoch, head.owner, head.status) == (1, "pod.a", Status.OWNED)


# Seals


def state_of(seed: int, size: int) -> bytes:
    blocks = (hashlib.sha256(f"{seed}/{n}".encode()).digest() for n in range(size // 32 + 1))
    return b"".join(blocks)[:size]


def commit(run: Shipping, state: bytes) -> None:
    step, draft = run.state.step + 1, run.log.draft(NewState(state))
    event = Checkpoint(step=step, step_high=step, length=len(state), delta=Body(draft.delta))
    record = run.log.commit(event, draft.state, at_ms=0)
    run.records.append(record)
    run.states[record.seq] = state


def test_a_draft_looks_at_what_is_new_and_what_was_there() -> None:
    run = owned()
    commit(run, state_of(1, 100_000))
    assert run.log.draft_bytes(NewState(state_of(2, 50_000))) == 150_000


def test_deltas_past_their_limit_become_a_base_then_mids_then_a_new_base() -> None:
    run = owned()
    state = state_of(0, 100_000)
    kinds = []
    for seed in range(1, 14):
        commit(run, state)
        run.ship()
        assert_restores(run)
        chain = run.log.chain
        kinds.append((chain.base is not None, chain.mid is not None, len(chain.deltas)))
        state = state_of(seed, 10_000) + state[: -10_000 + seed]
    assert kinds[:4] == [(True, False, 0), (True, False, 1), (True, True, 0), (True, True, 1)]
    bases = {name for name, data in run.store.items() if data[4:5] == Kind.BASE.value}
    assert len(bases) == 3  # after each fifth step: a mid of 50 kB is half of its base


def test_a_base_that_cannot_be_read_gives_way_to_a_new_one() -> None:
    run = owned()
    commit(run, state_of(1, 100_000))
    old = run.ship().chain.base
    commit(run, state_of(1, 100_000) + state_of(2, 40_000))
    snapshot = run.log.snapshot(nonce=bytes(16), random=run.chance())
    sealed = seal_state(snapshot, base_state=None, random=run.chance())
    assert sealed.head.chain.base != old
    assert sealed.head.chain.mid is None


def test_a_sealed_object_holds_a_copy_of_its_head_without_itself() -> None:
    run = owned()
    commit(run, state_of(1, 100_000))
    head = run.ship()
    base = head.chain.base
    assert base is not None
    copy, _ = decode_sealed(base.name, run.store[base.name], kind=Kind.BASE)
    bare = decode_head("copy", copy)
    assert bare == replace(head, chain=bare.chain, kept=())
    assert bare.chain.base is None


def test_what_comes_after_a_seal_was_begun_stays_in_the_head() -> None:
    run = owned()
    commit(run, state_of(1, 100_000))
    run.begin()
    commit(run, state_of(1, 100_000) + b"more")
    assert run.land()
    assert run.settle() is Verdict.COMMITTED
    assert [d.seq for d in run.log.chain.deltas] == [4]
    run.ship()
    assert_restores(run)


# What a head that was read means

OURS, OLDER, EXPECTED, OTHER = b"1" * 16, b"2" * 16, b"3" * 16, b"4" * 16


def head_with(nonce: bytes) -> Head:
    return Head(run="run", epoch=1, owner="pod.a", nonce=nonce, seq=1, status=Status.OWNED)


JUDGED: list[tuple[bytes | None, bytes | None, Verdict]] = [
    # seen, expected
    (None, None, Verdict.UNCHANGED),
    (None, EXPECTED, Verdict.FENCED),
    (OURS, None, Verdict.COMMITTED),
    (OLDER, None, Verdict.COMMITTED),
    (OTHER, None, Verdict.FENCED),
    (EXPECTED, EXPECTED, Verdict.UNCHANGED),
    (OURS, EXPECTED, Verdict.COMMITTED),
    (OLDER, EXPECTED, Verdict.COMMITTED),
    (OTHER, EXPECTED, Verdict.FENCED),
]


@pytest.mark.parametrize(("seen", "expected", "verdict"), JUDGED)
def test_what_a_head_means(seen: bytes | None, expected: bytes | None, verdict: Verdict) -> None:
    head = None if seen is None else head_with(seen)
    assert judge(head, expected=expected, written={OURS, OLDER}) is verdict


def test_names() -> None:
    name = object_name("run", epoch=3, seq=14, random=bytes(range(16)))
    assert name == "runs/run/o/3-14-0001020304050607"


def test_a_damaged_run_that_was_held_by_hand_restores_as_held() -> None:
    run = owned()
    number = call(run, key="k")
    head = run.ship()
    held = replace(run.records[-1], seq=head.seq + 1, epoch=2, event=Held(reason="damaged: x"))
    head = replace(head, seq=held.seq, epoch=2, status=Status.HELD, records=(*head.records, held))
    run.store["runs/run/head"] = encode_head(head)
    state = run.restored().state
    assert (state.status, state.reason, state.epoch) == (Status.HELD, "damaged: x", 2)
    assert state.calls[number].state is CallState.IN_DOUBT


def test_a_new_run_carries_its_input_and_schema() -> None:
    log = RunLog(RunState("run"))
    log.append(Created(queue="q", input=NO_BODY, schema=7, code_version="v", pinned=True), at_ms=5)
    head = log.snapshot(nonce=bytes(16), random=bytes(8)).head
    assert (head.queue, head.state_schema, head.code_version, head.pinned) == ("q", 7, "v", True)
    assert head.status is Status.READY
