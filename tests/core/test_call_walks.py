"""What holds over the whole table, and along any way through it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck_sidecar.core.call_events import (
    Alarm,
    Asked,
    Decision,
    Deliver,
    Ended,
    Ending,
    Event,
    Life,
    Probed,
    Refuse,
    Replay,
    Reported,
    Resolution,
    Resolved,
    Restarted,
    Send,
    WriteDispatched,
    WriteNotApplied,
    WriteOutcome,
    WriteResolved,
)
from coatcheck_sidecar.core.model import Call, CallClass, CallState, Level, OutcomeKind
from tests.core.calls import EPOCH, RESULT, T0_MS, UNKEPT, draft, folded, recorded, told, writes

HOUR_MS = 3_600_000


def states(call_class: CallClass) -> Iterator[Call | None]:
    yield None
    for state in CallState:
        yield recorded(call_class, state)
        yield recorded(call_class, state, attempt=2, earlier_doubt=True)
    yield recorded(call_class, CallState.IN_DOUBT, reason="restarted")
    yield recorded(call_class, CallState.IN_DOUBT, settle_s=None, key_lifetime_s=None)
    yield recorded(call_class, CallState.DONE, outcome=None)
    for kind in OutcomeKind:
        yield recorded(call_class, CallState.DONE, outcome=replace(RESULT, kind=kind))


def events(call_class: CallClass) -> Iterator[Event]:
    for call in (draft(call_class), draft(call_class, epoch=EPOCH + 1)):
        for wait_s, gap_ms, level in product((0.0, 1.0), (0, 1, T0_MS), Level):
            yield Asked(call, level, wait_s, gap_ms)
    yield Asked(draft(call_class, fingerprint=b"other"))
    for attempt, how, outcome in product((1, 2), Ending, (RESULT, UNKEPT)):
        yield Ended(attempt, how, outcome)
        yield Ended(attempt, how, outcome, 99.0)
    yield Restarted()
    for life in Life:
        yield Reported(life, EPOCH + 1)
    for attempt, applied, sent_ms in product((1, 2), (False, True), (T0_MS, T0_MS + HOUR_MS)):
        yield Probed(attempt, applied, sent_ms, RESULT)
    for resolution, force in product(Resolution, (False, True)):
        yield Resolved(resolution, "ann", "why", force, RESULT)


@pytest.mark.parametrize("call_class", CallClass)
def test_the_whole_table(call_class: CallClass) -> None:
    whole = product(states(call_class), events(call_class), (0, HOUR_MS), (0.0, 60.0))
    for call, event, later_ms, patience_s in whole:
        decision = told(call, event, now_ms=T0_MS + later_ms, patience_s=patience_s)
        check(call, event, decision)


def check(call: Call | None, event: Event, decision: Decision) -> None:
    check_write_ahead(event, decision)
    check_nothing_is_served_unchecked(call, event, decision)
    if (decision.state or call or draft(CallClass.ONCE)).call_class is CallClass.READ:
        assert not writes(decision) or WriteOutcome in map(type, decision.effects)
    elif not isinstance(event, Restarted):  # which the `claimed` record tells the log
        assert folded(call, writes(decision)) == decision.state
    if call is not None and call.state is CallState.DONE and not call.is_unsettled:
        is_refetch = Send in map(type, decision.effects)
        is_refetched = is_refetch and not call.call_class.is_guarded
        assert decision.state == call or is_refetched or is_said(call, event)


def is_said(call: Call, event: Event) -> bool:
    """An operator takes back what is done, or gives the answer that was lost."""
    if not isinstance(event, Resolved):
        return False
    is_given = call.lacks_answer and event.resolution is Resolution.APPLIED
    return is_given or event.resolution is Resolution.COMPENSATE


def check_write_ahead(event: Event, decision: Decision) -> None:
    effects = list(decision.effects)
    sends = [n for n, effect in enumerate(effects) if isinstance(effect, Send)]
    if sends:
        assert isinstance(event, Asked)
        (at,) = sends
        send, call = effects[at], decision.state
        assert isinstance(send, Send)
        assert call is not None
        assert (call.state, call.attempt) == (CallState.DISPATCHED, send.attempt)
        if call.call_class is not CallClass.READ:
            written = effects[at - 1]
            assert isinstance(written, WriteDispatched)
            assert written.attempt == send.attempt
            assert written.level is Level.REMOTE or not call.call_class.is_guarded
    for n, effect in enumerate(effects):
        if effect == Deliver(final=True) and decision.state is not None:
            assert any(isinstance(written, WriteOutcome) for written in effects[:n])


def check_nothing_is_served_unchecked(call: Call | None, event: Event, decision: Decision) -> None:
    if call is not None and isinstance(event, Asked) and event.draft.fingerprint == b"other":
        assert [type(effect) for effect in decision.effects] == [Refuse]
    if isinstance(event, Asked) and call is not None and call.state is CallState.IN_DOUBT:
        assert not (call.call_class.is_guarded and Send in map(type, decision.effects))
    replays = [effect for effect in decision.effects if isinstance(effect, Replay)]
    assert not replays or call is not None


# Walks: what a world does that we only hear of.


@dataclass
class World:
    """An upstream, and what anybody could honestly know of the attempts that reached it."""

    call_class: CallClass
    now_ms: int = T0_MS
    epoch: int = EPOCH
    call: Call | None = None
    sent: dict[int, int] = field(default_factory=dict)
    """Moment of each attempt that may have reached the upstream, and is not known to be void."""
    force: bool = False
    log: list[str] = field(default_factory=list)

    def feed(self, event: Event, *, patience_s: float = 60.0) -> None:
        self.log.append(repr(event))
        decision = told(self.call, event, now_ms=self.now_ms, patience_s=patience_s)
        check(self.call, event, decision)
        for effect in decision.effects:
            match effect:
                case Send(attempt):
                    self.on_send(attempt)
                case WriteNotApplied(attempt):
                    self.sent.pop(attempt, None)
                case WriteResolved(resolution=Resolution.NOT_APPLIED | Resolution.RETRY):
                    assert not isinstance(event, Probed) or self.is_settled(event.sent_ms)
                    self.sent.clear()
                case Alarm():
                    self.log.append("alarm")
                case _:
                    pass
        self.call = decision.state

    def is_settled(self, probed_ms: int) -> bool:
        return probed_ms >= max(self.sent.values(), default=0) + 15_000

    def on_send(self, attempt: int) -> None:
        if self.call_class.is_guarded:
            assert not self.sent, f"sent again without knowing: {self.log}"
        if self.call_class is CallClass.KEYED and self.sent:
            age_s = (self.now_ms - min(self.sent.values())) / 1000
            assert age_s < 3600.0 - 60.0, f"sent again under a key that is gone: {self.log}"
        self.sent[attempt] = self.now_ms


ASK = st.sampled_from(["ask", "ask elsewhere", "ask after a gap"])
END = st.tuples(st.just("end"), st.sampled_from(Ending), st.integers(0, 1), st.booleans())
PROBE = st.tuples(st.just("probe"), st.booleans(), st.integers(0, 20_000))
DECIDE = st.tuples(st.just("decide"), st.sampled_from(Resolution), st.booleans())
REPORT = st.tuples(st.just("report"), st.sampled_from(Life))
PAUSE = st.sampled_from([1_000, 20_000, 2 * HOUR_MS])
MOVE = st.one_of(ASK, ASK, END, END, PROBE, DECIDE, REPORT, PAUSE, st.just("restart"))


@settings(max_examples=400)
@given(st.sampled_from(CallClass), st.lists(MOVE, max_size=14))
def test_no_way_through_the_table_sends_twice_in_silence(
    call_class: CallClass, moves: list[object]
) -> None:
    world = World(call_class)
    for move in moves:
        step(world, move)


def step(world: World, move: object) -> None:
    attempt = world.call.attempt if world.call else 0
    match move:
        case int(pause_ms):
            world.now_ms += pause_ms
        case "restart":
            world.epoch += 1
            world.feed(Restarted())
        case "ask":
            world.feed(Asked(draft(world.call_class, epoch=world.epoch)))
        case "ask elsewhere":
            world.feed(Asked(draft(world.call_class, epoch=world.epoch + 1)))
        case "ask after a gap":
            call = draft(world.call_class, epoch=world.epoch)
            world.feed(Asked(call, gap_ms=world.now_ms - HOUR_MS))
        case "end", Ending() as how, int(back), bool(is_kept):
            world.feed(Ended(max(attempt - back, 0), how, RESULT if is_kept else UNKEPT))
        case "probe", bool(applied), int(took_ms):
            sent_ms = world.now_ms - took_ms
            world.feed(Probed(attempt, applied, sent_ms, RESULT))
        case "decide", Resolution() as resolution, bool(force):
            world.feed(Resolved(resolution, "ann", "why", force, RESULT))
        case "report", Life() as life:
            world.feed(Reported(life, world.epoch))
        case _:
            raise AssertionError(move)


def test_a_walk_notices_a_second_send() -> None:
    world = World(CallClass.ONCE)
    world.feed(Asked(draft(CallClass.ONCE)))
    world.call = recorded(CallClass.ONCE, CallState.NOT_APPLIED)  # which nobody said
    with pytest.raises(AssertionError, match="without knowing"):
        world.feed(Asked(draft(CallClass.ONCE)))
