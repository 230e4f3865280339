import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.call_events import Ended, Ending
from coatcheck_sidecar.core.model import Body, CallClass, Outcome, OutcomeKind, Status
from coatcheck_sidecar.core.record import Birth, CallOutcome, Dispatched, Finished, Held, Intent
from coatcheck_sidecar.core.runstate import IN_DOUBT, fold
from coatcheck_sidecar.core.undo import (
    BY_AGENT,
    BY_SIDECAR,
    Done,
    Forward,
    Stop,
    Take,
    at_drain,
    call_of,
    ended,
    irreversible,
    may_not_start,
    next_by,
    print_of,
    successor,
    summary_of,
    upcoming,
)
from coatcheck_sidecar.core.undo_records import Compensated, Compensating, Undo
from tests.core.calls import draft
from tests.core.histories import Log, observed


class Saga(Log):
    """`saga.paid("a")` is a call that is done and can be taken back."""

    def __init__(self) -> None:
        super().__init__()
        self.claim()

    def paid(self, key: str, *, handler: str = "", **more: Any) -> int:
        number = self.send(key=key)
        self.done(number)
        how = {"handler": handler} if handler else {"method": "POST", "path": "/refunds"}
        undo = Undo(call=number, key=key, tool="charge", body=Body(b"{}"))
        self(dataclasses.replace(undo, **{**how, **more}))
        return number

    def lost(self, key: str, call_class: CallClass = CallClass.ONCE, **birth: Any) -> int:
        at = self.seq + 1
        plain = Birth(key=key, step=1, tool="charge", call_class=call_class, fingerprint=b"f")
        self(
            Intent(call=at, birth=dataclasses.replace(plain, **birth)),
            Dispatched(call=at, attempt=1),
            CallOutcome(call=at, attempt=1, what="in_doubt", reason="lost"),
        )
        return at

    def begin(self) -> None:
        self(Compensating(by="ada"))

    def undone(self, key: str) -> None:
        self.done(self.send(key=f"undo:{key}"))

    def next_key(self) -> str:
        todo = upcoming(self.state)
        assert isinstance(todo, Take)
        return todo.undo.key


def test_undos_come_newest_first_each_once() -> None:
    saga = Saga()
    keys = [f"k{n}" for n in range(10)]
    for key in keys:
        saga.paid(key)
    saga.checkpoint(1)
    saga.begin()
    seen = []
    while isinstance(todo := upcoming(saga.state), Take):
        seen.append(todo.undo.key)
        saga.undone(todo.undo.key)
    assert seen == keys[::-1]
    assert todo == Done(10)
    saga(Compensated(undone=10))
    assert (saga.state.status, saga.state.reason) == (Status.COMPENSATED, "10 calls taken back")
    assert not saga.state.undos


def test_an_undo_outlives_the_records_of_its_call() -> None:
    saga = Saga()
    number = saga.paid("a")
    saga.checkpoint(1)
    saga.checkpoint(2)
    assert number not in saga.state.calls
    kept = fold("run", saga.state.records.values(), tombstones=saga.state.tombstones)
    assert kept.undos == saga.state.undos != {}
    assert observed(kept) == observed(saga.state)


def test_a_call_that_was_made_again_is_taken_back_once() -> None:
    saga = Saga()
    number = saga.paid("a")
    saga(Undo(call=number, key="a", tool="charge", method="POST", path="/refunds/new"))
    assert [undo.path for undo in saga.state.undos.values()] == ["/refunds/new"]
    assert sum(isinstance(r.event, Undo) for r in saga.state.records.values()) == 1


def test_a_run_that_has_done_nothing_is_taken_back_at_once() -> None:
    saga = Saga()
    saga.begin()
    assert upcoming(saga.state) == Done(0)
    saga(Compensated(undone=1))
    assert saga.state.reason == "1 call taken back"


def test_a_doubt_holds_when_it_is_its_turn() -> None:
    saga = Saga()
    saga.paid("a")
    doubt = saga.lost("b")
    saga.paid("c")
    saga.begin()
    assert saga.next_key() == "c"
    saga.undone("c")
    assert upcoming(saga.state) == Stop((doubt,))


@pytest.mark.parametrize(
    ("call_class", "birth", "is_in_the_way"),
    [
        (CallClass.READ, {}, False),
        (CallClass.IDEMPOTENT, {}, False),
        (CallClass.IDEMPOTENT, {"undo": "t"}, True),
        (CallClass.IDEMPOTENT, {"handler": "h"}, True),
        (CallClass.IDEMPOTENT, {"is_irreversible": True}, True),
        (CallClass.KEYED, {}, True),
        (CallClass.PROBED, {}, True),
        (CallClass.ONCE, {}, True),
    ],
)
@pytest.mark.parametrize("is_committed", [False, True])
def test_what_is_in_the_way_is_listed(
    call_class: CallClass, birth: Any, is_in_the_way: bool, is_committed: bool
) -> None:
    saga = Saga()
    number = saga.lost("a", call_class, **birth)
    if is_committed:
        saga.checkpoint(1)
    saga.begin()
    listed = [call.number for call in saga.state.in_doubt]
    assert listed == ([number] if is_in_the_way else [])
    assert upcoming(saga.state) == (Stop((number,)) if is_in_the_way else Done(0))
    if not is_committed or is_in_the_way:
        assert saga.state.calls[number].is_decidable == is_in_the_way


