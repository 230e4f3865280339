from coatcheck_sidecar.core.blob_records import Blob, Dropped
from coatcheck_sidecar.core.model import Body, ObjectRef
from coatcheck_sidecar.core.record import Created, Event, Finished, Record, bodies_of
from coatcheck_sidecar.core.runstate import RunState, fold
from tests.core.shipping import assert_restores, checkpoint, owned, small_limits

ONE, TWO = bytes(32), bytes(range(32))


def state_of(*events: Event) -> RunState:
    state = RunState("run")
    for seq, event in enumerate(events, start=1):
        state.apply(Record(seq, 1, seq, event))
    return state


def test_a_blob_is_kept_until_it_is_dropped() -> None:
    one, two = Blob(digest=ONE, length=3), Blob(digest=TWO, length=4)
    state = state_of(Created(), one, two)
    assert state.blobs == {ONE: 2, TWO: 3}
    assert [record.event for record in state.records.values()] == [Created(), one, two]
    dropped = state_of(Created(), one, two, Dropped(digest=ONE), Dropped(digest=b"?" * 32))
    assert dropped.blobs == {TWO: 3}
    assert dropped.seq == 5
    assert [record.event for record in dropped.records.values()] == [Created(), two]


def test_the_newest_record_of_a_digest_counts() -> None:
    state = state_of(Created(), Blob(digest=ONE, length=3), Blob(digest=ONE, length=3))
    assert (state.blobs, [*state.records]) == ({ONE: 3}, [1, 3])


def test_blobs_go_when_the_run_is_over() -> None:
    state = state_of(Created(), Blob(digest=ONE, length=3), Finished())
    assert (state.blobs, [*state.records]) == ({}, [1, 3])


def test_blobs_go_into_packs_and_come_back() -> None:
    with small_limits():
        run = owned()
        head = run.ship()
        for number in range(12):
            parts = Body(b"p" * 15)
            run.append(Blob(digest=bytes([number]) * 32, length=number, parts=parts))
            run.append(Dropped(digest=bytes([(number - 3) % 256]) * 32))
            checkpoint(run)
            head = run.ship()
            assert head.format == 2
            assert_restores(run)
        assert head.packs
        assert len(run.restored().state.blobs) == 3
        run.log.format = 1  # what it can't say is written in the newest all the same
        checkpoint(run)
        assert run.ship().format == 2


def test_what_a_blob_is_made_of_may_lie_in_an_object() -> None:
    ref = ObjectRef("runs/run/o/x", bytes(32), 9)
    record = Record(2, 1, 0, Blob(digest=ONE, length=3, parts=Body(None, ref)))
    assert [body.ref for body in bodies_of(record)] == [ref]
    assert fold("run", [record]).blobs == {ONE: 2}
