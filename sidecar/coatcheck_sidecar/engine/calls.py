"""The tool calls of one owned run: performs what `core/call.py` decides, in its order."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    CallClass,
    CallState,
    Level,
    Outcome,
    OutcomeKind,
)
from coatcheck_sidecar.core.policy import Ask, AskedSoFar, Identified, identify, resumed
from coatcheck_sidecar.core.record import Event
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.writes import event_of
from coatcheck_sidecar.engine.keeper import Keeper

KEY_MARGIN_S: Final = 60.0
"""A key counts as forgotten this long before its lifetime is over: clocks differ."""
READS_FROM: Final = 2**40
"""Numbers above it name reads that are under way: no log is that long."""
READS_OF_EPOCH: Final = 2**20
"""Each ownership has its own of them, so that an outcome meant for a sidecar that died is not taken
for that of another read."""
NOTHING_ASKED: Final = AskedSoFar()
SUMMARIES_MAX: Final = 20
"""Calls that a refusal lists."""


@dataclass(frozen=True, slots=True)
class Go:
    """Make the attempt; guarded ones not after `until_boot_s`."""

    call: Call
    upstream_key: str
    until_boot_s: float | None


@dataclass(frozen=True, slots=True)
class Recorded:
    """The call was made; this came back."""

    call: Call
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class AskUpstream:
    """The call may have been made: probe, and say what the upstream answered."""

    call: Call


Answer = Go | Recorded | AskUpstream


@dataclass(frozen=True, slots=True)
class _Pending:
    """What a call's next ask needs, while the agent probes."""

    draft: Call
    level: Level
    sent_ms: int


