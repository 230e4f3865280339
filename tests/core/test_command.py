from dataclasses import replace

import msgpack
import pytest

from coatcheck_sidecar.core.command import (
    SIGNALS_MAX,
    Command,
    decide_command,
    decode_command,
    encode_command,
)
from coatcheck_sidecar.core.doubt import Rules
from coatcheck_sidecar.core.model import Body, CallClass, CallState, Outcome, OutcomeKind, Status
from coatcheck_sidecar.core.objects import BadObject, Kind, seal
from coatcheck_sidecar.core.record import (
    Birth,
    CallOutcome,
    Checkpoint,
    Claimed,
    Commanded,
    Created,
    Dispatched,
    Event,
    Failed,
    Finished,
    Held,
    Intent,
    Parked,
    Record,
    Resolved,
    Signalled,
)
from coatcheck_sidecar.core.recorded import Head, encode_head
from coatcheck_sidecar.core.runstate import COMMANDS_MAX, RunState, fold
from coatcheck_sidecar.core.undo_records import Compensating, Undo

RULES = Rules(pause_max_s=10, key_margin_s=60)
LONG_AFTER_MS = 1_000_000
CANCEL = Command(id="c1", run="r", what="cancel", by="ann", why="typo")
RETRY = Command(id="c1", run="r", what="retry", by="ann")
SIGNAL = Command(id="c1", run="r", what="signal", by="ann", name="approval", value=b"\xc3")
RESOLVE = Command(
    id="c1", run="r", what="resolve", by="ann", call=3, verdict="applied", attempt=1, at_ms=60_000
)
BIRTH = Birth(key="k", step=1, tool="charge", call_class=CallClass.ONCE, fingerprint=b"f")


def state_of(*events: Event) -> RunState:
    return fold("r", [Record(n, 1, 1000, event) for n, event in enumerate(events, start=1)])


def in_doubt(*more: Event) -> RunState:
    return state_of(
        Created(),
        Claimed(owner="o"),
        Intent(call=3, birth=BIRTH),
        Dispatched(call=3, attempt=1),
        CallOutcome(call=3, attempt=1, what="in_doubt", reason="lost"),
        *more,
    )


def decide(state: RunState, command: Command, *, now_ms: int = LONG_AFTER_MS) -> list[Event]:
    return decide_command(state, command, now_ms=now_ms, rules=RULES)


def then(state: RunState, command: Command) -> RunState:
    """The state after the command's events."""
    for event in decide(state, command):
        state.apply(Record(state.seq + 1, 2, LONG_AFTER_MS, event))
    assert command.id in state.commands
    return state


def refusal(state: RunState, command: Command, *, now_ms: int = LONG_AFTER_MS) -> str:
    (event,) = decide(state, command, now_ms=now_ms)
    assert isinstance(event, Commanded)
    assert (event.what, event.by, event.command) == (command.what, "ann", "c1")
    assert event.refused
    return event.refused


@pytest.mark.parametrize("command", [CANCEL, RETRY, SIGNAL, replace(RESOLVE, force=True)])
def test_a_command_survives_its_object(command: Command) -> None:
    assert decode_command("x", encode_command(command)) == command


def test_a_field_of_a_newer_release_is_passed_over() -> None:
    fields = {name: getattr(CANCEL, name) for name in Command.__slots__} | {"novel": 1}
    assert decode_command("x", seal(Kind.COMMAND, msgpack.packb(fields))) == CANCEL


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ([], "not a command"),
        ({"id": "c1"}, "not a command"),
        ({"id": "c1", "run": "r", "what": "cancel", "by": 7}, "wrong type"),
        ({"id": "c1", "run": "r", "what": "cancel", "by": "a", "call": "1"}, "wrong type"),
        ({"id": "c1", "run": "r", "what": "cancel", "by": "a", "value": "s"}, "wrong type"),
        ({"id": "c1", "run": "r", "what": "cancel", "by": "a", "why": "y" * 1001}, "too long"),
        ({"id": "c1", "run": "r", "what": "explode", "by": "a"}, "unknown command 'explode'"),
        ({"id": "c1", "run": "r", "what": "resolve", "by": "a"}, "without a verdict"),
        (
            {"id": "c1", "run": "r", "what": "resolve", "by": "a", "verdict": "perhaps"},
            "unknown command 'resolve perhaps'",
        ),
    ],
)
def test_an_owner_does_not_stumble_over_what_lies_in_its_inbox(fields: object, part: str) -> None:
    with pytest.raises(BadObject, match=part):
        decode_command("x", seal(Kind.COMMAND, msgpack.packb(fields)))


@pytest.mark.parametrize("command", [CANCEL, RETRY, SIGNAL, RESOLVE])
def test_a_run_that_is_over_takes_nothing(command: Command) -> None:
    state = state_of(Created(), Claimed(owner="o"), Finished())
    assert refusal(state, command) == "run r is finished"


