"""A tool call, driven by hand."""

import dataclasses
import functools
from typing import Any

import msgpack
import pydantic
import pytest

from coatcheck import _ops, errors
from coatcheck._session import CallPhase
from coatcheck._tool import UNDOS, Call, ToolOptions, current_key, declare
from tests.client.script import Play, ok, refusal, session

GO = {"decision": "go", "call": 7, "attempt": 2, "upstream_key": "key-7"}
packed = msgpack.packb


def charge(invoice: str, amount: int = 1) -> dict[str, Any]:
    return {"invoice": invoice, "amount": amount, "key": current_key()}


def play(function: Any = charge, *args: Any, **options: Any) -> Play[Any]:
    made: ToolOptions = options  # type: ignore[assignment]
    call = Call(1, declare(function, made), function, args or ("i-1",), {})
    opened = session()
    return Play(opened, _ops.call_tool(opened, call))


def test_a_call_given_back_while_it_waited_for_a_thread_is_asked_about_again() -> None:
    called = play().asks("call").gets(ok(GO))
    called.session.report()
    called.calls().asks("outcome", {"kind": "not_applied"}).gets(ok({"seq": 1}))
    called.asks("call").gets(ok(GO)).calls().asks("outcome", {"kind": "result"})


def test_a_guarded_call_goes_under_its_key_and_is_recorded() -> None:
    called = play(charge, "i-1", 3, effect="once", key="/invoice", repeats=True)
    body = {
        "step": 1,
        "tool": "charge",
        "effect": "once",
        "business": "/invoice",
        "key": "(absent)",
    }
    body |= {"identity": "content", "repeats": True, "probe": "(absent)", "level": "(absent)"}
    called.asks("call", body, packed({"invoice": "i-1", "amount": 3})).gets(ok(GO))
    assert called.session.calls == {7: CallPhase.UNSTARTED}
    expected = {"invoice": "i-1", "amount": 3, "key": "key-7"}
    called.calls().asks("outcome", {"call": 7, "attempt": 2, "kind": "result"}, packed(expected))
    assert called.session.calls == {7: CallPhase.DONE}
    assert called.gets(ok({"seq": 9})).returns() == expected
    assert called.session.calls == {}


def test_a_call_says_what_takes_it_back_and_what_nothing_takes_back() -> None:
    def refund(charged: dict[str, Any]) -> None:
        raise AssertionError(charged)

    absent = "(absent)"
    play(charge, "i-1", undo=refund).asks("call", {"undo": "refund", "irreversible": absent})
    play(charge, "i-1", irreversible=True).asks("call", {"undo": absent, "irreversible": True})
    nameless = functools.partial(refund)
    play(charge, "i-1", undo=nameless).asks("call", {"undo": "undo"})
    assert UNDOS["charge", "refund"] is refund
    assert UNDOS["charge", "undo"] is nameless


def test_a_read_asks_nobody() -> None:
    assert play(len, [1, 2], effect="read").calls().returns() == 2


def test_a_recorded_read_is_replayed() -> None:
    called = play(charge, effect="read", record=True).asks("call", {"effect": "read"})
    replay = ok({"decision": "replay", "call": 7, "kind": "result"}, packed([1]))
    assert called.gets(replay).returns() == [1]


def test_a_read_that_the_sidecar_forgot_is_told_again_and_not_made_again() -> None:
    made = []

    def look(item: str) -> str:
        made.append(item)
        return f"saw {item}"

    called = play(look, "x", effect="read", record=True).gets(ok(GO)).calls()
    called.asks("outcome", {"call": 7, "kind": "result"}, packed("saw x"))
    called.gets(refusal("not_found")).asks("call", {"tool": "look"}, packed({"item": "x"}))
    called.gets(ok({**GO, "call": 9, "attempt": 1}))
    called.asks("outcome", {"call": 9, "attempt": 1, "kind": "result"}, packed("saw x"))
    assert called.gets(ok({"seq": 4})).returns() == "saw x"
    assert made == ["x"]
    assert called.session.calls == {}