def test_what_can_not_be_undone_and_is_done_sends_the_run_forward() -> None:
    saga = Saga()
    saga.paid("a")
    final = saga.paid("b", is_irreversible=True)
    saga.paid("c")
    why = f"call {final} (charge) is done and irreversible"
    assert irreversible(saga.state) == why
    assert at_drain(saga.state) == Forward(why)
    saga.begin()
    assert upcoming(saga.state) == Forward(why)
    saga(Compensating(by="sidecar", then="forward", why=why))
    assert (saga.state.compensating, saga.state.status) == (None, Status.OWNED)
    assert next_by(saga.state) == ""


@pytest.mark.parametrize("call_class", [CallClass.ONCE, CallClass.IDEMPOTENT])
def test_an_irreversible_call_in_doubt_holds_before_anything_is_undone(
    call_class: CallClass,
) -> None:
    saga = Saga()
    doubt = saga.lost("a", call_class, is_irreversible=True)
    saga.paid("b")
    saga.begin()
    assert upcoming(saga.state) == Stop((doubt,))


def test_what_turns_out_to_be_irreversible_after_the_first_undo_is_left_out() -> None:
    """It can't: a doubt about it holds before. But then the rest is still taken back."""
    saga = Saga()
    saga.paid("a")
    saga.paid("b")
    saga.begin()
    saga.undone("b")
    saga.paid("c", is_irreversible=True)
    assert saga.next_key() == "a"


@pytest.mark.parametrize(
    ("call_class", "may_go_on"),
    [
        (CallClass.IDEMPOTENT, True),
        (CallClass.KEYED, True),
        (CallClass.PROBED, True),
        (CallClass.ONCE, False),
    ],
)
def test_an_undo_in_doubt_goes_on_only_where_the_table_lets_it(
    call_class: CallClass, may_go_on: bool
) -> None:
    saga = Saga()
    saga.paid("a")
    saga.begin()
    number = saga.send(call_class, key="undo:a")
    saga.claim()
    assert [call.number for call in saga.state.in_doubt] == [number]
    todo = upcoming(saga.state)
    assert isinstance(todo, Take) == may_go_on
    assert may_go_on or todo == Stop((number,))


def test_an_undo_that_was_refused_holds_until_somebody_decides() -> None:
    saga = Saga()
    saga.paid("a")
    saga.begin()
    number = saga.send(CallClass.IDEMPOTENT, key="undo:a")
    saga.done(number, OutcomeKind.UNKNOWN)
    assert upcoming(saga.state) == Stop((number,))
    assert saga.state.calls[number].is_decidable


def test_what_is_known_of_an_undo_comes_with_it() -> None:
    saga = Saga()
    saga.paid("a")
    saga.begin()
    assert upcoming(saga.state) == Take(saga.state.undos[3], None)
    number = saga.intent(key="undo:a")
    call = saga.state.calls[number]
    assert call_of(saga.state, saga.state.undos[3]) is call
    assert upcoming(saga.state) == Take(saga.state.undos[3], call)
    assert call.is_decidable
    assert not call.is_unsettled


def test_whose_turn_it_is() -> None:
    saga = Saga()
    saga.paid("a", handler="refund")
    saga.paid("b")
    assert next_by(saga.state) == ""
    saga.begin()
    assert next_by(saga.state) == BY_SIDECAR
    saga.undone("b")
    assert next_by(saga.state) == BY_AGENT
    saga(Held(reason="crash_loop"))
    assert next_by(saga.state) == ""


def test_a_drain_takes_a_run_back_that_asked_for_it_and_once() -> None:
    saga = Saga()
    saga.paid("a")
    assert at_drain(saga.state) == Compensating(by="drain")
    saga.begin()
    assert at_drain(saga.state) is None


def test_a_run_that_is_taken_back_is_never_ready_until_it_is_over() -> None:
    saga = Saga()
    saga.begin()
    assert saga.state.status == "owned"
    saga(Held(reason=f"{IN_DOUBT}: calls [3]"))
    assert str(saga.state.status) == "held"
    saga.begin()
    assert str(saga.state.status) == "compensating"
    assert saga.state.created.deadline_ms == 0


def test_the_successor_has_a_name_of_its_own() -> None:
    assert successor("order-4711") == "order-4711-2"


