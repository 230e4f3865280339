"""Attempts at MCP tool calls: an answer is one JSON-RPC response, complete or lost.

Whatever stream it comes by, the exchange is given that response alone: a head means nothing here,
since servers send it before they act.

Up to revision 2025-11-25 a server may end a stream early and go on in another, which is asked for
by the last event's id. The attempt goes after it, so that its outcome is known even if the agent
is not there any more. From 2026-07-28 on a broken stream is a lost answer, and closing one cancels
the call: none is closed before the answer came, whatever became of the agent.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import Final

from coatcheck_sidecar.core import mcp, relay
from coatcheck_sidecar.core.sse import Event, Events, TooLong
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.mcp_call import JSON_TYPE, McpCall, media_of
from coatcheck_sidecar.ports import (
    Clock,
    Headers,
    Lost,
    NotSent,
    Outgoing,
    Upstream,
    UpstreamAnswer,
)

ANSWER_BYTES_MAX: Final = 64 * 2**20
"""Of one response, held until it is recorded: images and documents in base64."""
RESUME_DELAY_S: Final = 1.0
"""Before a stream is asked for again, where the server named no time: as the SDKs' clients do."""
RESUME_DELAY_MAX_S: Final = 30.0
IDLE_RESUMES_MAX: Final = 5
"""Streams in a row without one new event, after which the answer counts as lost."""
SSE_TYPE: Final = "text/event-stream"
Local = Callable[[], Awaitable[bytes]]
"""Has a call made, and gives its response; raises `Lost`."""
UpstreamOf = Callable[[Tool], Upstream]
NOT_OF_RESUMED: Final = frozenset({"content-type", "content-length", "accept", "last-event-id"})


@dataclass(frozen=True, slots=True, kw_only=True)
class McpOutgoing(Outgoing):
    """An attempt at a tool call, and the call that it is of."""

    call: McpCall
    local: Local | None = None
    """Makes it where the server is not reached over HTTP."""

    @classmethod
    def of(cls, request: Outgoing, call: McpCall) -> "McpOutgoing":
        """A POST that carries this call."""
        said = {field.name: getattr(request, field.name) for field in fields(Outgoing)}
        return cls(call=call, **said)


def aware(upstream_of: UpstreamOf, *, clock: Clock) -> UpstreamOf:
    """The same connections, for MCP servers by way of `McpUpstream`."""

    def found(tool: Tool) -> Upstream:
        plain = upstream_of(tool)
        return McpUpstream(plain, clock) if tool.mcp else plain

    return found


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer that came whole."""

    status: int
    headers: Headers
    body: bytes

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body in one piece."""
        if self.body:
            yield self.body


class McpUpstream:
    """An `Upstream` that knows when an MCP answer is complete; other requests pass through it."""

    def __init__(self, inner: Upstream, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock

    @asynccontextmanager
    async def send(self, request: Outgoing) -> AsyncIterator[UpstreamAnswer]:
        """Make one attempt; of a tool call the answer is whole. Raises `NotSent`, `Lost`."""
        if isinstance(request, McpOutgoing):
            is_local = request.local is not None
            yield await (self._local(request) if is_local else self._attempt(request))
            return
        async with self._inner.send(request) as answer:
            yield answer

    async def close(self) -> None:
        """Release connections."""
        await self._inner.close()

    async def _local(self, request: McpOutgoing) -> Whole:
        until_s = request.until_boot_s
        if request.local is None or (until_s is not None and self._clock.boottime() > until_s):
            raise NotSent("the lease lapsed before anything was written")
        try:
            async with asyncio.timeout(request.head_s):
                found = await request.local()
        except TimeoutError:
            raise Lost(f"no answer within {request.head_s:.0f} s") from None
        return Whole(200, (("Content-Type", JSON_TYPE),), found)

    async def _attempt(self, request: McpOutgoing) -> Whole:
        stream = _Stream(request.call)
        async with self._inner.send(request) as answer:
            if not _is_stream(answer):
                return await _whole(answer)
            headers = answer.headers
            await request.call.begin(headers)
            found = await stream.follow(answer)
        idle = 0
        while found is None:
            if stream.last_id is None or idle == IDLE_RESUMES_MAX:
                raise Lost("the stream ended without the call's answer")
            before = stream.last_id
            await request.call.park()
            await self._clock.sleep(stream.delay_s)
            found = await self._resume(request, stream)
            idle = idle + 1 if stream.last_id == before else 0
        plain = relay.without(headers, *NOT_OF_RESUMED)
        return Whole(200, (*plain, ("Content-Type", JSON_TYPE)), found)

    async def _resume(self, request: McpOutgoing, stream: "_Stream") -> bytes | None:
        """Ask for the stream's events from where it ended; the answer, if it is among them."""
        kept = relay.without(request.headers, *NOT_OF_RESUMED)
        headers = (*kept, ("Accept", SSE_TYPE), ("Last-Event-ID", stream.last_id or ""))
        again = Outgoing(
            method="GET",
            url=request.url,
            headers=headers,
            connect_s=request.connect_s,
            head_s=request.head_s,
            idle_s=request.idle_s,
        )
        try:
            async with self._inner.send(again) as answer:
                if not _is_stream(answer):
                    raise Lost(f"its stream is not given again: status {answer.status}")
                return await stream.follow(answer)
        except NotSent:
            return None


class _Stream:
    """The events of one attempt, over all the streams that they come by."""

    def __init__(self, call: "McpCall") -> None:
        self._call = call
        self.last_id: str | None = None
        self.delay_s = RESUME_DELAY_S

    async def follow(self, answer: UpstreamAnswer) -> bytes | None:
        """Pass events on until the call's answer comes; `None` if the stream ends before."""
        events = Events(event_bytes_max=ANSWER_BYTES_MAX)
        try:
            async for piece in answer.pieces():
                for event in events.feed(piece):
                    self._note(event)
                    message = event.data.encode() if event.data else b""
                    if message and mcp.answered_id(message) == self._call.asked.id:
                        self._call.answered_by(event)
                        return message
                    await self._call.forward(event)
        except TooLong as error:
            raise Lost(str(error)) from None
        except Lost:
            if self.last_id is None:
                raise
        return None

    def _note(self, event: Event) -> None:
        self.last_id = event.id or self.last_id
        if event.retry_ms is not None:
            self.delay_s = min(event.retry_ms / 1000, RESUME_DELAY_MAX_S)


def _is_stream(answer: UpstreamAnswer) -> bool:
    return 200 <= answer.status < 300 and media_of(answer.headers) == SSE_TYPE


async def _whole(answer: UpstreamAnswer) -> Whole:
    """A body that came whole; a cut one tells no more than none: servers answer before they act."""
    pieces: list[bytes] = []
    length = 0
    async for piece in answer.pieces():
        pieces.append(piece)
        length += len(piece)
        if length > ANSWER_BYTES_MAX:
            raise Lost(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
    if answer.status < 300 and not pieces:
        raise Lost(f"status {answer.status} without an answer")
    return Whole(answer.status, answer.headers, b"".join(pieces))
