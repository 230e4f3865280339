"""The tool calls of one owned run: performs what `core/call.py` decides, in its order."""

import asyncio
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core.call import decide
from coatcheck_sidecar.core.call_events import (
    Alarm,
    Asked,
    CallEffect,
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
    Send,
    Wait,
    WriteDispatched,
)
from coatcheck_sidecar.core.call_events import Event as CallEvent
from coatcheck_sidecar.core.doubt import Rules
from coatcheck_sidecar.core.model import (
    NO_BODY,
    Body,
    Call,
    CallState,
    Level,
    Outcome,
    OutcomeKind,
)
from coatcheck_sidecar.core.policy import Ask, AskedSoFar, Identified, also, identify, resumed
from coatcheck_sidecar.core.record import Event
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.writes import events_of
from coatcheck_sidecar.engine.attempts import (
    READS_FROM,
    Answer,
    AskUpstream,
    Changes,
    Follows,
    Go,
    Pending,
    Reads,
    Recorded,
    Turn,
    latest_start_s,
    refusal_of,
    refuse_start,
    sends,
    word_of,
)
from coatcheck_sidecar.engine.keeper import Keeper

KEY_MARGIN_S: Final = 60.0
"""A key counts as forgotten this long before its lifetime is over: clocks differ."""
NOTHING_ASKED: Final = AskedSoFar()