@given(st.lists(st.sampled_from(["paid", "lost", "handler", "final", "checkpoint"]), max_size=12))
def test_nothing_older_is_undone_before_what_is_newer(script: list[str]) -> None:
    saga = Saga()
    for at, what in enumerate(script):
        match what:
            case "checkpoint":
                saga.checkpoint(saga.state.step + 1)
            case "lost":
                saga.lost(f"k{at}")
            case "final":
                saga.paid(f"k{at}", is_irreversible=True)
            case _:
                saga.paid(f"k{at}", handler="refund" if what == "handler" else "")
    saga.begin()
    before = max(saga.state.undos, default=0) + 1
    while isinstance(todo := upcoming(saga.state), Take):
        assert todo.undo.call < before
        assert all(call.number < todo.undo.call for call in saga.state.in_doubt)
        before = todo.undo.call
        saga.undone(todo.undo.key)
    if "final" in script:
        assert isinstance(todo, Forward)
        assert before == max(saga.state.undos) + 1
    elif "lost" in script:
        assert isinstance(todo, Stop)
    else:
        assert todo == Done(sum(what in ("paid", "handler") for what in script))


def test_a_run_that_ends_otherwise_forgets_its_undos() -> None:
    saga = Saga()
    saga.paid("a")
    saga(Finished())
    assert not saga.state.undos
    assert not any(isinstance(r.event, Undo) for r in saga.state.records.values())


# Attempts of undos


KEPT = Outcome(OutcomeKind.RESULT, Body(b"{}"), b"head")


@pytest.mark.parametrize(
    ("ending", "status", "method", "call_class", "is_done"),
    [
        (Ending.FINAL, 200, "POST", CallClass.ONCE, True),
        (Ending.FINAL, 204, "DELETE", CallClass.IDEMPOTENT, True),
        (Ending.REJECTED, 404, "DELETE", CallClass.IDEMPOTENT, True),
        (Ending.REJECTED, 410, "DELETE", CallClass.KEYED, True),
        (Ending.REJECTED, 404, "POST", CallClass.IDEMPOTENT, False),
        (Ending.REJECTED, 400, "DELETE", CallClass.IDEMPOTENT, False),
        (Ending.FINAL, 302, "POST", CallClass.KEYED, False),
        (Ending.CONFLICT, 409, "POST", CallClass.ONCE, False),
        (Ending.ERROR_SAVED, 500, "POST", CallClass.KEYED, False),
        (Ending.ERROR, 500, "POST", CallClass.ONCE, False),
    ],
)
def test_an_undo_is_done_by_what_says_so_and_any_other_last_word_is_to_be_looked_at(
    ending: Ending, status: int, method: str, call_class: CallClass, is_done: bool
) -> None:
    came = Ended(1, ending, KEPT)
    found = ended(came, status=status, method=method, call_class=call_class)
    if is_done:
        assert found is came
    else:
        unknown = dataclasses.replace(KEPT, kind=OutcomeKind.UNKNOWN)
        assert found == Ended(1, Ending.FINAL, unknown)


@pytest.mark.parametrize(
    ("ending", "status", "call_class"),
    [
        (Ending.SHED, 429, CallClass.ONCE),
        (Ending.DENIED, 401, CallClass.KEYED),
        (Ending.CONFLICT, 409, CallClass.KEYED),
        (Ending.ERROR, 500, CallClass.IDEMPOTENT),
        (Ending.LOST, 0, CallClass.ONCE),
    ],
)
def test_what_is_no_last_word_goes_by_the_table(
    ending: Ending, status: int, call_class: CallClass
) -> None:
    came = Ended(1, ending)
    assert ended(came, status=status, method="POST", call_class=call_class) is came


def test_what_may_not_start() -> None:
    saga = Saga()
    plain = draft(CallClass.ONCE)
    final = draft(CallClass.ONCE, is_irreversible=True)
    undo = draft(CallClass.ONCE, key="undo:a")
    read = draft(CallClass.READ)
    assert not may_not_start(saga.state, final, is_draining=False)
    assert "nothing takes it back" in may_not_start(saga.state, final, is_draining=True)
    assert not may_not_start(saga.state, plain, is_draining=True)
    saga.paid("a")
    saga.begin()
    assert "being taken back" in may_not_start(saga.state, plain, is_draining=False)
    assert not may_not_start(saga.state, undo, is_draining=True)
    assert not may_not_start(saga.state, read, is_draining=True)
    saga.send(key="undo:a")
    assert not may_not_start(saga.state, plain, is_draining=False)


def test_an_undo_is_named_by_what_it_does() -> None:
    by_request = Undo(call=3, key="a", tool="t", method="POST", path="/refunds", body=Body(b"{}"))
    by_hand = Undo(call=3, key="a", tool="t", handler="refund")
    broken = Undo(call=3, key="a", tool="t", why="there is nothing at /id")
    assert summary_of(by_request) == "undo of call 3: POST /refunds"
    assert summary_of(by_hand) == "undo of call 3: refund"
    assert summary_of(broken) == "undo of call 3: there is nothing at /id"
    prints = {print_of(undo) for undo in (by_request, by_hand, broken)}
    assert {len(each) for each in prints} == {32}
    assert len(prints) == 3
