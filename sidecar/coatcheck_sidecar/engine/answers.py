"""An upstream's answer on its way: given to the agent as it flows, and kept for the log.

What ends its call is given at once, but for its end: the last piece of a body, the last event of a
stream, stays here until the answer is durable. So an answer that looks complete is always recorded.
What may be tried again is taken in first, and given only when patience is over.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from coatcheck_sidecar.core.call import is_kept
from coatcheck_sidecar.core.call_events import NOTHING, Ending
from coatcheck_sidecar.core.http_outcome import ending
from coatcheck_sidecar.core.model import Body, CallClass, Outcome, OutcomeKind
from coatcheck_sidecar.core.problem import DECISION
from coatcheck_sidecar.core.recorded import (
    EVENT_END,
    Head,
    encode_head,
    event_cuts,
    is_event_stream,
    kept_headers,
    redacted,
    releasable,
)
from coatcheck_sidecar.core.relay import header, retry_after_s
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.ports import AgentReply, Clock, Headers, Lost, NotSent, UpstreamAnswer

ERROR_BYTES_MAX: Final = 1_048_576
"""Of an answer that may be tried again; a longer one is cut there."""
BIG_BYTES: Final = 262_144
"""JSON of more takes over a millisecond: it is blanked beside the loop."""
HELD_BYTES_MAX: Final = 65_536
"""Of a stream; a longer event goes out but for its last piece."""
IsLast = Callable[[bytes], bool]
"""Whether this event may be the last that its reader waits for."""


@dataclass(slots=True)
class Came:
    """What one attempt brought. Without a status: nothing, and `why`."""

    ending: Ending
    why: str = ""
    status: int = 0
    headers: Headers = ()
    body: bytes | bytearray | None = None
    """`None`: too big to keep."""
    cuts: Sequence[int] = ()
    held: bytes | bytearray = b""
    """The end of the body, which the agent has yet to get; the rest it has if it was started."""
    is_started: bool = False
    is_whole: bool = True
    is_events: bool = False
    """A stream of events, which can be read."""
    is_sized: bool = False
    """Its length was said before it came."""
    retry_after_s: float | None = None

    async def outcome(self, tool: Tool, call_class: CallClass) -> Outcome:
        """For the log."""
        if not self.status or not is_kept(self.ending, call_class):
            return NOTHING
        kept = None if self.body is None else bytes(self.body)
        if kept is not None and tool.redact:
            blank = partial(redacted, kept, self.headers, pointers=tool.redact)
            kept = blank() if len(kept) < BIG_BYTES else await asyncio.to_thread(blank)
        headers = kept_headers(self.headers, tool.recorded_headers)
        if kept is None:
            head = encode_head(Head(self.status, headers))
            return Outcome(OutcomeKind.NOT_RETAINED, Body(None), head)
        cuts: Sequence[int] = ()
        if self.is_events:
            cuts = event_cuts(kept)
        elif not self.is_sized and not tool.redact:
            cuts = self.cuts
        head = encode_head(Head(self.status, headers, tuple(cuts)))
        return Outcome(OutcomeKind.RESULT, Body(kept), head)

    async def deliver(self, reply: AgentReply) -> bool:
        """Give the agent what it has yet to get, and end; whether it was there to take it."""
        if not self.is_started:
            await reply.start(self.status, (*self.headers, (DECISION, "sent")))
        if self.held:
            await reply.write(bytes(self.held))
        if not self.is_whole:
            reply.cut()
            return False
        is_there = not reply.is_gone
        await reply.end()
        return is_there


class Taking:
    """Takes in the answer of one attempt."""

    def __init__(
        self,
        tool: Tool,
        call_class: CallClass,
        *,
        reply: AgentReply,
        clock: Clock,
        is_last: IsLast | None = None,
    ) -> None:
        """`is_last` looks at events of a stream; without it the newest one is held back."""
        self._tool = tool
        self._class = call_class
        self._reply = reply
        self._clock = clock
        self._is_last = is_last
        self._kept: bytearray | None = bytearray()
        self._cuts: list[int] = []
        self._held = bytearray()
        self._is_inside = False
        """What is held begins within an event."""
        self._is_started = False
        self._drain_until_s: float | None = None

    async def take(self, answer: UpstreamAnswer) -> Came:
        """All of it."""
        status, headers = answer.status, answer.headers
        after_s = None
        if status >= 400:
            after_s = retry_after_s(headers, now_ms=self._clock.wall_ms())
        came = Came(
            self._ending(status, after_s), status=status, headers=headers, retry_after_s=after_s
        )
        if is_kept(came.ending, self._class):
            is_cut = await self._tee(answer, came)
        else:
            is_cut = await self._buffer(answer, came)
        if is_cut:
            came.ending, came.is_whole = self._ending(status, after_s, is_cut=True), False
        return came

    def _ending(self, status: int, after_s: float | None, *, is_cut: bool = False) -> Ending:
        return ending(
            status,
            profile=self._tool.profile,
            has_retry_after=after_s is not None,
            is_cut=is_cut,
        )

    async def _buffer(self, answer: UpstreamAnswer, came: Came) -> bool:
        body = bytearray()
        came.body = came.held = body
        try:
            async for data in answer.pieces():
                body += data
                if len(body) > ERROR_BYTES_MAX:
                    del body[ERROR_BYTES_MAX:]
                    return True
        except Lost as error:
            came.why = str(error)
            return True
        return False

    async def _tee(self, answer: UpstreamAnswer, came: Came) -> bool:
        is_events = came.is_events = is_event_stream(came.headers)
        came.is_sized = bool(header(came.headers, "content-length"))
        if (is_events or not came.is_sized) and answer.status not in (204, 304):
            await self._start(came)
        is_cut = False
        try:
            async for data in answer.pieces():
                self._keep(data)
                await self._pass_on(data, came, is_events=is_events)
                if self._reply.is_gone and self._is_over_limits():
                    is_cut = self._kept is not None
                    break
        except Lost as error:
            came.why, is_cut = str(error), True
        came.body, came.cuts, came.held = self._kept, self._cuts, self._held
        came.is_started = self._is_started
        return is_cut

    def _keep(self, data: bytes) -> None:
        if self._kept is None:
            return
        if len(self._kept) + len(data) > self._tool.record_bytes_max:
            self._kept = None
        else:
            self._kept += data
            self._cuts.append(len(self._kept))

    def _is_over_limits(self) -> bool:
        """Nobody listens: what can't be kept, or never ends, is not read on."""
        now_s = self._clock.monotonic()
        if self._drain_until_s is None:
            self._drain_until_s = now_s + self._tool.head_s
        return self._kept is None or now_s > self._drain_until_s

    async def _start(self, came: Came) -> None:
        self._is_started = True
        await self._reply.start(came.status, (*came.headers, (DECISION, "sent")))

    async def _pass_on(self, data: bytes, came: Came, *, is_events: bool) -> None:
        held = self._held
        if is_events:
            held += data
            free = self._free()
            if len(held) - free > HELD_BYTES_MAX and self._may_go_in_pieces(free):
                free, self._is_inside = len(held) - len(data), True
            elif free:
                self._is_inside = False
        else:
            free = len(held)
        if free:
            if not self._is_started:
                await self._start(came)
            out = bytes(held[:free])
            del held[:free]
            await self._reply.write(out)
        if not is_events:
            held += data

    def _may_go_in_pieces(self, free: int) -> bool:
        """The event is not over yet; or it is, but nothing of this answer will be recorded."""
        return self._kept is None or EVENT_END.search(self._held, free) is None

    def _free(self) -> int:
        """How much of the events held may go."""
        if self._is_last is None:
            return releasable(self._held, is_inside=self._is_inside)
        at = 0
        for found in EVENT_END.finditer(self._held):
            if self._is_last(bytes(self._held[at : found.end()])):
                break
            at = found.end()
        return at


def nothing(error: NotSent | Lost) -> Came:
    """An attempt without an answer."""
    ended = Ending.NOT_SENT if isinstance(error, NotSent) else Ending.LOST
    return Came(ended, why=str(error))
