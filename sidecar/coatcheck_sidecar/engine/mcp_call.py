"""One MCP tool call in flight, between the server's streams, the exchange and the agent.

What a server says before its response (progress, logs, questions to the client) goes to the agent
at once and into no record: the server may be waiting for an answer. The response goes out by way of
the exchange, when it is recorded. An agent that lost its stream, or whose server ended it early, is
given the events that it missed from here.
"""

import asyncio
from typing import Final

from coatcheck_sidecar.core import mcp_answer, relay
from coatcheck_sidecar.core.mcp import ToolCall
from coatcheck_sidecar.core.mcp_answer import Fate, Unanswered
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.sse import Event, event_of
from coatcheck_sidecar.ports import AgentReply, Headers

KEPT_BYTES_MAX: Final = 2**18
"""Of events, for an agent that lost its stream; with more, it must ask for the call again."""
JSON_TYPE: Final = "application/json"
DECISION: Final = "Coatcheck-Decision"


class McpCall:
    """An asking for a tool call, as an `AgentReply` to the exchange."""

    def __init__(self, asked: ToolCall, reply: AgentReply, *, has_schema: bool) -> None:
        """`reply` is the answer to the POST; `has_schema`: the tool declares its output."""
        self.asked = asked
        self._out: AgentReply | None = reply
        self._has_schema = has_schema
        self._stream_headers: Headers | None = None
        self._answer_event: Event | None = None
        self._kept: list[Event] = []
        self._kept_bytes = 0
        self._status = 0
        self._headers: Headers = ()
        self._body: list[bytes] = []
        self._last: bytes | None = None
        self._changed = asyncio.Event()
        self._is_given = False
        self.is_cut = False

    # The server's side

    async def begin(self, headers: Headers) -> None:
        """The server answers by a stream: so does the agent's answer, from here on."""
        if self._stream_headers is None:
            self._stream_headers = (*relay.without(headers, "content-length"), (DECISION, "sent"))
            if self._out is not None:
                await self._out.start(200, self._stream_headers)

    async def forward(self, event: Event) -> None:
        """An event that is not the answer: for the agent at once."""
        if self._kept_bytes <= KEPT_BYTES_MAX:
            self._kept.append(event)
            self._kept_bytes += len(event.raw)
        if self._out is not None:
            await self._out.write(event.raw)

    def answered_by(self, event: Event) -> None:
        """The event that carries the answer goes out as it came, once that is recorded."""
        self._answer_event = event

    async def park(self) -> None:
        """The server ended its stream for now: the agent's ends too, and it will ask for more."""
        await self._let_go()

    # The exchange's side

    @property
    def is_gone(self) -> bool:
        """Nobody has the answer or waits for it, and nobody can come back for what was missed."""
        if self._is_given:
            return False
        return (self._out is None or self._out.is_gone) and not self.is_resumable

    async def start(self, status: int, headers: Headers) -> None:
        """What the exchange answers begins."""
        self._status, self._headers = status, headers
        self._body.clear()

    async def write(self, data: bytes) -> None:
        """A piece of it."""
        self._body.append(data)

    async def end(self) -> None:
        """It is whole, and recorded."""
        body = b"".join(self._body)
        if self._stream_headers is None:
            await self._give_plain(self._given(body))
        elif self._status < 300:
            await self._give_event(self._given(body))
        else:
            detail = f"the server answered with status {self._status}"
            fate = Fate.UNKNOWN if self._status >= 500 else Fate.NOT_APPLIED
            await self.refuse(Unanswered(fate=fate, reason="status", detail=detail))

    def cut(self) -> None:
        """It can't be completed."""
        self.is_cut = True

    # The agent's side

    async def refuse(self, why: Unanswered | Refusal) -> None:
        """There is no answer: say so in a result."""
        reason = _of_refusal(why) if isinstance(why, Refusal) else why
        message = mcp_answer.answer(self.asked, reason, has_schema=self._has_schema)
        if self._stream_headers is not None:
            await self._give_event(message)
            return
        decision = "held" if reason.fate is not Fate.NOT_APPLIED else ""
        self._status = 200
        self._headers = (
            ("Content-Type", JSON_TYPE),
            *(((DECISION, decision),) if decision else ()),
        )
        await self._give_plain(message)

    async def lose(self) -> None:
        """The answer broke off."""
        detail = "the connection to its server broke before the answer came"
        await self.refuse(Unanswered(fate=Fate.UNKNOWN, reason="lost", detail=detail))

    async def attach(self, reply: AgentReply, *, last_id: str) -> None:
        """The agent lost its stream after this event: go on from there, until the answer."""
        await self._let_go()
        await reply.start(200, self._stream_headers or ())
        place = max((n for n, event in enumerate(self._kept, 1) if event.id == last_id), default=0)
        while place < len(self._kept):  # more may come while these are written
            await reply.write(self._kept[place].raw)
            place += 1
        self._out = reply
        if self._last is not None:
            await self._finish()
        await self.left(reply)

    async def left(self, reply: AgentReply) -> None:
        """Wait until nothing more goes out by this reply."""
        while self._out is reply and not reply.is_gone:
            await self._changed.wait()

    @property
    def is_resumable(self) -> bool:
        """An agent may come back for events that it missed."""
        kept_bytes = self._kept_bytes + len(self._last or b"")
        return kept_bytes <= KEPT_BYTES_MAX and any(event.id for event in self._kept)

    def has_event(self, event_id: str) -> bool:
        """It may come back for what followed this one."""
        return self.is_resumable and any(event.id == event_id for event in self._kept)

    def _given(self, body: bytes) -> bytes:
        """As it came if it came now; a recorded answer is of another asking."""
        if self._is_sent or self._status >= 300:
            return body
        if self._status != 200:  # somebody's word that it was done
            self._status, self._headers = 200, (*self._headers, ("Content-Type", JSON_TYPE))
        return mcp_answer.given(self.asked, body)

    @property
    def _is_sent(self) -> bool:
        return relay.header(self._headers, "coatcheck-decision") == "sent"

    async def _give_plain(self, message: bytes) -> None:
        out, self._out = self._out, None
        if out is not None:
            length = (("Content-Length", str(len(message))),)
            await out.start(
                self._status, (*relay.without(self._headers, "content-length"), *length)
            )
            await out.write(message)
            await out.end()
            self._is_given = not out.is_gone
        self._tell()

    async def _give_event(self, message: bytes) -> None:
        came = self._answer_event
        is_as_it_came = came is not None and came.data is not None and came.data.encode() == message
        if came is not None and is_as_it_came:
            self._last = came.raw
        else:
            self._last = event_of(message)
        await self._finish()

    async def _finish(self) -> None:
        out = self._out
        if out is not None and self._last is not None:
            await out.write(self._last)
            self._is_given = not out.is_gone
        await self._let_go()

    async def _let_go(self) -> None:
        out, self._out = self._out, None
        if out is not None:
            await out.end()
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def media_of(headers: Headers) -> str:
    """The media type of a body, in lower case."""
    return relay.header(headers, "content-type").partition(";")[0].strip().lower()


def _of_refusal(refusal: Refusal) -> Unanswered:
    calls = refusal.details.get("calls") or [{}]
    return Unanswered(
        fate=mcp_answer.fate_of(refusal.code.value),
        reason=str(refusal.details.get("reason") or refusal.code.value),
        detail=refusal.message,
        number=calls[0].get("call"),
    )