class Calls:
    """One run's calls, for one agent at a time."""

    def __init__(self, keeper: Keeper) -> None:
        """Begins as for a new incarnation."""
        self._keeper = keeper
        self._state = keeper.log.state
        settings = keeper.doors.settings
        self._rules = Rules(pause_max_s=settings.pause_max_s, key_margin_s=KEY_MARGIN_S)
        self._join_s = settings.join_wait_s
        self._asked = NOTHING_ASKED
        self._unasked = set(self._state.by_key)
        """Keys of the log that `_asked` has not: few, where all calls may be thousands."""
        self._reads = Reads(self._state.epoch)
        self._probing: dict[int, Pending] = {}
        self._in_flight: set[int] = set()
        """Calls that this process is sending itself."""
        changes = self._changes = Changes()
        self.changed, self.wait_for_change = changes.tell, changes.wait
        self.writing = changes.writing
        keeper.on_new_step = self.begin

    def begin(self) -> None:
        """A new step, or a new life of the agent: ordinals begin anew."""
        self._asked = NOTHING_ASKED
        self._unasked = set(self._state.by_key)
        self._reads.begin(self.step)
        self._probing.clear()
        self.changed()

    @property
    def step(self) -> int:
        """The step under way."""
        return self._state.step + 1

    async def resume(
        self,
        epoch: int,
        lives: Mapping[int, Life],
        *,
        answered: frozenset[int] | None,
        is_known: bool,
    ) -> None:
        """The same agent is back on a new connection: calls of its epoch stand as it says.

        One that it does not name never reached it. `answered` are calls of its step whose answer
        it has, `is_known` says that this process heard all its askings.
        """
        await self.adopt()
        for call in list(self._state.calls.values()):
            is_its_own = call.epoch == epoch and not call.is_relayed
            if is_its_own and call.state is CallState.IN_DOUBT:
                life = lives.get(call.number, Life.UNSTARTED)
                report = Reported(life, self._state.epoch)
                await self._perform(self._decide(call, report), call.key)
        if not is_known:
            self._asked = resumed(
                self._state.calls.values(),
                step=self._state.step + 1,
                since=self._state.claimed.since,
                epoch=epoch,
                answered=answered,
            )
            self._unasked = self._state.by_key.keys() - self._asked.keys

    async def adopt(self) -> None:
        """The run was claimed anew: what this process is sending goes on under the new epoch."""
        self._reads.adopt(self._state.epoch)
        for number in sorted(self._in_flight):
            call = self._state.calls.get(number)
            if call is not None and call.state is CallState.IN_DOUBT:
                report = Reported(Life.RUNNING, self._state.epoch)
                await self._perform(self._decide(call, report), call.key)

    async def ask(self, ask: Ask, *, level: Level) -> Answer:
        """What to do about a call before it is made; raises `Refusal`."""
        draft = await self.identify(ask)
        return await self.ask_for(draft, level=level)

    async def identify(self, ask: Ask) -> Call:
        """Which call is asked for, as a draft of it; raises `Refusal`."""
        clock = self._keeper.doors.clock
        until_s = clock.monotonic() + self._keeper.doors.settings.orphan_wait_s
        while True:
            self._keeper.check_owned()
            calls = ChainMap(self._reads.by_key, self._state.by_key)
            found = identify(
                ask,
                self._asked,
                calls=calls,
                in_the_way=self._in_the_way(),
                epoch=self._state.epoch,
                wait_left_s=until_s - clock.monotonic(),
            )
            match found:
                case Identified(draft, asked):
                    self._asked = asked
                    self._unasked.discard(draft.key)
                    self.changed()
                    return draft
                case Wait(delay_s):
                    await self.wait_for_change(delay_s)
                case Hold() | Refuse():
                    raise self._refusal(found, ask.tool)
                case None:
                    raise AssertionError("an SDK's asking always has an incarnation")

    def _in_the_way(self) -> list[Call]:
        """What of the log may keep a new call from beginning."""
        by_key = self._state.by_key
        unasked = [by_key[key] for key in self._unasked if key in by_key]
        return [*unasked, *self._state.unsettled.values()]

    async def ask_for(
        self,
        draft: Call,
        *,
        level: Level,
        turn: Turn | None = None,
        patience_s: float | None = None,
    ) -> Answer:
        """What to do about the call that `identify` named, now; raises `Refusal`.

        `patience_s` is how long the agent waits for an equal call that is in flight.
        """
        clock = self._keeper.doors.clock
        join_s = self._join_s if patience_s is None else patience_s
        until_s = clock.monotonic() + join_s
        is_joined = False
        while True:
            self._keeper.check_owned()
            if turn is not None:
                await turn(self._known(draft.key))
                self._keeper.check_owned()
            call = self._known(draft.key)
            if draft.epoch != self._state.epoch:
                draft = replace(draft, epoch=self._state.epoch)
            gap_ms, blind = self._state.gap_ms, self._state.checkpoint.blind
            asked = Asked(draft, level, gap_ms=gap_ms, is_blind=draft.step <= blind)
            decision = self._decide(call, asked)
            refuse_start(self._keeper, decision, draft=call or draft)
            is_joined = is_joined or any(isinstance(e, Join) for e in decision.effects)
            answer = await self._perform(decision, draft.key)
            if isinstance(answer, AskUpstream):
                self._probing[answer.call.number] = Pending(draft, level, self._keeper.now_ms())
            elif isinstance(answer, Recorded):
                answer = replace(answer, is_joined=is_joined)
            if answer is not None:
                if not draft.is_relayed:  # those are noted with their answer
                    note, said = self._keeper.doors.observer.note, word_of(answer)
                    note("call", run=self._keeper.run, tool=draft.tool, decision=said)
                return answer
            if clock.monotonic() > until_s:
                why = f"an equal call to {draft.tool} is still in flight"
                raise Refusal(ErrorCode.IN_FLIGHT, why, retry=Retry.LATER)

    def _known(self, key: str) -> Call | None:
        return self._reads.by_key.get(key) or self._state.by_key.get(key)

    async def ended(
        self, number: int, attempt: int, *, ending: Ending, body: bytes | None, reason: str
    ) -> int:
        """An attempt is over; returns when that is durable, with the log's sequence number."""
        outcome = Outcome(OutcomeKind.RESULT, NO_BODY if body is None else Body(body))
        try:
            await self.over(number, Ended(attempt, ending, outcome), patience_s=0, level=Level.NODE)
        except Refusal as error:
            # That it is in doubt now is what the agent just told: an answer to its next asking.
            if error.code not in (ErrorCode.IN_DOUBT, ErrorCode.HELD):
                raise
        return self._state.seq

    async def over(
        self,
        number: int,
        event: Ended,
        *,
        patience_s: float,
        level: Level,
        is_heard: bool = True,
    ) -> Follows:
        """An attempt is over; returns what follows, when that is durable at `level`.

        Raises `Refusal` if the call is held now. Unless it `is_heard`, no agent gets the answer.
        """
        call = self._find(number)
        self._in_flight.discard(number)
        decision = self._decide(call, event, patience_s=patience_s)
        await self._record(decision, call.key, level=level)
        follows: Follows = Wait(0.0)
        for effect in decision.effects:
            if isinstance(effect, Wait | Deliver):
                follows = effect
            if not isinstance(effect, Wait) and (is_heard or not isinstance(effect, Deliver)):
                await self._act(effect, decision.state, key=call.key)
        return follows

    async def rest(self, key: str, delay_s: float) -> None:
        """Wait, but no longer than until something becomes of the call under `key`."""
        clock = self._keeper.doors.clock
        until_s = clock.monotonic() + delay_s
        call = self._known(key)
        while (left_s := until_s - clock.monotonic()) > 0 and self._known(key) is call:
            await self.wait_for_change(left_s)

    def left_open(self, key: str) -> None:
        """The answer under `key` did not reach the agent: the next equal asking is this call."""
        self._asked = self._asked.left_open(key)

    async def probed(
        self,
        number: int,
        attempt: int,
        *,
        applied: bool,
        body: bytes | None,
        patience_s: float | None = None,
    ) -> Answer:
        """The upstream was asked; what to do now.

        A sidecar that came back does not know when: then a "no" proves nothing.
        """
        call = self._find(number)
        if number not in self._probing:  # it was asked for of a former life
            self._asked = also(call, self._asked)
        pending = self._probing.pop(number, Pending(call, Level.NODE, sent_ms=0))
        outcome = Outcome(OutcomeKind.RESULT, NO_BODY if body is None else Body(body))
        event = Probed(attempt, applied, pending.sent_ms, outcome)
        await self._perform(self._decide(call, event, patience_s=patience_s), call.key)
        return await self.ask_for(pending.draft, level=pending.level, patience_s=patience_s)

    def _find(self, number: int) -> Call:
        call = self._reads.find(number) or self._state.calls.get(number)
        if call is None:
            why = f"run {self._keeper.run} has no call {number}: ask for it again"
            raise Refusal(ErrorCode.NOT_FOUND, why, retry=Retry.SAME_KEY, call=number)
        return call

    def _decide(
        self, call: Call | None, event: CallEvent, *, patience_s: float | None = None
    ) -> Decision:
        if call is not None and call.number > READS_FROM:
            call = replace(call, number=0)
        return decide(
            call,
            event,
            now_ms=self._keeper.now_ms(),
            patience_s=self._join_s if patience_s is None else patience_s,
            rules=self._rules,
        )

    async def _perform(self, decision: Decision, key: str) -> Answer | None:
        """Write what is to be written, wait until it is durable, then act; `None`: ask again."""
        await self._record(decision, key, level=Level.NODE)
        answer = None
        for effect in decision.effects:
            answer = await self._act(effect, decision.state, key=key) or answer
        return answer

    async def _record(self, decision: Decision, key: str, *, level: Level) -> None:
        number = (decision.state.number if decision.state else 0) or self._state.seq + 1
        events = events_of(decision, call=number)
        for effect in decision.effects:
            if isinstance(effect, WriteDispatched):
                level = effect.level
        if events:
            if key not in self._asked.keys:  # of an errand of an earlier life of the agent
                self._unasked.add(key)
            with self.writing(number):
                await self._write(events, level=level, is_sent=sends(decision), key=key)
        if self._reads.remember(decision.state, is_recorded=bool(events), key=key) or events:
            self.changed()

    async def _write(self, events: list[Event], *, level: Level, is_sent: bool, key: str) -> None:
        records = self._keeper.append(*events)
        self.changed()
        try:
            await self._keeper.durable(records, level)
        except asyncio.CancelledError:
            if is_sent and (call := self._state.by_key.get(key)) is not None:
                self.take_back(call)
            raise

    def take_back(self, call: Call) -> None:
        """Nobody waits for the `go` any more: the attempt is known not to have left."""
        self._in_flight.discard(call.number)
        if call.number > READS_FROM:
            self._reads.forget(call.key)
        elif not self._keeper.is_over:
            ended = Ended(call.attempt, Ending.NOT_SENT)
            taken_back = self._decide(self._state.calls.get(call.number), ended)
            if events := events_of(taken_back, call=call.number):
                self._keeper.write_later(self._keeper.append(*events))
        self.changed()

    async def _act(self, effect: CallEffect, call: Call | None, *, key: str) -> Answer | None:
        match effect:
            case Send(_, upstream_key) if call is not None:
                return self._go(self._known(key) or call, upstream_key)
            case Replay() if call is not None and call.number in self._changes.unkept:
                await self._changes.kept(call.number, within_s=self._join_s)
            case Replay(outcome) if call is not None:
                return Recorded(call, outcome)
            case Probe() if call is not None:
                return AskUpstream(call)
            case Join():
                await self.rest(key, self._join_s)
            case Wait(delay_s):
                await self.rest(key, delay_s)
            case Deliver(final):
                self._asked = self._asked.settled(key) if final else self._asked.left_open(key)
            case Alarm(reason):
                number, run = call.number if call else 0, self._keeper.run
                self._keeper.doors.observer.note("alarm", run=run, call=number, reason=reason)
            case Hold() | Refuse():
                self.left_open(key)
                raise self._refusal(effect, call.tool if call else "")
            case _:
                pass
        return None

    def _go(self, call: Call, upstream_key: str) -> Go:
        if call.is_relayed and call.number < READS_FROM:
            self._in_flight.add(call.number)
        until_s = latest_start_s(call, self._keeper, rules=self._rules)
        return Go(call, upstream_key, until_s)

    def _refusal(self, effect: Hold | Refuse, tool: str) -> Refusal:
        return refusal_of(effect, run=self._keeper.run, tool=tool, calls=self._state.calls)
