"""One tool call over HTTP that the log knows: asked for, attempted, recorded, answered.

It goes on to its end when the agent hangs up: what comes is kept, and serves the next asking.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core import undo
from coatcheck_sidecar.core.call_events import Deliver, Ended, Ending, Reason, Wait
from coatcheck_sidecar.core.mends import mend_of
from coatcheck_sidecar.core.model import Call, CallClass, CallState, Outcome, OutcomeKind
from coatcheck_sidecar.core.problem import DECISION, HELD, decision_of
from coatcheck_sidecar.core.recorded import decode_head, from_value, pieces
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.accounts import Accounts
from coatcheck_sidecar.engine.agent import LateOutcome
from coatcheck_sidecar.engine.answers import Came, Taking, nothing
from coatcheck_sidecar.engine.attempts import AskUpstream, Go, Recorded
from coatcheck_sidecar.engine.bindings import Binding
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.engine.probing import NoAnswer, ask_upstream
from coatcheck_sidecar.engine.turns import Turns
from coatcheck_sidecar.engine.wanted import Wanted, no_answer, outgoing
from coatcheck_sidecar.ports import AgentReply, Clock, Lost, NotSent, Observer, Upstream

SENT_FROM = frozenset({CallState.INTENT, CallState.NOT_APPLIED, CallState.IN_DOUBT})
"""Where asking may mean sending, and needs a turn."""
PROBE_RETRY_S = 1.0
OnLate = Callable[[Keeper, LateOutcome], None]


class Errand:
    """Performs one `Wanted`."""

    def __init__(
        self,
        binding: Binding,
        wanted: Wanted,
        *,
        reply: AgentReply,
        upstream: Upstream,
        turns: Turns,
        clock: Clock,
        observer: Observer,
        accounts: Accounts,
        on_late: OnLate,
    ) -> None:
        """Nothing happens before `run`."""
        self._accounts = accounts
        self.decision = "abandoned"
        """What the agent got in the end; this: it hung up before."""
        self.held_for = ""
        """Why it was held, if it was."""
        self.upstream_s = 0.0
        self.waited_s = 0.0
        """For a turn, between two tries, and for somebody's decision."""
        self._calls = binding.calls
        self._keeper = binding.keeper
        self._on_late = on_late
        self._wanted = wanted
        self._tool = wanted.tool
        self._reply = reply
        self._upstream = upstream
        self._turns = turns
        self._clock = clock
        self._observer = observer
        began_s = clock.monotonic()
        self._patient_until_s = began_s + wanted.tool.patience_s
        self._wait_until_s = began_s + wanted.wait_s
        self._key: str | None = None
        self._is_delivered = False
        self._is_abandoned = False
        self._has_turn = False

    def abandon(self) -> None:
        """The agent hung up: unless it has its answer, its next equal asking is this call."""
        self._is_abandoned = True
        if self._key is not None and not self._is_delivered:
            self._calls.left_open(self._key)

    async def run(self) -> None:
        """To the end of the answer; raises `Refusal` before anything of it was given."""
        try:
            draft = await self._identify()
            self._key = draft.key
            while not await self._again(draft):
                pass
        except Refusal as error:
            self.decision = decision_of(error)
            if error.code in HELD:
                self.held_for = str(error.details.get("reason", error.code.value))
            raise
        finally:
            self._end_turn()
            if self._key is not None and not self._is_delivered:
                self._calls.left_open(self._key)

    @property
    def _is_gone(self) -> bool:
        return self._is_abandoned or self._reply.is_gone

    async def _identify(self) -> Call:
        ask = self._wanted.ask
        if not ask.is_relayed:
            ask = replace(ask, is_relayed=True)
        while True:
            try:
                return await self._calls.identify(ask)
            except Refusal as error:
                await self._wait_for_decision(error)

    async def _wait_for_decision(self, error: Refusal) -> None:
        """Raises it again, unless the agent said that it waits."""
        left_s = self._wait_until_s - self._clock.monotonic()
        if error.code not in HELD or left_s <= 0 or self._is_gone:
            raise error
        self._end_turn()
        with self._waiting():
            await self._calls.wait_for_change(left_s)

    async def _again(self, draft: Call) -> bool:
        """Ask, and do what is said; whether that was the end of it."""
        try:
            answer = await self._ask(draft)
            if isinstance(answer, Recorded):
                await self._replay(answer)
                return True
            if self._is_gone:
                self._calls.take_back(answer.call)
                return True
            came, follows = await self._attempt(answer)
        except Refusal as error:
            await self._wait_for_decision(error)
            return False
        if isinstance(follows, Wait):
            self._end_turn()
            with self._waiting():
                await self._calls.rest(draft.key, follows.delay_s)
            return False
        await self._deliver(came)
        return True

    # Asking

    async def _ask(self, draft: Call) -> Go | Recorded:
        answer = await self._calls.ask_for(draft, level=self._wanted.level, turn=self._turn)
        while isinstance(answer, AskUpstream):
            call = answer.call
            try:
                with self._waiting():
                    found = await ask_upstream(self._upstream, tool=self._tool, call=call)
            except NoAnswer as error:
                await self._no_probe(call, str(error))
                answer = await self._calls.ask_for(draft, level=self._wanted.level, turn=self._turn)
                continue
            answer = await self._calls.probed(
                call.number,
                call.attempt,
                applied=found.applied,
                body=found.value,
                patience_s=self._patience_s,
            )
        return answer

    async def _no_probe(self, call: Call, why: str) -> None:
        """Try again while there is patience; raises `Refusal` after that."""
        self._observer.note("probe_failed", run=self._wanted.ask.run, tool=call.tool, error=why)
        if self._patience_s < PROBE_RETRY_S:
            raise Refusal(
                ErrorCode.IN_DOUBT,
                f"{call.tool}: nobody knows whether call {call.number} took place, and the probe "
                f"has no answer: {why}",
                tool=call.tool,
                reason="probe_unanswered",
                call=call.number,
                first_sent_ms=call.first_sent_ms,
            )
        with self._waiting():
            await self._calls.rest(call.key, PROBE_RETRY_S)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        began_s = self._clock.monotonic()
        try:
            yield
        finally:
            self.waited_s += self._clock.monotonic() - began_s

    @property
    def _patience_s(self) -> float:
        return 0.0 if self._is_gone else max(0.0, self._patient_until_s - self._clock.monotonic())

    async def _turn(self, call: Call | None) -> None:
        is_sent = call is None or call.state in SENT_FROM
        if not is_sent:
            self._end_turn()
        elif not self._has_turn:
            with self._waiting():
                await self._turns.take()
            self._has_turn = True

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._turns.give_back()

    # Attempting

    async def _attempt(self, go: Go) -> tuple[Came, Wait | Deliver]:
        came = await self._send(go)
        outcome = await came.outcome(self._tool, go.call.call_class)
        ended = Ended(go.call.attempt, came.ending, outcome, came.retry_after_s)
        if go.call.is_undo:
            method = self._wanted.outgoing.method
            ended = undo.ended(
                ended, status=came.status, method=method, call_class=go.call.call_class
            )
        try:
            follows = await self._calls.over(
                go.call.number,
                ended,
                patience_s=0.0 if came.is_started else self._patience_s,
                level=self._wanted.level,
                is_heard=not self._is_gone,
            )
        except Refusal as error:
            is_past = error.code is ErrorCode.NOT_FOUND and go.call.call_class is CallClass.READ
            if is_past:  # a read of a step that was committed meanwhile: nobody asks for it again
                return came, Deliver(final=True)
            self._tell_late(go.call, came, outcome=outcome)
            if not came.is_started:
                raise
            self._note_cut(error.message)
            came.held, came.is_whole = b"", False
            return came, Deliver(final=False)
        if came.is_started and isinstance(follows, Wait):
            came.held, came.is_whole = b"", False
            return came, Deliver(final=False)
        return came, follows

    def _tell_late(self, call: Call, came: Came, *, outcome: Outcome) -> None:
        """The run was let go of meanwhile: its call is in doubt, and need not be."""
        is_known = came.is_whole and came.ending is Ending.FINAL
        if self._keeper.is_over and is_known and outcome.kind is OutcomeKind.RESULT:
            told = LateOutcome(call.number, call.attempt, outcome.body.data, outcome.head)
            self._on_late(self._keeper, told)

    async def _send(self, go: Go) -> Came:
        began_s = self._clock.monotonic()
        call_class = go.call.call_class
        taking = Taking(
            self._tool,
            call_class,
            reply=self._reply,
            clock=self._clock,
            is_last=self._wanted.is_last,
        )
        try:
            async with self._upstream.send(outgoing(self._wanted, go)) as answer:
                return await taking.take(answer)
        except (NotSent, Lost) as error:
            return nothing(error)
        finally:
            self.upstream_s += self._clock.monotonic() - began_s

    # Answering

    async def _deliver(self, came: Came) -> None:
        self._end_turn()
        if not came.status:
            raise no_answer(self._tool, came)
        self.decision = "sent"
        self._is_delivered = await came.deliver(self._reply) and not self._is_abandoned

    async def _replay(self, answer: Recorded) -> None:
        outcome = answer.outcome
        if outcome.kind is OutcomeKind.TRUNCATED:
            status, number = decode_head(outcome.head).status, answer.call.number
            became = "took place" if status < 400 else f"was refused with {status}"
            raise Refusal(
                ErrorCode.HELD,
                f"{self._tool.name}: call {number} {became}; of its answer only a part arrived: "
                + mend_of(Reason.TRUNCATED, run=self._wanted.ask.run, call=number),
                retry=Retry.NEVER,
                tool=self._tool.name,
                reason=Reason.TRUNCATED,
                upstream_status=status,
                call=number,
                first_sent_ms=answer.call.first_sent_ms,
            )
        if outcome.head:
            head, body = decode_head(outcome.head), outcome.body.data or b""
        else:
            head, body = from_value(outcome.body.data)
        self.decision = "joined" if answer.is_joined else "replayed"
        length = () if head.cuts else (("Content-Length", str(len(body))),)
        if head.status in (204, 304) or self._wanted.outgoing.method == "HEAD":
            length = ()
        await self._reply.start(head.status, (*head.headers, *length, (DECISION, self.decision)))
        for data in pieces(body, head.cuts):
            await self._reply.write(data)
        is_there = not self._reply.is_gone
        await self._reply.end()
        self._is_delivered = is_there and not self._is_abandoned
        self._accounts.replayed(
            self._tool.name, status=head.status, headers=head.headers, body=body
        )

    def _note_cut(self, why: str) -> None:
        self._observer.note("answer_cut", run=self._wanted.ask.run, tool=self._tool.name, error=why)
