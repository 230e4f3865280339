import pytest

from coatcheck_sidecar.core import past as past_module
from coatcheck_sidecar.core.head import Over
from coatcheck_sidecar.core.model import Body, CallClass, CallState, ObjectRef
from coatcheck_sidecar.core.past import Past, buried, tombstone_of
from coatcheck_sidecar.core.record import CallOutcome, Dispatched, Event, Record, Signalled
from tests.core.calls import recorded

REF = ObjectRef("runs/r/o/x", bytes(32), 9)


def at(seq: int, event: Event) -> Record:
    return Record(seq, 1, 0, event)


def answer(seq: int, call: int, body: Body) -> Record:
    return at(seq, CallOutcome(call=call, attempt=1, what="done", body=body))


def filled() -> Past:
    past = Past()
    past.keep({3: at(3, Dispatched(call=2, attempt=1)), 4: answer(4, 2, Body(b"a"))}, end=5)
    past.keep({6: at(6, Signalled(name="go"))}, end=9)
    past.keep({8: at(8, Dispatched(call=7, attempt=1))}, end=9)
    return past


def test_what_is_over_is_said_by_its_checkpoint() -> None:
    past = filled()
    assert past.over() == (Over(5, (2,)), Over(9, (6, 7)))
    again = Past()
    others = [at(1, Signalled(name="x"))]
    assert again.restore(past.over(), [*others, *past.records.values()]) == others
    assert (again.records, again.ends) == (past.records, past.ends)


def test_a_run_that_is_set_back_takes_back_what_was_over_since() -> None:
    past = filled()
    assert [record.seq for record in past.take_back(5)] == [6, 8]
    assert past.over() == (Over(5, (2,)),)
    assert past.take_back(5) == []
    assert [record.seq for record in past.take_back(0)] == [3, 4]


def test_beyond_the_horizon_it_is_forgotten() -> None:
    past = filled()
    past.forget(4)
    assert len(past.records) == 4
    past.forget(5)
    assert [*past.records] == [6, 8]


def test_a_body_that_lies_in_the_store_is_not_held() -> None:
    past = Past()
    past.keep({4: answer(4, 2, Body(b"big", REF)), 5: answer(5, 3, Body(b"on its way"))}, end=9)
    past.attach(5, REF)
    past.attach(77, REF)
    past.packed(4)
    past.attach(4, REF)
    assert [*past.encoded] == [5]
    past.unpacked()
    assert [*past.encoded] == [4, 5]
    assert past.records == {n: answer(n, n - 2, Body(None, REF)) for n in (4, 5)}


def test_what_is_held_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    past = Past()
    for end in range(10, 100, 10):
        past.keep({end - 1: answer(end - 1, end - 2, Body(bytes(1_000)))}, end=end)
    assert past.horizon() == 0
    monkeypatch.setattr(past_module, "BYTES_MAX", 3_500)
    assert past.horizon() == 60
    past.forget(past.horizon())
    assert past.horizon() == 0
    past.keep({98: at(98, Signalled(name="s", value=Body(bytes(2_000))))}, end=99)
    monkeypatch.setattr(past_module, "BYTES_MAX", 1 << 20)
    monkeypatch.setattr(past_module, "SIGNALS_BYTES_MAX", 1_000)
    assert past.horizon() == 99


def test_a_tombstone_tells_what_it_is_of() -> None:
    call = recorded(CallClass.ONCE, CallState.COMPENSATED)
    stone = tombstone_of(call)
    assert stone.what == "compensated"
    again = buried(stone)
    assert (again.key, again.number, again.state) == (call.key, call.number, CallState.TOMBSTONE)
    assert again.reason == "compensated"
