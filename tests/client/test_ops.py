"""Each operation, driven by hand."""

import dataclasses
from typing import Any

import msgpack
import pydantic
import pytest

from coatcheck import _ops, errors
from coatcheck._session import CallPhase, Session, incarnation
from coatcheck._tool import Call, ToolOptions, current_key, declare
from tests.client.script import RUN, Play, ok, refusal, session

GO = {"decision": "go", "call": 7, "attempt": 2, "upstream_key": "key-7"}
packed = msgpack.packb


def charge(invoice: str, amount: int = 1) -> dict[str, Any]:
    return {"invoice": invoice, "amount": amount, "key": current_key()}


def play(function: Any = charge, *args: Any, **options: Any) -> Play[Any]:
    made: ToolOptions = options  # type: ignore[assignment]
    call = Call(1, declare(function, made), function, args or ("i-1",), {})
    opened = session()
    return Play(opened, _ops.call_tool(opened, call))


def test_hello_offers_and_takes_limits() -> None:
    fresh = Session(RUN)
    limits = {"state_bytes": 100, "requests": 8}
    hello = Play(fresh, _ops.handshake(fresh))
    hello.asks("hello", {"protocol": [1, 1], "incarnation": incarnation()})
    hello.gets(ok({"protocol": 1, "limits": limits})).returns()
    assert (fresh.state_bytes_max, fresh.calls_max) == (100, 4)


def test_a_resume_gives_back_what_has_not_started() -> None:
    calls = {1: CallPhase.UNSTARTED, 2: CallPhase.RUNNING, 3: CallPhase.DONE}
    broken = session(calls=dict(calls), base=(4, b"s"))
    resume = Play(broken, _ops.handshake(broken)).asks("hello")
    resume.gets(ok({"protocol": 1, "limits": {}}))
    resume.asks("open", {"run": "r", "create": False, "resume": {"epoch": 1, "calls": calls}})
    resume.gets(ok({"epoch": 2, "draining": True})).returns()
    assert (broken.epoch, broken.base, broken.is_draining) == (2, None, True)
    assert not broken.begin(1)
    assert broken.begin(2)


def test_a_call_given_back_while_it_waited_for_a_thread_is_asked_about_again() -> None:
    called = play().asks("call").gets(ok(GO))
    called.session.report()
    called.calls().asks("outcome", {"kind": "not_applied"}).gets(ok({"seq": 1}))
    called.asks("call").gets(ok(GO)).calls().asks("outcome", {"kind": "result"})


def test_open_takes_the_state_and_the_input() -> None:
    fresh = Session(RUN._replace(attachment=packed({"n": 1})))
    opening = Play(fresh, _ops.open_run(fresh))
    opening.asks("open", RUN.body, packed({"n": 1}))
    reply = {"run": "r", "epoch": 4, "step": 9, "seq": 31, "input": packed([2]), "status": "owned"}
    stands = ("owned", None, None)
    assert opening.gets(ok(reply, packed("state"))).returns() == ("state", [2], stands)
    assert (fresh.run, fresh.epoch, fresh.step) == ("r", 4, 9)
    assert fresh.base == (31, packed("state"))


@pytest.mark.parametrize("missing", ["run", "epoch", "step"])
def test_a_reply_without_what_it_must_have_is_named(missing: str) -> None:
    fresh = Session(RUN)
    reply: dict[str, Any] = {"run": "r", "epoch": 1, "step": 2, "has_state": False}
    del reply[missing]
    with pytest.raises(errors.ProtocolError, match=missing):
        Play(fresh, _ops.open_run(fresh)).gets(ok(reply))


def test_a_commit_moves_to_the_next_step() -> None:
    opened = session()
    commit = Play(opened, _ops.commit(opened, 1, state={"a": 1}, level="remote"))
    commit.asks("commit", {"step": 1, "level": "remote", "schema": 1}, packed({"a": 1}))
    with pytest.raises(errors.StepOver, match="step 1 of run r is being committed"):
        next(_ops.commit(opened, 1, state={}, level="node"))
    commit.gets(ok({"seq": 5, "step": 2, "draining": True})).returns()
    assert (opened.step, opened.base, opened.is_draining) == (2, (5, packed({"a": 1})), True)
    with pytest.raises(errors.StepOver, match="step 1 is over; run r is at step 2"):
        next(_ops.commit(opened, 1, state={}, level="node"))


def test_a_refused_commit_leaves_the_step_as_it_was() -> None:
    opened = session()
    with pytest.raises(errors.InFlight):
        Play(opened, _ops.commit(opened, 1, state={}, level="node")).gets(refusal("in_flight"))
    Play(opened, _ops.commit(opened, 1, state={}, level="node")).asks("commit", {"step": 1})


def test_a_state_over_the_limit_is_not_sent() -> None:
    opened = session(state_bytes_max=10)
    with pytest.raises(errors.TooLarge, match="12 bytes, 10 are allowed") as caught:
        next(_ops.commit(opened, 1, state="x" * 11, level="node"))
    assert caught.value.limit == 10


