"""The table, cell by cell, and the rules around it."""

from dataclasses import replace

import pytest

from coatcheck_sidecar.core.call import is_kept
from coatcheck_sidecar.core.call_events import (
    NOTHING,
    Asked,
    CallEffect,
    Code,
    Decision,
    Deliver,
    Ended,
    Ending,
    Hold,
    Join,
    Probe,
    Refuse,
    Replay,
    Restarted,
    Send,
    Wait,
    WriteDispatched,
    WriteDoubt,
    WriteIntent,
    WriteNotApplied,
    WriteOutcome,
)
from coatcheck_sidecar.core.http_outcome import Profile, ending
from coatcheck_sidecar.core.model import CallClass, CallState, Level, OutcomeKind
from tests.core.calls import EPOCH, RESULT, T0_MS, UNKEPT, draft, kinds, recorded, told

R, I, K, P, U = CallClass  # noqa: E741 - the table's columns
DAY_MS = 86_400_000
SAVES = Profile(saves_errors=True, sheds_by_503=True)


def http(status: int, *, retry_after_s: float | None = None, is_cut: bool = False) -> Ended:
    has_retry_after = retry_after_s is not None
    how = ending(status, profile=Profile(), has_retry_after=has_retry_after, is_cut=is_cut)
    return Ended(1, how, RESULT, retry_after_s)


def by_profile(status: int) -> Ended:
    return Ended(1, ending(status, profile=SAVES, has_retry_after=True), RESULT, 3.0)


def word(decision: Decision) -> str:
    """A decision on how an attempt ended, in the words of the rules."""
    call, last = decision.state, decision.effects[-1]
    if call is None:
        return "pass on"
    match call.state, last:
        case CallState.DONE, Deliver(final=True):
            assert call.outcome is not None
            kind = call.outcome.kind
            return {OutcomeKind.RESULT: "final", OutcomeKind.NOT_RETAINED: "unkept"}.get(
                kind, kind.value
            )
        case CallState.NOT_APPLIED, Wait():
            return "retry"
        case CallState.NOT_APPLIED, Deliver(final=False):
            return "deliver"
        case CallState.IN_DOUBT, Wait():
            return "resend" if call.call_class is K else "retry"
        case CallState.IN_DOUBT, Deliver(final=False):
            return "deliver"
        case CallState.IN_DOUBT, Probe():
            return "probe"
        case CallState.IN_DOUBT, Hold(Code.IN_DOUBT):
            return "hold"
        case _:
            raise AssertionError(f"{call.state}: {last}")


ENDINGS = {
    "not sent: DNS, TCP, TLS, lease": Ended(1, Ending.NOT_SENT),
    "reset or time-out after bytes": Ended(1, Ending.LOST),
    "head came, body cut short": http(200, is_cut=True),
    "429": http(429, retry_after_s=3.0),
    "421": http(421),
    "425": http(425),
    "503, profile: not applied": by_profile(503),
    "503, Retry-After alone": http(503, retry_after_s=3.0),
    "408": http(408),
    "503": http(503),
    "500": http(500),
    "500, profile: saved": by_profile(500),
    "401": http(401),
    "403": http(403),
    "407": http(407),
    "404": http(404),
    "409": http(409),
    "302": http(302),
    "200": http(200),
    "200, too big to keep": Ended(1, Ending.FINAL, UNKEPT),
}
TABLE = """
                                 | R       | I            | K            | P            | U
  not sent: DNS, TCP, TLS, lease | retry   | retry        | retry        | retry        | retry
  reset or time-out after bytes  | retry   | retry        | resend       | probe        | hold
  head came, body cut short      | retry   | retry        | resend       | probe        | truncated
  429                            | retry   | retry        | retry        | retry        | retry
  421                            | retry   | retry        | retry        | retry        | retry
  425                            | retry   | retry        | retry        | retry        | retry
  503, profile: not applied      | retry   | retry        | retry        | retry        | retry
  503, Retry-After alone         | retry   | retry        | resend       | probe        | hold
  408                            | retry   | retry        | resend       | probe        | hold
  503                            | retry   | retry        | resend       | probe        | hold
  500                            | retry   | retry        | resend       | probe        | unknown
  500, profile: saved            | retry   | retry        | final        | probe        | unknown
  401                            | deliver | deliver      | deliver      | deliver      | deliver
  403                            | deliver | deliver      | deliver      | deliver      | deliver
  407                            | deliver | deliver      | deliver      | deliver      | deliver
  404                            | final   | final        | final        | final        | final
  409                            | final   | final        | resend       | final        | final
  302                            | final   | final        | final        | final        | final
  200                            | final   | final        | final        | final        | final
  200, too big to keep           | pass on | unkept | unkept | unkept | unkept
"""
HEADER, *LINES = [[cell.strip() for cell in line.split("|")] for line in TABLE.split("\n")[1:-1]]
CELLS = [
    (line[0], CallClass(column), cell)
    for line in LINES
    for column, cell in zip(HEADER[1:], line[1:], strict=True)
]