def test_a_signal_wakes_the_run_that_waits_for_it() -> None:
    parked = state_of(Created(), Claimed(owner="o"), Parked(name="approval"))
    woken = then(parked, SIGNAL)
    assert woken.status is Status.READY
    assert [signal.value for signal in woken.signals.values()] == [Body(b"\xc3")]
    other = then(parked_for_another(), SIGNAL)
    assert other.status is Status.PARKED


def parked_for_another() -> RunState:
    return state_of(Created(), Claimed(owner="o"), Parked(name="payment"))


def test_a_signal_without_a_value() -> None:
    (event,) = decide(state_of(Created()), replace(SIGNAL, value=None))
    assert isinstance(event, Signalled)
    assert event.value == Body(None)


def test_signals_that_nobody_reads_have_a_limit() -> None:
    signal = Signalled(name="x")
    full = state_of(Created(), *[signal] * SIGNALS_MAX)
    assert "unread" in refusal(full, SIGNAL)
    almost = state_of(Created(), *[signal] * (SIGNALS_MAX - 1))
    assert isinstance(decide(almost, SIGNAL)[0], Signalled)


def test_cancel_ends_the_run_whatever_it_does() -> None:
    for state in (state_of(Created()), in_doubt(), in_doubt(Held(reason="in_doubt"))):
        events = decide(state, CANCEL)
        assert [type(event) for event in events] == [Commanded, Failed]
        assert then(state, CANCEL).status is Status.CANCELLED
        assert state.reason == "cancelled by ann: typo"


REWIND = Command(id="c1", run="run", what="rewind", by="ann", to=3)


def test_a_run_is_stopped_to_be_set_back_and_nobody_takes_it_up_meanwhile() -> None:
    for state in (state_of(Created()), state_of(Created(), Parked(name="x"))):
        events = decide(state, REWIND)
        assert [type(event) for event in events] == [Commanded, Held]
        assert then(state, REWIND).status is Status.HELD
        assert state.reason == "rewind: by ann"
    back = state_of(Created(), Compensating(by="ada"))
    assert "is being taken back" in refusal(back, REWIND)
    assert "is finished" in refusal(state_of(Created(), Finished()), REWIND)


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("applied", CallState.DONE),
        ("not_applied", CallState.NOT_APPLIED),
        ("retry", CallState.NOT_APPLIED),
    ],
)
def test_the_last_doubt_resolved_frees_a_run_held_for_it(verdict: str, expected: CallState) -> None:
    state = in_doubt(Held(reason="in_doubt: calls [3]"))
    assert state.status is Status.HELD
    freed = then(state, replace(RESOLVE, verdict=verdict, value=b"\x01"))
    assert freed.status is Status.READY
    assert freed.calls[3].state is expected
    (record,) = [r for r in freed.records.values() if isinstance(r.event, Resolved)]
    assert isinstance(record.event, Resolved)
    assert (record.event.by, record.event.verdict) == ("ann", verdict)


def test_what_was_sent_a_moment_ago_is_sent_again_only_by_force() -> None:
    early = replace(RESOLVE, verdict="retry", at_ms=3000)
    assert "in 8 s, or with --force" in refusal(in_doubt(), early, now_ms=3000)
    (event,) = decide(in_doubt(), replace(early, force=True), now_ms=3000)
    assert isinstance(event, Resolved)


def test_what_was_decided_before_the_newest_attempt_is_to_be_decided_anew() -> None:
    stale = replace(RESOLVE, verdict="not_applied", attempt=0, force=True)
    assert "sent_again_since; look again" in refusal(in_doubt(), stale)
    looked_early = replace(RESOLVE, verdict="not_applied", at_ms=3000)
    assert "probe_not_settled; look again" in refusal(in_doubt(), looked_early)
    with pytest.raises(BadObject, match="when it was decided"):
        decode_command("c", encode_command(replace(RESOLVE, at_ms=0)))


def test_only_a_call_in_doubt_can_be_resolved() -> None:
    assert "no_such_call" in refusal(in_doubt(), replace(RESOLVE, call=99))
    flying = state_of(
        Created(), Claimed(owner="o"), Intent(call=3, birth=BIRTH), Dispatched(call=3, attempt=1)
    )
    assert "in_flight" in refusal(flying, RESOLVE)
    known = in_doubt(CallOutcome(call=3, attempt=1, what="not_applied", reason="refused"))
    assert "not_in_doubt" in refusal(known, RESOLVE)


