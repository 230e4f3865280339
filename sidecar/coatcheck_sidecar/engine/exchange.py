"""Tool calls over HTTP, from the agent's request to the end of its answer: all ways end here."""

import asyncio
from collections.abc import Callable
from typing import Final

from coatcheck_sidecar.core.call import decide, is_kept
from coatcheck_sidecar.core.call_events import Asked, Decision, Ended, Send, Wait
from coatcheck_sidecar.core.doubt import Rules
from coatcheck_sidecar.core.http_outcome import ending
from coatcheck_sidecar.core.model import Call, CallClass, CallState, Effect
from coatcheck_sidecar.core.problem import DECISION
from coatcheck_sidecar.core.relay import header
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.accounts import Accounts
from coatcheck_sidecar.engine.answers import Came, Taking, nothing
from coatcheck_sidecar.engine.attempts import Go
from coatcheck_sidecar.engine.bindings import Binding
from coatcheck_sidecar.engine.errand import Errand, OnLate
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.engine.turns import Turns
from coatcheck_sidecar.engine.wanted import Wanted, clear, no_answer, outgoing
from coatcheck_sidecar.ports import AgentReply, Clock, Lost, NotSent, Observer, Upstream

__all__ = ["Exchange", "Wanted"]

PASSED: Final = Call(
    number=0,
    key="",
    step=0,
    tool="",
    call_class=CallClass.READ,
    fingerprint=b"",
    state=CallState.INTENT,
    is_relayed=True,
)
"""Stands for every read that is passed on and forgotten."""
ADDS: Final = frozenset({"sent", "replayed"})
"""Decisions after which what a call took, less its waits, is our own part."""
EFFECTS: Final = {CallClass.READ: Effect.READ, CallClass.IDEMPOTENT: Effect.IDEMPOTENT}
"""The other classes refine `once`."""
NO_DOUBT: Final = Rules(pause_max_s=0.0, key_margin_s=0.0)
"""A read is in none."""


def _decide(call: Call, event: Asked | Ended, *, patience_s: float = 0.0) -> Decision:
    return decide(call, event, now_ms=1, patience_s=patience_s, rules=NO_DOUBT)


def _go(call: Call) -> Go:
    asked = _decide(call, Asked(call))
    sent = next(effect for effect in asked.effects if isinstance(effect, Send))
    return Go(asked.state or call, sent.upstream_key, None)


FIRST: Final = _go(PASSED)
"""What the table says of a read that was not tried yet: the same for all."""


class Exchange:
    """Performs what the call table says."""

    def __init__(
        self,
        upstream_of: Callable[[Tool], Upstream],
        *,
        clock: Clock,
        observer: Observer,
        accounts: Accounts,
    ) -> None:
        """`upstream_of` gives a tool's connections."""
        self._upstream_of = upstream_of
        self._accounts = accounts
        self._clock = clock
        self._observer = observer
        self._turns: dict[str, Turns] = {}
        self._tasks = TaskSet(self._task_failed)
        self.on_late: OnLate = lambda keeper, told: None
        """Told what came of a call after its run was let go of."""

    def _task_failed(self, name: str, error: BaseException) -> None:
        self._observer.note("task_failed", name=name, error=repr(error))

    async def perform(self, binding: Binding, wanted: Wanted, *, reply: AgentReply) -> None:
        """Answer the agent, from the log or from the upstream. Raises `Refusal` before `start`.

        After `reply.start` nothing is raised: an answer that can't be completed is `cut`. If the
        agent hangs up (the caller is cancelled), the upstream's answer is still taken in whole.
        """
        if not wanted.is_recorded:
            try:
                await self._pass(wanted, reply, run=binding.keeper.run)
            finally:
                clear(wanted)
            return
        tool = wanted.tool
        errand = Errand(
            binding,
            wanted,
            reply=reply,
            upstream=self._upstream_of(tool),
            turns=self._turns_of(wanted),
            clock=self._clock,
            observer=self._observer,
            accounts=self._accounts,
            on_late=self.on_late,
        )
        try:
            await self._tasks.whole(self._run(errand, wanted), name=f"call of {tool.name}")
        except asyncio.CancelledError:
            errand.abandon()
            raise

    async def _run(self, errand: Errand, wanted: Wanted) -> None:
        began_s = self._clock.monotonic()
        try:
            await errand.run()
        finally:
            clear(wanted)
            whole_s = self._clock.monotonic() - began_s
            added_s = whole_s - errand.upstream_s - errand.waited_s
            self._note(
                wanted,
                began_s=began_s,
                run=wanted.ask.run,
                decision=errand.decision,
                held=1 if errand.held_for else None,
                reason=errand.held_for or None,
                added_s=added_s if errand.decision in ADDS else None,
                upstream_s=errand.upstream_s or None,
            )

    def _note(self, wanted: Wanted, *, began_s: float, **fields: object) -> None:
        self._observer.note(
            "exchange",
            tool=wanted.tool.name,
            effect=EFFECTS.get(wanted.ask.call_class, Effect.ONCE).value,
            seconds=self._clock.monotonic() - began_s,
            traceparent=header(wanted.outgoing.headers, "traceparent"),
            **fields,
        )

    def _turns_of(self, wanted: Wanted) -> Turns:
        tool = wanted.tool
        turns = self._turns.get(tool.name)
        if turns is None:
            turns = self._turns[tool.name] = Turns(tool)
        return turns

    # Reads that nobody keeps

    async def _pass(self, wanted: Wanted, reply: AgentReply, *, run: str) -> None:
        tool, turns = wanted.tool, self._turns_of(wanted)
        upstream = self._upstream_of(tool)
        began_s = self._clock.monotonic()
        until_s = began_s + tool.patience_s
        call = PASSED
        while True:
            go = FIRST if call is PASSED else _go(call)
            await turns.take()
            try:
                came = await self._relay(upstream, wanted, go=go, reply=reply)
            finally:
                turns.give_back()
            if came is None:
                break
            left_s = max(0.0, until_s - self._clock.monotonic())
            ended = Ended(go.call.attempt, came.ending, retry_after_s=came.retry_after_s)
            patience_s = 0.0 if reply.is_gone else left_s
            after = _decide(go.call, ended, patience_s=patience_s)
            wait = next((effect for effect in after.effects if isinstance(effect, Wait)), None)
            if wait is None:
                if not came.status:
                    raise no_answer(tool, came)
                await came.deliver(reply)
                break
            await self._clock.sleep(wait.delay_s)
            call = after.state or call
        self._note(wanted, began_s=began_s, run=run, decision="passed")

    async def _relay(
        self, upstream: Upstream, wanted: Wanted, *, go: Go, reply: AgentReply
    ) -> Came | None:
        """One attempt; `None` if the agent has its answer, or the beginning of one that was cut."""
        tool = wanted.tool
        try:
            async with upstream.send(outgoing(wanted, go)) as answer:
                headers = answer.headers
                found = ending(
                    answer.status,
                    profile=tool.profile,
                    has_retry_after=bool(header(headers, "retry-after")),
                )
                if not is_kept(found, CallClass.READ):
                    taking = Taking(tool, CallClass.READ, reply=reply, clock=self._clock)
                    return await taking.take(answer)
                await reply.start(answer.status, (*headers, (DECISION, "sent")))
                try:
                    async for data in answer.pieces():
                        await reply.write(data)
                except Lost:
                    reply.cut()
                    return None
                await reply.end()
        except (NotSent, Lost) as error:
            return nothing(error)
        return None

    async def close(self) -> None:
        """Stop what is under way: what was sent and not answered is in doubt."""
        await self._tasks.close()