class Calls:
    """One run's calls, for one agent at a time."""

    def __init__(self, keeper: Keeper) -> None:
        """Begins as for a new incarnation."""
        self._keeper = keeper
        self._state = keeper.log.state
        settings = keeper.doors.settings
        self._rules = Rules(pause_max_s=settings.pause_max_s, key_margin_s=KEY_MARGIN_S)
        self._asked = NOTHING_ASKED
        self._reads: dict[int, Call] = {}
        self._reads_by_key: dict[str, Call] = {}
        self._next_read = READS_FROM + self._state.epoch * READS_OF_EPOCH
        self._probing: dict[int, _Pending] = {}
        self._waiters: list[asyncio.Future[None]] = []
        keeper.on_new_step = self.begin

    def begin(self) -> None:
        """A new step, or a new life of the agent: ordinals begin anew."""
        self._asked = NOTHING_ASKED
        self._reads.clear()
        self._reads_by_key.clear()
        self._probing.clear()
        self.changed()

    def changed(self) -> None:
        """Whoever waits for a call looks again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def resume(
        self,
        epoch: int,
        lives: Mapping[int, Life],
        *,
        answered: frozenset[int] | None,
        is_known: bool,
    ) -> None:
        """The same agent is back on a new connection: calls of its epoch stand as it says.

        One that it does not name never reached it. `answered` are the calls of its step whose
        answer it has, `is_known` says that this process heard all its askings.
        """
        for call in list(self._state.calls.values()):
            if call.epoch == epoch and call.state is CallState.IN_DOUBT:
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

    async def ask(self, ask: Ask, *, level: Level) -> Answer:
        """What to do about a call before it is made; raises `Refusal`."""
        draft = await self._identify(ask)
        return await self._ask(draft, level)

    async def _identify(self, ask: Ask) -> Call:
        clock = self._keeper.doors.clock
        began_s = clock.monotonic()
        while True:
            self._keeper.check_owned()
            calls = {**self._state.by_key, **self._reads_by_key}
            waited_s = clock.monotonic() - began_s
            found = identify(
                ask, self._asked, calls=calls, epoch=self._state.epoch, waited_s=waited_s
            )
            match found:
                case Identified(draft, asked):
                    self._asked = asked
                    self.changed()
                    return draft
                case Wait(delay_s):
                    await self._wait_for_change(delay_s)
                case Hold() | Refuse():
                    raise self._refusal(found, ask.tool)
                case None:
                    raise AssertionError("an SDK's asking always has an incarnation")

    async def _ask(self, draft: Call, level: Level) -> Answer:
        clock = self._keeper.doors.clock
        until_s = clock.monotonic() + self._keeper.doors.settings.join_wait_s
        while True:
            self._keeper.check_owned()
            call = self._reads_by_key.get(draft.key) or self._state.by_key.get(draft.key)
            draft = replace(draft, number=self._number(draft, call), epoch=self._state.epoch)
            decision = self._decide(call, Asked(draft, level))
            answer = await self._perform(decision, draft.key)
            if isinstance(answer, AskUpstream):
                self._probing[draft.number] = _Pending(draft, level, self._keeper.now_ms())
            if answer is not None:
                self._keeper.doors.observer.note(
                    "call", tool=draft.tool, decision=type(answer).__name__.lower()
                )
                return answer
            if clock.monotonic() > until_s:
                raise Refusal(
                    ErrorCode.IN_FLIGHT,
                    f"an equal call to {draft.tool} is still in flight",
                    retry=Retry.LATER,
                )

    def _number(self, draft: Call, call: Call | None) -> int:
        if call is not None:
            return 0 if call.number > READS_FROM else call.number
        return 0 if draft.call_class is CallClass.READ else self._state.seq + 1

    async def ended(
        self, number: int, attempt: int, *, ending: Ending, body: bytes | None, reason: str
    ) -> int:
        """An attempt is over; returns when that is durable, with the log's sequence number."""
        call = self._find(number)
        outcome = Outcome(OutcomeKind.RESULT, NO_BODY if body is None else Body(body))
        decision = self._decide(call, Ended(attempt, ending, outcome))
        try:
            await self._perform(decision, call.key)
        except Refusal as error:
            # That it is in doubt now is what the agent just told: an answer to its next asking.
            if error.code not in (ErrorCode.IN_DOUBT, ErrorCode.HELD):
                raise
        return self._state.seq

    async def probed(
        self, number: int, attempt: int, *, applied: bool, body: bytes | None
    ) -> Answer:
        """The upstream was asked; what to do now.

        A sidecar that came back does not know when: then a "no" proves nothing.
        """
        call = self._find(number)
        pending = self._probing.pop(number, _Pending(call, Level.NODE, sent_ms=0))
        outcome = Outcome(OutcomeKind.RESULT, NO_BODY if body is None else Body(body))
        event = Probed(attempt, applied, pending.sent_ms, outcome)
        await self._perform(self._decide(call, event), call.key)
        return await self._ask(pending.draft, pending.level)

    def _find(self, number: int) -> Call:
        call = self._reads.get(number) or self._state.calls.get(number)
        if call is None:
            raise Refusal(
                ErrorCode.NOT_FOUND,
                f"run {self._keeper.run} has no call {number}: ask for it again",
                retry=Retry.SAME_KEY,
                call=number,
            )
        return call

    def _decide(self, call: Call | None, event: CallEvent) -> Decision:
        if call is not None and call.number > READS_FROM:
            call = replace(call, number=0)
        return decide(
            call,
            event,
            now_ms=self._keeper.now_ms(),
            patience_s=self._keeper.doors.settings.join_wait_s if _is_waiting(event) else 0.0,
            rules=self._rules,
        )

    async def _perform(self, decision: Decision, key: str) -> Answer | None:
        """Write what is to be written, wait until it is durable, then act; `None`: ask again."""
        number = (decision.state.number if decision.state else 0) or self._state.seq + 1
        events: list[Event] = []
        level = Level.NODE
        for effect in decision.effects:
            event = event_of(effect, call=number)
            if event is not None:
                events.append(event)
            if isinstance(effect, WriteDispatched):
                level = effect.level
        if events:
            await self._write(events, level=level, decision=decision)
        self._remember_read(decision.state, is_recorded=bool(events), key=key)
        answer = None
        for effect in decision.effects:
            answer = await self._act(effect, decision.state, key=key) or answer
        return answer

    async def _write(self, events: list[Event], *, level: Level, decision: Decision) -> None:
        records = self._keeper.append(*events)
        self.changed()
        try:
            await self._keeper.durable(records, level)
        except asyncio.CancelledError:
            self._take_back(decision)
            raise
        self.changed()

    def _take_back(self, decision: Decision) -> None:
        """Nobody waits for the `go` any more: the attempt is known not to have left."""
        call = decision.state
        if call is None or not any(isinstance(effect, Send) for effect in decision.effects):
            return
        taken_back = self._decide(
            self._state.calls.get(call.number), Ended(call.attempt, Ending.NOT_SENT)
        )
        events = [event_of(effect, call=call.number) for effect in taken_back.effects]
        wanted = [event for event in events if event is not None]
        if wanted and not self._keeper.is_over:
            self._keeper.write_later(self._keeper.append(*wanted))
            self.changed()

    def _remember_read(self, call: Call | None, *, is_recorded: bool, key: str) -> None:
        """Reads are in the log once they are answered; until then they have numbers of ours."""
        known = self._reads_by_key.pop(key, None)
        if known is not None:
            self._reads.pop(known.number, None)
        is_read = call is not None and call.call_class is CallClass.READ
        if call is not None and is_read and not is_recorded and call.state is not CallState.DONE:
            self._next_read += 1
            call = replace(call, number=self._next_read)
            self._reads[call.number] = call
            self._reads_by_key[key] = call
        self.changed()

    async def _act(self, effect: CallEffect, call: Call | None, *, key: str) -> Answer | None:
        match effect:
            case Send(_, upstream_key) if call is not None:
                return Go(self._reads_by_key.get(key, call), upstream_key, self._until(call))
            case Replay(outcome) if call is not None:
                return Recorded(call, outcome)
            case Probe() if call is not None:
                return AskUpstream(call)
            case Join():
                await self._wait_for_change(self._keeper.doors.settings.join_wait_s)
            case Wait(delay_s) if delay_s > 0:
                await self._wait_for_change(delay_s)
            case Deliver(final=False):
                self._asked = self._asked.left_open(key)
            case Deliver(final=True):
                self._asked = self._asked.settled(key)
            case Alarm(reason):
                number = call.number if call else 0
                self._keeper.doors.observer.note(
                    "alarm", run=self._keeper.run, call=number, reason=reason
                )
            case Hold() | Refuse():
                self._asked = self._asked.left_open(key)
                raise self._refusal(effect, call.tool if call else "")
            case _:
                pass
        return None

    def _until(self, call: Call) -> float | None:
        if not call.call_class.is_guarded:
            return None
        return self._keeper.shipper.owned_from_s + self._keeper.doors.settings.lease_s

    async def _wait_for_change(self, delay_s: float) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await asyncio.wait([waiter], timeout=delay_s)

    def _refusal(self, effect: Hold | Refuse, tool: str) -> Refusal:
        numbers = effect.calls if isinstance(effect, Hold) else ()
        calls = [self._state.calls[n] for n in numbers[:SUMMARIES_MAX] if n in self._state.calls]
        listed = "; ".join(f"call {c.number} {c.tool}({c.summary})" for c in calls)
        run = self._keeper.run
        mend = f"; see `coatcheck doubts {run}`, decide with `coatcheck resolve`" if calls else ""
        return Refusal(
            ErrorCode(effect.code.value),
            f"{tool} of run {run}: {effect.reason}{': ' if listed else ''}{listed}{mend}",
            retry=Retry.LATER if isinstance(effect, Refuse) else Retry.NEVER,
            run=run,
            tool=tool,
            reason=effect.reason,
            calls=[
                {"call": c.number, "tool": c.tool, "step": c.step, "first_sent_ms": c.first_sent_ms}
                for c in calls
            ],
        )


def _is_waiting(event: CallEvent) -> bool:
    return isinstance(event, Asked | Probed)
