"""What is learned of a call after the fact: late answers, probes, operators, processes."""

from dataclasses import replace

import pytest

from coatcheck_sidecar.core.call import AGAIN
from coatcheck_sidecar.core.call_events import (
    Alarm,
    Asked,
    CallEffect,
    Code,
    Decision,
    Deliver,
    Ended,
    Ending,
    Hold,
    Join,
    Life,
    Probe,
    Probed,
    Refuse,
    Replay,
    Reported,
    Resolution,
    Resolved,
    Restarted,
    Send,
    Wait,
    WriteDispatched,
    WriteDoubt,
    WriteNotApplied,
    WriteOutcome,
    WriteResolved,
)
from coatcheck_sidecar.core.model import (
    UNDO_KEY,
    Body,
    CallClass,
    CallState,
    Level,
    Outcome,
    OutcomeKind,
)
from tests.core.calls import EPOCH, RESULT, T0_MS, UNKEPT, draft, kinds, recorded, told

R, I, K, P, U = CallClass  # noqa: E741 - the table's columns
DAY_MS = 86_400_000


@pytest.mark.parametrize("call_class", [I, K, P, U])
def test_a_late_answer_resolves_doubt(call_class: CallClass) -> None:
    call = recorded(call_class, CallState.IN_DOUBT)
    assert kinds(told(call, Ended(1, Ending.FINAL, RESULT))) == [WriteOutcome, Deliver]
    assert kinds(told(call, Ended(1, Ending.SHED))) == [WriteNotApplied, Wait]
    doubtful = told(call, Ended(1, Ending.LOST))
    assert doubtful.state == call
    assert WriteDoubt not in kinds(doubtful)


def test_an_answer_that_contradicts_not_applied_raises_an_alarm() -> None:
    call = recorded(U, CallState.NOT_APPLIED)
    late = told(call, Ended(1, Ending.FINAL, RESULT))
    assert kinds(late) == [WriteOutcome, Deliver, Alarm]
    assert told(late.state, Asked(draft(U))).effects == (Replay(RESULT),)
    for harmless in (Ending.REJECTED, Ending.LOST, Ending.SHED):
        assert told(call, Ended(1, harmless, RESULT)) == Decision(call, (AGAIN,))


def test_an_older_attempt_of_a_guarded_call_should_not_have_been_applied() -> None:
    for state in (CallState.DISPATCHED, CallState.IN_DOUBT):
        call = recorded(U, state, attempt=2)
        late = told(call, Ended(1, Ending.FINAL, RESULT))
        assert (late.state, kinds(late)) == (call, [Wait, Alarm])
    settled = recorded(U, CallState.NOT_APPLIED, attempt=2)
    assert kinds(told(settled, Ended(1, Ending.FINAL, RESULT)))[-1] is Alarm


def test_an_older_attempt_of_another_call_may_answer_for_it() -> None:
    for state in (CallState.DISPATCHED, CallState.IN_DOUBT, CallState.NOT_APPLIED):
        call = recorded(K, state, attempt=2)
        assert kinds(told(call, Ended(1, Ending.FINAL, RESULT))) == [WriteOutcome, Deliver]
        assert told(call, Ended(1, Ending.SHED)) == Decision(call, (AGAIN,))


@pytest.mark.parametrize(
    "state", [CallState.INTENT, CallState.DONE, CallState.COMPENSATED, CallState.TOMBSTONE]
)
def test_news_that_changes_nothing_lets_whoever_waits_ask_again(state: CallState) -> None:
    call = recorded(U, state)
    for event in (Ended(1, Ending.FINAL, UNKEPT), Probed(1, applied=True, sent_ms=T0_MS)):
        assert told(call, event) == Decision(call, (AGAIN,))


