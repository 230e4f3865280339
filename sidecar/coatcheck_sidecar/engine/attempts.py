"""What `calls.py` answers, what it remembers of reads under way, and how it refuses."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core import deadline, undo
from coatcheck_sidecar.core.call_events import Decision, Deliver, Hold, Refuse, Send, Wait
from coatcheck_sidecar.core.doubt import Rules, key_left_s
from coatcheck_sidecar.core.mends import mend_of
from coatcheck_sidecar.core.model import Call, CallClass, CallState, Level, Outcome
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.keeper import Keeper

READS_FROM: Final = 2**40
"""Numbers above it name reads that are under way: no log is that long."""
READS_OF_EPOCH: Final = 2**20
"""Each ownership has its own of them, so that an outcome meant for a sidecar that died is not taken
for that of another read."""
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
    is_joined: bool = False
    """An equal call was in flight, and its answer was waited for."""


@dataclass(frozen=True, slots=True)
class AskUpstream:
    """The call may have been made: probe, and say what the upstream answered."""

    call: Call


Answer = Go | Recorded | AskUpstream


def word_of(answer: Answer) -> str:
    """What a decision is called, in metrics and in what an agent gets."""
    if isinstance(answer, Recorded):
        return "joined" if answer.is_joined else "replayed"
    return "sent" if isinstance(answer, Go) else "probed"


Follows = Wait | Deliver
"""After an attempt: ask again so much later, or give the agent what came."""
Turn = Callable[[Call | None], Awaitable[None]]
"""Waits until the call, as it stands, may be asked for: its tool may be busy."""


@dataclass(frozen=True, slots=True)
class Pending:
    """What a call's next ask needs, while the agent probes."""

    draft: Call
    level: Level
    sent_ms: int


def sends(decision: Decision) -> bool:
    """An attempt is to be made."""
    return any(isinstance(effect, Send) for effect in decision.effects)


class Changes:
    """Wakes whoever waits for something to become of a call."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []
        self.unkept = Counter[int]()
        """Of each call, records that are not durable yet: what they say is given to nobody."""

    @contextmanager
    def writing(self, number: int) -> Iterator[None]:
        """While a record of this call is on its way to where it is kept."""
        self.unkept[number] += 1
        try:
            yield
        finally:
            self.unkept[number] -= 1
            if not self.unkept[number]:
                del self.unkept[number]
            self.tell()

    def tell(self) -> None:
        """Whoever waits for a call looks again."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def kept(self, number: int, *, within_s: float) -> None:
        """Wait while a record of this call is on its way, but no longer than this."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while number in self.unkept:
                    await self.wait(within_s)

    async def wait(self, delay_s: float) -> None:
        """Until something of any call of the run changes, or the delay is over."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await asyncio.wait([waiter], timeout=delay_s)


class Reads:
    """Reads under way: in the log once they are answered, until then under numbers of ours."""

    def __init__(self, epoch: int) -> None:
        """`epoch` is the ownership's."""
        self.by_key: dict[str, Call] = {}
        self._by_number: dict[int, Call] = {}
        self._last = READS_FROM + epoch * READS_OF_EPOCH

    def begin(self, step: int) -> None:
        """A step, or a new life of its agent: what this process itself has in flight there stays.

        Nobody asks for any other again.
        """
        for key, call in list(self.by_key.items()):
            is_ours = call.is_relayed and call.state is CallState.DISPATCHED
            if call.step != step or not is_ours:
                del self.by_key[key], self._by_number[call.number]

    def adopt(self, epoch: int) -> None:
        """What this process itself has in flight goes on under a new epoch."""
        for key, call in self.by_key.items():
            if call.is_relayed:
                self.by_key[key] = self._by_number[call.number] = replace(call, epoch=epoch)

    def forget(self, key: str) -> Call | None:
        """The read under `key`, if it was under way: it is not any more."""
        known = self.by_key.pop(key, None)
        if known is not None:
            del self._by_number[known.number]
        return known

    def find(self, number: int) -> Call | None:
        """The read of this number, if it is under way."""
        return self._by_number.get(number)

    def remember(self, call: Call | None, *, is_recorded: bool, key: str) -> bool:
        """What became of the read under `key`; one in the log is none of ours any more.

        Whether anything did.
        """
        known = self.forget(key)
        is_read = call is not None and call.call_class is CallClass.READ
        if call is not None and is_read and not is_recorded and call.state is not CallState.DONE:
            if known is None:
                self._last += 1
            call = replace(call, number=known.number if known else self._last)
            if call == known:
                call = known
            self._by_number[call.number] = call
            self.by_key[key] = call
        return self.by_key.get(key) is not known


def refuse_start(keeper: Keeper, decision: Decision, *, draft: Call) -> None:
    """Raises `Refusal` for an attempt that may not be made while the run, or its pod, ends."""
    state = keeper.log.state
    if sends(decision):
        why = undo.may_not_start(state, draft, is_draining=keeper.is_draining)
        if why:
            text = f"{draft.tool} of run {keeper.run}: {why}"
            raise Refusal(ErrorCode.DRAINING, text, retry=Retry.LATER, tool=draft.tool)


def latest_start_s(call: Call, keeper: Keeper, *, rules: Rules) -> float | None:
    """When, on the boot-time clock, it is too late to make the attempt; `None`: never.

    For a guarded call the lease is over then, or the run by its own deadline. For one that may have
    been sent before, the upstream forgets its key: between the decision and the send lies a durable
    write, which may take long.
    """
    if call.call_class.is_guarded:
        over_s = keeper.shipper.owned_from_s + keeper.doors.settings.lease_s
        left_s = deadline.left_s(keeper.log.state.created, now_ms=keeper.now_ms())
        return over_s if left_s is None else min(over_s, keeper.doors.clock.boottime() + left_s)
    if call.call_class is CallClass.KEYED and call.earlier_doubt:
        left_s = key_left_s(call, now_ms=keeper.now_ms(), rules=rules)
        return keeper.doors.clock.boottime() + left_s
    return None


def refusal_of(effect: Hold | Refuse, *, run: str, tool: str, calls: Mapping[int, Call]) -> Refusal:
    """What is said to an agent whose call is held or refused, with the calls in the way."""
    numbers = effect.calls if isinstance(effect, Hold) else ()
    listed = [calls[number] for number in numbers[:SUMMARIES_MAX] if number in calls]
    shown = "; ".join(f"call {c.number} {c.tool}({c.summary})" for c in listed)
    mend = mend_of(effect.reason, run=run, call=numbers[0] if numbers else None)
    said = "; ".join(part for part in (shown, mend) if part)
    return Refusal(
        ErrorCode(effect.code.value),
        f"{tool} of run {run}: {effect.reason}{': ' if said else ''}{said}",
        retry=Retry.LATER if isinstance(effect, Refuse) and _passes(effect) else Retry.NEVER,
        run=run,
        tool=tool,
        reason=effect.reason,
        calls=[
            {"call": c.number, "tool": c.tool, "step": c.step, "first_sent_ms": c.first_sent_ms}
            for c in listed
        ]
        or [{"call": number} for number in numbers[:SUMMARIES_MAX]],
    )


def _passes(effect: Refuse) -> bool:
    """What is in the way goes by itself."""
    return effect.http_status == 409