@pytest.mark.parametrize(("how", "call_class", "expected"), CELLS)
def test_how_an_attempt_ended(how: str, call_class: CallClass, expected: str) -> None:
    call = recorded(call_class, CallState.DISPATCHED)
    assert word(told(call, ENDINGS[how])) == expected


def test_the_table_is_tested_whole() -> None:
    assert [line[0] for line in LINES] == list(ENDINGS)
    assert {event.ending for event in ENDINGS.values()} | {Ending.REJECTED} == set(Ending)


@pytest.mark.parametrize(
    ("call_class", "expected"), [(R, "send"), (I, "send"), (K, "send"), (P, "probe"), (U, "hold")]
)
def test_after_a_crash(call_class: CallClass, expected: str) -> None:
    doubted = told(recorded(call_class, CallState.DISPATCHED), Restarted()).state
    assert doubted is not None
    assert (doubted.state, doubted.reason) == (CallState.IN_DOUBT, "restarted")
    decision = told(doubted, Asked(draft(call_class, epoch=EPOCH + 1)))
    names = {Send: "send", Probe: "probe", Hold: "hold"}
    assert names[kinds(decision)[-1]] == expected


def test_a_dead_key_is_held_at_once_and_when_asked_again() -> None:
    call = recorded(K, CallState.DISPATCHED)
    late = told(call, Ended(1, Ending.LOST), now_ms=T0_MS + DAY_MS)
    held = Hold(Code.IN_DOUBT, "key_expired", (7,))
    assert late.effects == (WriteDoubt(1, "lost", T0_MS + DAY_MS), held)
    again = told(late.state, Asked(draft(K)), now_ms=T0_MS + DAY_MS)
    assert again.effects == (held,)


@pytest.mark.parametrize("call_class", CallClass)
def test_taken_over_and_a_record_may_be_missing(call_class: CallClass) -> None:
    """Of guarded calls none can be: it is in the head before they leave."""
    decision = told(None, Asked(draft(call_class), gap_ms=T0_MS - DAY_MS))
    assert (Send in kinds(decision)) == (call_class is not K)
    if call_class is K:
        assert kinds(decision) == [WriteIntent, WriteDoubt, Wait]
        held = told(decision.state, Asked(draft(call_class)))
        assert kinds(held) == [Hold]
        shipped = Asked(draft(call_class), Level.REMOTE, gap_ms=T0_MS - DAY_MS)
        assert Send in kinds(told(None, shipped))
        assert decision.state is not None
        assert decision.state.state is CallState.IN_DOUBT


def test_a_key_that_may_be_known_already_lives_for_as_much_less() -> None:
    half_ms = 1_800_000
    sent = told(None, Asked(draft(K), gap_ms=T0_MS - half_ms))
    assert Send in kinds(sent)
    lost = told(sent.state, Ended(1, Ending.LOST)).state
    for later_ms, then in ((half_ms - 61_000, Send), (half_ms, Hold)):
        assert kinds(told(lost, Asked(draft(K)), now_ms=T0_MS + later_ms))[-1] is then


@pytest.mark.parametrize(
    ("call_class", "expected"), [(R, Send), (I, Send), (K, Hold), (P, Hold), (U, Hold)]
)
def test_what_was_too_big_to_keep_is_fetched_again_or_held(
    call_class: CallClass, expected: type[CallEffect]
) -> None:
    call = recorded(call_class, CallState.DONE, outcome=UNKEPT)
    decision = told(call, Asked(draft(call_class)))
    assert kinds(decision)[-1] is expected
    if expected is Hold:
        assert decision.effects == (Hold(Code.HELD, "response_not_retained", (7,)),)


@pytest.mark.parametrize("call_class", CallClass)
def test_a_new_call_is_written_before_it_is_sent(call_class: CallClass) -> None:
    call = draft(call_class)
    decision = told(None, Asked(call, level=Level.PROCESS))
    level = Level.REMOTE if call_class in (P, U) else Level.PROCESS
    before = (WriteIntent(call), WriteDispatched(1, EPOCH, level, T0_MS))
    assert decision.effects == (*(() if call_class is R else before), Send(1, "up"))


@pytest.mark.parametrize("state", CallState)
def test_another_request_under_the_same_key_is_never_served(state: CallState) -> None:
    call = recorded(U, state)
    decision = told(call, Asked(draft(U, fingerprint=b"other")))
    refused = Refuse(Code.CONFLICT, 422, "key_used_with_another_request")
    assert decision == Decision(call, (refused,))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (CallState.DISPATCHED, Join()),
        (CallState.DONE, Replay(RESULT)),
        (CallState.IN_DOUBT, Hold(Code.IN_DOUBT, "lost", (7,))),
        (CallState.COMPENSATED, Hold(Code.HELD, "compensated", (7,))),
        (CallState.TOMBSTONE, Hold(Code.HELD, "answer_no_longer_kept", (7,))),
    ],
)
def test_a_guarded_call_asked_again(state: CallState, expected: CallEffect) -> None:
    call = recorded(U, state)
    assert told(call, Asked(draft(U))) == Decision(call, (expected,))