def test_probes() -> None:
    call = recorded(P, CallState.IN_DOUBT)
    settled_ms = T0_MS + 15_000
    yes = told(call, Probed(1, applied=True, sent_ms=T0_MS, outcome=RESULT))
    assert (kinds(yes), told(yes.state, Asked(draft(P))).effects) == (
        [WriteResolved, Wait],
        (Replay(RESULT),),
    )
    early = told(call, Probed(1, applied=False, sent_ms=T0_MS + 3_000), now_ms=T0_MS + 5_000)
    assert early == Decision(call, (Wait(10.0),))
    sent_early = Probed(1, applied=False, sent_ms=settled_ms - 1)
    assert told(call, sent_early, now_ms=settled_ms + 500) == Decision(call, (AGAIN,))
    no = told(call, Probed(1, applied=False, sent_ms=settled_ms), now_ms=settled_ms)
    assert kinds(no) == [WriteResolved, Wait]
    assert Send in kinds(told(no.state, Asked(draft(P))))
    other = Probed(2, applied=False, sent_ms=settled_ms)
    assert told(call, other) == Decision(call, (AGAIN,))


def test_a_no_that_cannot_be_waited_for_holds() -> None:
    held = (Hold(Code.IN_DOUBT, "probe_not_settled", (7,)),)
    call = recorded(P, CallState.IN_DOUBT)
    assert told(call, Probed(1, applied=False, sent_ms=T0_MS), patience_s=14).effects == held
    unset = recorded(P, CallState.IN_DOUBT, settle_s=None)
    assert told(unset, Asked(draft(P))).effects == (Probe(1, None),)
    late = Probed(1, applied=False, sent_ms=T0_MS + DAY_MS)
    assert told(unset, late, now_ms=T0_MS + DAY_MS).effects == held


@pytest.mark.parametrize(
    ("resolution", "answer"),
    [
        (Resolution.APPLIED, Replay),
        (Resolution.NOT_APPLIED, Send),
        (Resolution.RETRY, Send),
        (Resolution.COMPENSATE, Hold),
    ],
)
def test_operators_decide(resolution: Resolution, answer: type[CallEffect]) -> None:
    event = Resolved(resolution, "ann", "asked the bank", outcome=RESULT)
    unknown = replace(RESULT, kind=OutcomeKind.UNKNOWN)
    for call in (
        recorded(U, CallState.IN_DOUBT),
        recorded(U, CallState.DONE, outcome=unknown),
    ):
        early = told(call, event, now_ms=T0_MS + 9_750)
        if answer is Send:
            refused = Refuse(Code.CONFLICT, 409, "probe_not_settled", 0.25)
            assert early == Decision(call, (refused,))
            early = told(call, replace(event, force=True))
        written = early.effects[0]
        assert isinstance(written, WriteResolved)
        assert (written.by, written.why) == ("ann", "asked the bank")
        settled = told(call, event, now_ms=T0_MS + 10_000)
        for decision in (early, settled):
            assert kinds(told(decision.state, Asked(draft(U))))[-1] is answer


@pytest.mark.parametrize("resolution", [Resolution.NOT_APPLIED, Resolution.RETRY])
def test_a_decision_does_not_speak_of_what_was_sent_after_it(resolution: Resolution) -> None:
    call = recorded(U, CallState.IN_DOUBT)
    later_ms = call.last_sent_ms + 60_000
    stale = Resolved(resolution, "ann", "looked", attempt=call.attempt - 1, at_ms=later_ms)
    for event in (stale, replace(stale, force=True)):
        since = Refuse(Code.CONFLICT, 409, "sent_again_since")
        assert told(call, event, now_ms=later_ms) == Decision(call, (since,))
    looked_early = replace(stale, attempt=call.attempt, at_ms=call.last_sent_ms)
    early = Refuse(Code.CONFLICT, 409, "probe_not_settled", 0.0)
    assert told(call, looked_early, now_ms=later_ms) == Decision(call, (early,))
    done = replace(looked_early, at_ms=later_ms)
    assert isinstance(told(call, done, now_ms=later_ms).effects[0], WriteResolved)


def test_what_was_seen_to_be_applied_stays_so_whatever_was_sent_since() -> None:
    call = recorded(U, CallState.IN_DOUBT)
    seen = Resolved(Resolution.APPLIED, "ann", attempt=call.attempt - 1, at_ms=0, outcome=RESULT)
    assert isinstance(told(call, seen).effects[0], WriteResolved)