def test_a_read_that_was_recorded_meanwhile_is_taken_from_the_record() -> None:
    called = play(charge, effect="read", record=True).gets(ok(GO)).calls()
    called.asks("outcome").gets(refusal("not_found")).asks("call")
    replay = ok({"decision": "replay", "call": 3, "kind": "result"}, packed("older"))
    assert called.gets(replay).returns() == "older"


def test_a_read_that_failed_may_be_forgotten() -> None:
    called = play(raising(OSError("down")), effect="read", record=True).gets(ok(GO)).calls()
    called.asks("outcome", {"kind": "failed"})
    with pytest.raises(OSError, match="down"):
        called.gets(refusal("not_found"))


def test_only_a_read_may_be_forgotten() -> None:
    with pytest.raises(errors.NotFound):
        play(effect="idempotent").gets(ok(GO)).calls().gets(refusal("not_found"))


class Receipt(pydantic.BaseModel):
    number: int


def test_the_value_is_the_same_the_first_time_and_on_replay() -> None:
    @dataclasses.dataclass
    class Plain:
        pair: tuple[int, int]

    def typed(number: str) -> Receipt:
        return Receipt(number=int(number))

    def plain(number: str) -> Plain:
        return Plain((1, int(number)))

    for function, value in ((typed, Receipt(number=5)), (plain, {"pair": [1, 5]})):
        first = play(function, "5").gets(ok(GO)).calls().asks("outcome")
        command = first._command
        recorded = getattr(command, "attachment", None)
        assert first.gets(ok({"seq": 1})).returns() == value
        replay = ok({"decision": "replay", "call": 7, "kind": "result"}, recorded)
        assert play(function, "5").gets(replay).returns() == value


def test_a_window_that_is_over_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coatcheck._clock.boottime", lambda: 100.0)
    called = play().gets(ok({**GO, "until_boot_s": 100.0})).calls()
    called.asks("outcome", {"call": 7, "attempt": 2, "kind": "not_applied"}).gets(ok({"seq": 1}))
    called.asks("call").gets(ok({**GO, "attempt": 3, "until_boot_s": 100.1})).calls()
    called.asks("outcome", {"attempt": 3, "kind": "result"})


def test_windows_are_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coatcheck._clock.boottime", lambda: 100.0)
    called = play()
    for _ in range(_ops.STARTS_MAX - 1):
        called.gets(ok({**GO, "until_boot_s": 1.0})).calls().gets(ok({"seq": 1}))
    called.gets(ok({**GO, "until_boot_s": 1.0})).calls()
    with pytest.raises(errors.Unavailable, match="starved"):
        called.gets(ok({"seq": 1}))


def raising(error: BaseException) -> Any:
    def tool(_: str) -> None:
        raise error

    return tool


def test_not_applied_is_reported_and_told() -> None:
    called = play(raising(errors.NotApplied("card declined"))).gets(ok(GO)).calls()
    called.asks("outcome", {"kind": "not_applied", "reason": "card declined"})
    with pytest.raises(errors.NotApplied):
        called.gets(ok({"seq": 1}))


def test_any_other_exception_of_a_guarded_call_is_doubt() -> None:
    called = play(raising(OSError("reset"))).gets(ok(GO)).calls()
    called.asks("outcome", {"kind": "failed", "reason": "OSError: reset"})
    with pytest.raises(errors.InDoubt, match="coatcheck resolve r 7") as caught:
        called.gets(ok({"seq": 1}))
    assert isinstance(caught.value.__cause__, OSError)
    assert (caught.value.call, caught.value.tool, caught.value.step) == (7, "tool", 1)


def test_the_exception_of_an_idempotent_call_is_its_own() -> None:
    called = play(raising(OSError("reset")), effect="idempotent").gets(ok(GO)).calls()
    called.asks("outcome", {"kind": "failed"})
    with pytest.raises(OSError, match="reset"):
        called.gets(ok({"seq": 1}))