@pytest.mark.parametrize("state", [CallState.INTENT, CallState.NOT_APPLIED])
def test_what_was_not_sent_or_not_applied_is_sent_under_the_same_key(state: CallState) -> None:
    call = recorded(U, state)
    attempt = call.attempt + 1
    sent = (WriteDispatched(attempt, EPOCH, Level.REMOTE, T0_MS), Send(attempt, "up"))
    assert told(call, Asked(draft(U))).effects == sent


def test_in_flight_in_another_epoch_is_for_later() -> None:
    call = recorded(U, CallState.DISPATCHED, epoch=EPOCH - 1)
    refused = Refuse(Code.IN_FLIGHT, 409, "in_flight_in_another_epoch", 1.0)
    assert told(call, Asked(draft(U))).effects == (refused,)


@pytest.mark.parametrize("call_class", CallClass)
def test_what_must_wait_its_turn_is_an_intent(call_class: CallClass) -> None:
    waits = told(None, Asked(draft(call_class), wait_s=2.0))
    opening = [] if call_class is R else [WriteIntent]
    assert kinds(waits) == [*opening, Wait]
    assert waits.state == draft(call_class)
    assert Send in kinds(told(waits.state, Asked(draft(call_class))))


@pytest.mark.parametrize("kind", [OutcomeKind.TRUNCATED, OutcomeKind.UNKNOWN])
def test_half_known_answers_are_replayed_and_never_fired_again(kind: OutcomeKind) -> None:
    outcome = replace(RESULT, kind=kind)
    call = recorded(U, CallState.DONE, outcome=outcome)
    assert told(call, Asked(draft(U))).effects == (Replay(outcome),)


def test_a_read_writes_only_with_its_answer() -> None:
    sent = told(None, Asked(draft(R)))
    assert sent.effects == (Send(1, "up"),)
    lost = told(sent.state, Ended(1, Ending.LOST))
    assert lost.effects == (Wait(0.5),)
    again = told(lost.state, Asked(draft(R)))
    assert again.effects == (Send(2, "up"),)
    done = told(again.state, Ended(2, Ending.FINAL, RESULT))
    assert done.effects == (
        WriteIntent(draft(R)),
        WriteOutcome(2, RESULT, T0_MS),
        Deliver(final=True),
    )
    assert told(done.state, Asked(draft(R))).effects == (Replay(RESULT),)


def test_a_read_whose_intent_is_in_the_log_has_no_second_one() -> None:
    sent = told(recorded(R, CallState.INTENT), Asked(draft(R))).state
    assert kinds(told(sent, Ended(1, Ending.FINAL, RESULT))) == [WriteOutcome, Deliver]


@pytest.mark.parametrize(
    ("attempt", "retry_after_s", "patience_s", "expected"),
    [
        (1, None, 60, Wait(0.5)),
        (2, None, 60, Wait(1.0)),
        (4, None, 60, Wait(4.0)),
        (5, None, 60, Wait(8.0)),
        (999, None, 60, Wait(8.0)),
        (1, 3.0, 60, Wait(3.0)),
        (1, 0.0, 0, Wait(0.0)),
        (1, 61.0, 60, Deliver(final=False)),
        (1, None, 0, Deliver(final=False)),
    ],
)
def test_retries_last_as_long_as_the_agent_waits(
    attempt: int, retry_after_s: float | None, patience_s: float, expected: CallEffect
) -> None:
    call = recorded(U, CallState.DISPATCHED, attempt=attempt)
    event = Ended(attempt, Ending.SHED, NOTHING, retry_after_s)
    decision = told(call, event, patience_s=patience_s)
    assert decision.effects == (WriteNotApplied(attempt, "shed"), expected)


def test_an_earlier_doubt_outlives_a_refusal_of_the_resend() -> None:
    lost = told(recorded(K, CallState.DISPATCHED), Ended(1, Ending.LOST)).state
    resent = told(lost, Asked(draft(K))).state
    shed = told(resent, Ended(2, Ending.SHED))
    assert word(shed) == "resend"
    late = told(shed.state, Asked(draft(K)), now_ms=T0_MS + DAY_MS)
    assert late.effects == (Hold(Code.IN_DOUBT, "key_expired", (7,)),)


@pytest.mark.parametrize(
    ("ending", "kept"),
    [
        (Ending.FINAL, {R, I, K, P, U}),
        (Ending.REJECTED, {R, I, K, P, U}),
        (Ending.CUT, {U}),
        (Ending.ERROR, {U}),
        (Ending.SHED, set()),
        (Ending.BUSY, set()),
        (Ending.DENIED, set()),
        (Ending.LOST, set()),
        (Ending.NOT_SENT, set()),
    ],
)
def test_which_answers_end_their_call(ending: Ending, kept: set[CallClass]) -> None:
    assert {call_class for call_class in CallClass if is_kept(ending, call_class)} == kept