def test_there_must_be_something_to_decide() -> None:
    event = Resolved(Resolution.RETRY, "ann", force=True)
    refusals = [
        (None, Refuse(Code.NOT_FOUND, 404, "no_such_call")),
        (recorded(R, CallState.IN_DOUBT), Refuse(Code.NOT_FOUND, 404, "no_such_call")),
        (recorded(U, CallState.DISPATCHED), Refuse(Code.IN_FLIGHT, 409, "in_flight")),
        (recorded(U, CallState.DONE), Refuse(Code.CONFLICT, 409, "not_in_doubt")),
        (recorded(I, CallState.IN_DOUBT), Refuse(Code.CONFLICT, 409, "not_in_doubt")),
    ]
    for call, refusal in refusals:
        assert told(call, event) == Decision(call, (refusal,))


@pytest.mark.parametrize("kind", [OutcomeKind.NOT_RETAINED, OutcomeKind.TRUNCATED])
def test_an_answer_that_was_lost_can_be_given_and_nothing_else_said_of_it(
    kind: OutcomeKind,
) -> None:
    call = replace(recorded(U, CallState.DONE), outcome=Outcome(kind, Body(b"part")))
    given = told(call, Resolved(Resolution.APPLIED, "ann", outcome=RESULT))
    assert given.state is not None
    assert given.state.outcome == RESULT
    assert isinstance(told(given.state, Asked(draft(U))).effects[0], Replay)
    for resolution in (Resolution.NOT_APPLIED, Resolution.RETRY):
        refused = told(call, Resolved(resolution, "ann", force=True))
        assert refused.effects == (Refuse(Code.CONFLICT, 409, "not_in_doubt"),)


def test_what_took_place_can_be_said_to_be_taken_back() -> None:
    event = Resolved(Resolution.COMPENSATE, "ann")
    undone = told(recorded(U, CallState.DONE), event)
    assert undone.state is not None
    assert undone.state.state is CallState.COMPENSATED
    assert isinstance(told(undone.state, Asked(draft(U))).effects[0], Hold)
    undo = replace(recorded(U, CallState.DONE), key=f"{UNDO_KEY}c:1")
    assert told(undo, event).effects == (Refuse(Code.CONFLICT, 409, "not_in_doubt"),)


@pytest.mark.parametrize("life", [Life.RUNNING, Life.DONE])
@pytest.mark.parametrize("state", [CallState.DISPATCHED, CallState.IN_DOUBT])
def test_a_sender_that_is_still_there_is_adopted(life: Life, state: CallState) -> None:
    call = recorded(U, state, reason="restarted")
    adopted = told(call, Reported(life, EPOCH + 1), now_ms=T0_MS + 5)
    assert adopted.effects == (WriteDispatched(1, EPOCH + 1, Level.REMOTE, T0_MS + 5),)
    joined = told(adopted.state, Asked(draft(U, epoch=EPOCH + 1)))
    assert joined.effects == (Join(),)
    idempotent = told(recorded(I, CallState.DISPATCHED), Reported(life, EPOCH + 1))
    assert idempotent.effects == (WriteDispatched(1, EPOCH + 1, Level.PROCESS, T0_MS),)


def test_what_never_started_is_not_applied() -> None:
    call = recorded(U, CallState.IN_DOUBT, reason="restarted")
    decision = told(call, Reported(Life.UNSTARTED, EPOCH + 1))
    assert decision.effects == (WriteNotApplied(1, "not_sent"),)
    assert Send in kinds(told(decision.state, Asked(draft(U))))


@pytest.mark.parametrize("life", Life)
def test_reports_do_not_undo_what_is_known(life: Life) -> None:
    event = Reported(life, EPOCH + 1)
    for call in (
        None,
        recorded(U, CallState.IN_DOUBT, reason="lost"),
        recorded(U, CallState.DONE),
        recorded(U, CallState.NOT_APPLIED),
    ):
        assert told(call, event) == Decision(call)


def test_a_restart_probes_by_itself_where_it_can() -> None:
    effects = {c: told(recorded(c, CallState.DISPATCHED), Restarted()).effects for c in CallClass}
    assert effects == {R: (), I: (), K: (), P: (Probe(1, 15.0),), U: ()}
    assert told(None, Restarted()) == Decision(None)


def test_news_of_a_call_that_nobody_knows() -> None:
    for event in (Ended(1, Ending.FINAL, RESULT), Probed(1, applied=True, sent_ms=T0_MS)):
        assert told(None, event) == Decision(None, (AGAIN,))