def test_a_refusal_outlives_checkpoints_until_its_sender_must_have_read_it() -> None:
    def refusals(state: RunState) -> list[int]:
        return [n for n, r in state.records.items() if isinstance(r.event, Commanded)]

    state = then(state_of(Created(), Claimed(owner="o")), RETRY)
    (seq,) = refusals(state)
    for step in range(1, COMMANDS_MAX + 1):
        signal = Signalled(name="x", command=f"s{step}")
        state.apply(Record(state.seq + 1, 2, LONG_AFTER_MS, signal))
        checkpoint = Checkpoint(step=step, step_high=step, consumed=(state.seq,))
        state.apply(Record(state.seq + 1, 2, LONG_AFTER_MS, checkpoint))
        assert refusals(state) == ([seq] if "c1" in state.commands else [])
    assert refusals(state) == []


def test_retry_lets_a_held_run_go_on_and_forgets_its_crashes() -> None:
    held = state_of(Created(), Claimed(owner="o", crashes=5), Held(reason="crash_loop"))
    state = then(held, RETRY)
    assert (state.status, state.crashes) == (Status.READY, 0)


def test_retry_of_a_run_that_nothing_holds_or_that_doubts_hold() -> None:
    assert "is ready, not held" in refusal(state_of(Created()), RETRY)
    doubting = in_doubt(Held(reason="in_doubt: calls [3]"))
    assert "[3] are in doubt" in refusal(doubting, RETRY)


# Compensate

COMPENSATE = Command(id="c1", run="r", what="compensate", by="ann", why="wrong customer")
FINAL = Undo(call=3, key="k", tool="mail", is_irreversible=True)


@pytest.mark.parametrize("last", [Parked(name="approval"), Held(reason="crash_loop")])
def test_a_run_that_stands_still_is_taken_back(last: Event) -> None:
    state = then(state_of(Created(), Claimed(owner="o"), last), COMPENSATE)
    assert state.status is Status.COMPENSATING
    assert state.compensating == Compensating(by="ann", why="wrong customer", command="c1")
    assert "already" in refusal(state, COMPENSATE)


def test_an_owned_run_stays_its_owners_until_that_lets_go() -> None:
    state = then(state_of(Created(), Claimed(owner="o")), replace(COMPENSATE, then="resubmit"))
    assert state.status is Status.OWNED
    assert state.compensating is not None
    assert state.compensating.then == "resubmit"


def test_what_can_not_be_taken_back_is_said() -> None:
    state = in_doubt(CallOutcome(call=3, attempt=1, what="done"), FINAL)
    assert refusal(state, COMPENSATE) == (
        "call 3 (mail) is done and irreversible: run r goes forward"
    )
    assert "is finished" in refusal(state_of(Created(), Finished()), COMPENSATE)


def test_a_run_whose_successor_could_have_no_name_is_refused() -> None:
    long = replace(COMPENSATE, then="resubmit")
    state = fold("r" * 127, [Record(1, 0, 0, Created())])
    assert "too long" in refusal(state, long)
    assert isinstance(decide(state, COMPENSATE)[0], Compensating)


def test_what_is_to_follow_is_end_or_resubmit() -> None:
    assert decode_command("x", encode_command(replace(COMPENSATE, then="end"))).then == "end"
    with pytest.raises(BadObject, match="unknown `then` 'again'; upgrade"):
        decode_command("x", encode_command(replace(COMPENSATE, then="again")))


def test_the_head_of_an_answer_must_be_one() -> None:
    for head in (b"\xc1", 5):
        with pytest.raises(BadObject, match="not a command"):
            decode_command("x", encode_command(replace(RESOLVE, head=head)))  # type: ignore[arg-type]
    said = replace(RESOLVE, value=b"ok", head=encode_head(Head(201)))
    assert decode_command("x", encode_command(said)) == said
    answer = then(in_doubt(), said).calls[3].outcome
    assert answer == Outcome(OutcomeKind.RESULT, Body(b"ok"), said.head)


def test_of_a_run_that_is_over_its_doubts_can_still_be_settled() -> None:
    for verdict, state in (("applied", CallState.DONE), ("not_applied", CallState.NOT_APPLIED)):
        said = replace(RESOLVE, verdict=verdict, force=True)
        after = then(in_doubt(Failed(error="deadline")), said)
        assert (after.calls[3].state, after.status) == (state, Status.FAILED)
        assert not after.undos
    doubt = in_doubt(Failed(error="deadline"))
    assert "is failed" in refusal(doubt, replace(RESOLVE, verdict="retry", force=True))


def test_what_somebody_says_of_a_call_makes_its_undo() -> None:
    born = replace(BIRTH, handler="refund")
    state = state_of(
        Created(),
        Claimed(owner="o"),
        Intent(call=3, birth=born),
        Dispatched(call=3, attempt=1),
        CallOutcome(call=3, attempt=1, what="in_doubt", reason="lost"),
    )
    after = then(state, replace(RESOLVE, value=b"\xa2ok"))
    assert after.calls[3].state is CallState.DONE
    assert after.undos[3] == Undo(
        call=3, key="k", tool="charge", step=1, handler="refund", body=Body(b"\xa2ok")
    )
