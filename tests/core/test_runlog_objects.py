from coatcheck_sidecar.core.head import encode_head
from coatcheck_sidecar.core.model import Body
from coatcheck_sidecar.core.objects import reference
from coatcheck_sidecar.core.packs import PACKS_MAX, TAIL_BYTES_MAX, is_packable
from coatcheck_sidecar.core.record import (
    CallOutcome,
    Checkpoint,
    Claimed,
    Finished,
    Intent,
    Parked,
    Signalled,
    encode_record,
)
from coatcheck_sidecar.core.runlog import BODY_BYTES_MAX, Verdict, restore
from tests.core.shipping import Shipping, assert_restores, call, checkpoint, done, owned

# Packs


def test_a_tail_past_its_limit_goes_to_a_pack_and_the_head_stays_small() -> None:
    run = owned()
    while not run.ship().packs:
        call(run, key=f"k{run.seq}")
    head = run.ship()
    assert TAIL_BYTES_MAX < head.packs[0].ref.length < TAIL_BYTES_MAX + 2_000
    assert len(encode_head(head)) < 2_000
    assert set(head.calls) == set(run.state.calls)
    assert not any(isinstance(record.event, Intent) for record in head.records)
    assert_restores(run)


def test_a_pack_goes_when_nothing_in_it_counts_any_more() -> None:
    run = owned()
    numbers = [call(run, key=f"k{n}", named=False) for n in range(40)]
    assert len(run.ship().packs) == 1
    for number in numbers:
        done(run, number)
    checkpoint(run)
    head = run.ship()
    assert (head.packs, head.calls, head.tombstones) == ((), (), ())


def test_packs_are_merged_by_tiers_and_keep_their_tombstones() -> None:
    run = owned()
    most, packed = 0, set()
    for step in range(24):
        numbers = [call(run, key=f"k{step}-{n}", size=900) for n in range(20)]
        for number in numbers[1:]:
            done(run, number)
        run.ship()
        run.append(CallOutcome(call=numbers[0], attempt=1, what="in_doubt"))
        checkpoint(run)
        head = run.ship()
        most = max(most, len(head.packs))
        packed |= {pack.ref for pack in head.packs}
        assert_restores(run)
    assert 1 < most <= PACKS_MAX
    assert len({stone.key for stone in run.tombstones()}) == 24 * 19
    calls = [encode_record(r, inline=False) for r in run.records if is_packable(r)]
    assert sum(ref.length for ref in packed) < 3 * sum(map(len, calls))


def test_a_tombstone_alone_keeps_its_pack() -> None:
    run = owned()
    for n in range(300):
        done(run, call(run, key=f"{'k' * 40}{n}", size=0))
    checkpoint(run)
    head = run.ship()
    assert head.packs[0].tombstones == 300
    assert not head.tombstones
    assert not run.state.tombstones
    assert run.ship().packs == head.packs


def test_a_pack_whose_swap_never_landed_keeps_no_tombstone_from_the_next_head() -> None:
    run = owned()
    for n in range(300):
        done(run, call(run, key=f"{'k' * 40}{n}", size=0))
    checkpoint(run)
    run.begin()
    run.in_flight.clear()
    assert run.settle() is Verdict.UNCHANGED
    run.ship()
    assert_restores(run)
    assert len(run.tombstones()) == 300


# Bodies


def test_a_body_in_an_object_is_named_by_the_head_in_tail_and_pack() -> None:
    run = owned()
    number = call(run, key="k")
    run.append(CallOutcome(call=number, attempt=1, what="done", body=Body(b"b" * 5_000)))
    head = run.ship()
    assert b"bbbb" not in run.store["runs/run/head"]
    (ref,) = (ref for ref in head.named_objects())
    assert ref.length > BODY_BYTES_MAX
    for n in range(40):
        call(run, key=f"k{n}")
    head = run.ship()
    assert head.bodies == (ref,)
    assert_restores(run)
    outcome = run.restored().state.calls[number].outcome
    assert outcome is not None
    assert outcome.body == Body(b"b" * 5_000, ref)


def test_every_kind_of_record_with_a_body_may_have_it_in_an_object() -> None:
    big = Body(b"b" * 5_000)
    run = Shipping()
    run.append(Claimed(owner="pod.a"))
    run.append(Signalled(name="a", value=big))
    run.append(Parked(name="b", payload=big))
    assert len(run.ship().named_objects()) == 2
    assert_restores(run)
    run.append(Claimed(owner="pod.a"))
    run.append(Finished(result=big))
    run.ship()
    assert_restores(run)
    assert run.restored().state.result == Body(big.data, run.ship().named_objects()[-1])


def test_a_body_whose_record_is_gone_is_attached_to_nothing() -> None:
    run = owned()
    run.log.attach(77, reference("o", b""))
    assert 77 not in run.state.records


def test_a_body_that_was_not_read_stays_a_name() -> None:
    run = owned()
    run.append(Signalled(name="a", value=Body(b"b" * 5_000)))
    head = run.ship()
    log = restore(head, tag="t", packs=[], bodies={})
    (signal,) = log.state.signals.values()
    assert signal.value.data is None
    assert signal.value.ref == head.named_objects()[0]


def test_a_head_of_format_1_names_only_its_newest_checkpoint() -> None:
    run = owned()
    run.log.format = 1
    for _ in range(3):
        number = call(run, key=f"k{run.seq}")
        done(run, number)
        checkpoint(run)
    head = run.ship()
    assert (head.format, head.over, head.horizon, head.floor) == (1, (), head.seq, head.seq + 1)
    assert [kept.seq for kept in head.kept] == [run.state.checkpoint_seq]
    assert run.log.state.past.records == {}
    run.log.format = 2
    checkpoint(run)
    head = run.ship()
    assert (head.format, [kept.step for kept in head.kept]) == (2, [3, 4])


def test_what_format_1_can_not_say_is_written_in_the_newest() -> None:
    run = owned()
    run.log.format = 1
    checkpoint(run)
    run.append(Checkpoint(step=1, step_high=1, rewinds=1, blind=1))
    assert run.ship().format == 2