def test_a_finish_by_patch_says_where_the_result_begins() -> None:
    old, new = b"a" * 50_000, b"a" * 49_999 + b"b"
    opened = session(base=(5, packed(old)))
    finish = Play(opened, _ops.finish(opened, "done", state=new))
    length = len(packed(new))
    changed = packed(new)[length - length % 4096 :]
    patch = {"base": 5, "length": length, "ranges": [(length - len(changed), len(changed))]}
    body = {"patch": patch, "state_length": len(changed), "schema": 1}
    finish.asks("finish", body, changed + packed("done")).gets(refusal("conflict"))
    finish.asks(
        "finish", {"patch": "(absent)", "state_length": length}, packed(new) + packed("done")
    )
    finish.gets(ok({"seq": 6})).returns()
    assert opened.status == "finished"


def test_a_conflict_that_is_no_matter_of_the_base_is_told() -> None:
    opened = session()
    with pytest.raises(errors.Conflict):
        Play(opened, _ops.commit(opened, 1, state={}, level="node")).gets(refusal("conflict"))


def test_what_is_over_or_fenced_takes_nothing_more() -> None:
    opened = session(status="failed")
    with pytest.raises(errors.StepOver, match="run r is failed"):
        next(_ops.fail(opened, "x"))
    opened.fenced = errors.Fenced("newer owner")
    with pytest.raises(errors.Fenced):
        next(_ops.wait_for(opened, "x", payload=None))
    Play(opened, _ops.leave(opened, "left")).returns()


def test_fenced_by_a_reply_stays_fenced() -> None:
    opened = session()
    with pytest.raises(errors.Fenced):
        Play(opened, _ops.commit(opened, 1, state={}, level="node")).gets(
            refusal("fenced", epoch=3)
        )
    with pytest.raises(errors.Fenced):
        _ = opened.has_next_step


def test_a_signal_is_received_once_a_step_and_consumed_by_its_commit() -> None:
    opened = session()
    wait = Play(opened, _ops.wait_for(opened, "approval", payload={"amount": 3}))
    wait.asks("wait", {"name": "approval", "step": 1, "signals": []}, packed({"amount": 3}))
    assert wait.gets(ok({"signal": 17}, packed("yes"))).returns() == "yes"
    again = Play(opened, _ops.wait_for(opened, "approval", payload=None))
    again.asks("wait", {"signals": [17]})
    assert again.gets(ok({"signal": 21}, packed("no"))).returns() == "no"
    refused = Play(opened, _ops.commit(opened, 1, state={}, level="node"))
    with pytest.raises(errors.InFlight):
        refused.asks("commit", {"signals": [17, 21]}).gets(refusal("in_flight"))
    commit = Play(opened, _ops.commit(opened, 1, state={}, level="node"))
    commit.asks("commit", {"signals": [17, 21]}).gets(ok({"seq": 5, "step": 2})).returns()
    Play(opened, _ops.wait_for(opened, "x", payload=None)).asks("wait", {"signals": []})
    Play(opened, _ops.commit(opened, 2, state={}, level="node")).asks(
        "commit", {"signals": "(absent)"}
    )


def test_a_signal_that_comes_during_a_commit_is_left_for_the_next() -> None:
    opened = session()
    wait = Play(opened, _ops.wait_for(opened, "late", payload=None))
    commit = Play(opened, _ops.commit(opened, 1, state={}, level="node"))
    wait.gets(ok({"signal": 17}, packed("yes"))).returns()
    commit.asks("commit", {"signals": "(absent)"}).gets(ok({"seq": 5, "step": 2})).returns()
    finish = Play(opened, _ops.finish(opened, None, state=_ops.UNSET))
    finish.asks("finish", {"step": 2, "signals": [17]})


@pytest.mark.parametrize("status", ["finished", "failed", "cancelled", "compensated"])
def test_opening_a_run_that_is_over_opens_nothing(status: str) -> None:
    fresh = Session(RUN)
    opening = Play(fresh, _ops.open_run(fresh))
    reply = {
        "run": "r",
        "epoch": 3,
        "step": 9,
        "status": status,
        "error": "why",
        "has_state": False,
    }
    result = packed({"paid": 3}) if status == "finished" else None
    state, given, stands = opening.gets(ok(reply, result)).returns()
    assert (state, given) == (None, None)
    assert stands == (status, {"paid": 3} if result else None, "why")
    assert not fresh.has_next_step
    with pytest.raises(errors.StepOver, match=f"run r is {status}"):
        next(_ops.commit(fresh, 9, state={}, level="node"))
    Play(fresh, _ops.leave(fresh, "left")).returns()


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


def test_a_claim_asks_until_there_is_a_run() -> None:
    fresh = Session(RUN._replace(body={"queue": "default", "schema": 1}))
    claim = Play(fresh, _ops.open_run(fresh)).asks("open", {"run": "(absent)"})
    claim.gets(refusal("unavailable", retry="later")).asks("open")
    claim.gets(ok({"run": "x", "epoch": 1, "step": 1, "has_state": False})).returns()
    assert fresh.run == "x"