def test_a_result_that_cannot_be_recorded_is_doubt() -> None:
    called = play(lambda _: {"when": object()}, name="tool").gets(ok(GO)).calls()
    called.asks("outcome", {"kind": "failed"})
    with pytest.raises(errors.InDoubt, match=r'the result of tool\["when"\] is a object'):
        called.gets(ok({"seq": 1}))


def test_arguments_that_cannot_be_recorded_are_named_before_anything_happens() -> None:
    with pytest.raises(errors.NotEncodable, match=r'charge\["invoice"\] is a object'):
        play(charge, object())


PROBE = {"decision": "probe", "call": 7, "attempt": 2, "upstream_key": "key-7"}


def was_charged(invoice: str, amount: int = 1) -> dict[str, Any] | None:
    return {"invoice": invoice, "key": current_key()} if invoice == "i-1" else None


def test_a_probe_that_finds_it_gives_the_result() -> None:
    called = play(charge, "i-1", probe=was_charged, probe_settle_s=5.0)
    called.asks("call", {"probe": True, "settle_s": 5.0}).gets(ok(PROBE)).calls()
    found = packed({"invoice": "i-1", "key": "key-7"})
    called.asks("probed", {"call": 7, "attempt": 2, "applied": True}, found)
    reply = ok({"decision": "replay", "call": 7, "kind": "result"}, found)
    assert called.gets(reply).returns() == {"invoice": "i-1", "key": "key-7"}


@pytest.mark.parametrize("answer", [None, False, errors.NotApplied("no")])
def test_a_probe_that_does_not_find_it_lets_it_go(answer: Any) -> None:
    def probe(_: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    called = play(charge, "i-2", probe=probe).gets(ok(PROBE)).calls()
    called.asks("probed", {"applied": False}, None).gets(ok(GO))
    called.calls().asks("outcome", {"kind": "result"})


def test_a_probe_may_be_wanted_twice() -> None:
    """The run got a new epoch between the two."""
    called = play(charge, "i-1", probe=was_charged).gets(ok(PROBE)).calls()
    called.asks("probed", {"attempt": 2}).gets(ok({**PROBE, "attempt": 3})).calls()
    called.asks("probed", {"attempt": 3, "applied": True})
    replay = ok({"decision": "replay", "call": 7, "kind": "result"}, packed("found"))
    assert called.gets(replay).returns() == "found"


def test_a_probe_that_fails_leaves_it_in_doubt() -> None:
    called = play(charge, probe=raising(OSError("down"))).gets(ok(PROBE))
    with pytest.raises(errors.InDoubt, match="its probe raised OSError: down"):
        called.calls()


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("unknown", errors.InDoubt),
        ("truncated", errors.Held),
        ("not_retained", errors.Held),
    ],
)
def test_a_replay_without_the_answer_is_told(kind: str, error: Any) -> None:
    with pytest.raises(error, match="call 7 of charge"):
        play().gets(ok({"decision": "replay", "call": 7, "kind": kind}))


def test_a_replay_of_what_somebody_said_took_place_has_no_value() -> None:
    replay = ok({"decision": "replay", "call": 7, "kind": "result"})
    assert play().gets(replay).returns() is None


@pytest.mark.parametrize("code", ["in_doubt", "held", "conflict", "replay_divergence", "draining"])
def test_refusals_come_as_what_they_are(code: str) -> None:
    with pytest.raises(errors.CoatcheckError) as caught:
        play().gets(refusal(code, call=3, tool="charge", calls=[{"call": 3}]))
    assert caught.value.code == code


def test_a_decision_of_a_newer_sidecar_is_refused_by_name() -> None:
    with pytest.raises(errors.ProtocolError, match="'ponder'"):
        play().gets(ok({"decision": "ponder"}))
