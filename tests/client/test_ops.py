"""Each operation, driven by hand."""

from typing import Any

import msgpack
import pytest

from coatcheck import _ops, errors
from coatcheck._session import Ask, CallPhase, Session
from coatcheck._tool import UNDOS, current_key
from coatcheck.wire import Request
from tests.client.script import RUN, Play, ok, refusal, session

packed = msgpack.packb


def test_hello_offers_and_takes_limits() -> None:
    fresh = Session(RUN)
    limits = {"state_bytes": 100, "requests": 8}
    hello = Play(fresh, _ops.handshake(fresh))
    hello.asks("hello", {"protocol": [1, 1], "incarnation": fresh.incarnation})
    hello.gets(ok({"protocol": 1, "limits": limits})).returns()
    assert (fresh.state_bytes_max, fresh.calls_max) == (100, 4)


def test_two_runs_of_a_process_are_two_agents() -> None:
    """Else one that lost its run to the other would be taken for it when it reconnects."""
    assert Session(RUN).incarnation != Session(RUN).incarnation


def test_a_resume_gives_back_what_has_not_started() -> None:
    calls = {1: CallPhase.UNSTARTED, 2: CallPhase.RUNNING, 3: CallPhase.DONE}
    broken = session(calls=dict(calls), base=(4, b"s"))
    resume = Play(broken, _ops.handshake(broken)).asks("hello")
    resume.gets(ok({"protocol": 1, "limits": {}}))
    resume.asks(
        "open",
        {"run": "r", "create": False, "resume": {"epoch": 1, "calls": calls, "answered": []}},
    )
    resume.gets(ok({"epoch": 2, "draining": True})).returns()
    assert (broken.epoch, broken.base, broken.is_draining) == (2, None, True)
    assert not broken.begin(1)
    assert broken.begin(2)


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
        next(_ops.tell(opened, Request.FAIL, error="x"))
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


def test_a_claim_asks_until_there_is_a_run() -> None:
    fresh = Session(RUN._replace(body={"queue": "default", "schema": 1}))
    claim = Play(fresh, _ops.open_run(fresh)).asks("open", {"run": "(absent)"})
    claim.gets(refusal("unavailable", retry="later")).asks("open")
    claim.gets(ok({"run": "x", "epoch": 1, "step": 1, "has_state": False})).returns()
    assert fresh.run == "x"


# Taking back


FREED: list[Any] = []


def free(booking: Any) -> None:
    FREED.append((booking, current_key()))


def taken_back(monkeypatch: pytest.MonkeyPatch) -> Play[None]:
    monkeypatch.setitem(UNDOS, ("book", "free"), free)
    FREED.clear()
    opened = session(step=3)
    return Play(opened, _ops.take_back(opened)).asks("undo", {})


NEXT = {"undo": "free", "tool": "book", "key": "c:1:book:f:1", "call": 7}


def test_functions_take_calls_back_until_the_run_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    play = taken_back(monkeypatch)
    play.gets(ok(NEXT, packed({"seat": 4})))
    body = {"key": "c:1:book:f:1", "tool": "free", "effect": "once", "step": 3}
    play.asks("call", body, packed({"booking": {"seat": 4}}))
    play.gets(ok({"decision": "go", "call": 9, "attempt": 1, "upstream_key": "u"}))
    play.calls().asks("outcome", {"call": 9, "kind": "result"}).gets(ok({"seq": 1}))
    assert FREED == [({"seat": 4}, "u")]
    play.asks("undo").gets(ok({"status": "compensated"})).returns()


def test_an_undo_that_was_made_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    play = taken_back(monkeypatch).gets(ok(NEXT, packed(1)))
    play.asks("call").gets(ok({"decision": "replay", "call": 9, "attempt": 1}, packed(None)))
    play.asks("undo").gets(ok({"status": "compensated"})).returns()
    assert FREED == []


def test_a_function_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    play = taken_back(monkeypatch)
    with pytest.raises(errors.Unavailable, match="no tool book with undo=other here"):
        play.gets(ok({**NEXT, "undo": "other"}, packed(1)))


def test_the_last_answer_says_that_the_run_is_over() -> None:
    opened = session()
    ask = Ask(Request.UNDO, {})
    opened.settle(ask, ok(NEXT))
    assert opened.status == "owned"
    opened.settle(ask, ok({"status": "compensated"}))
    assert opened.status == "compensated"
