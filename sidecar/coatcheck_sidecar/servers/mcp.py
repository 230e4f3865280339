"""MCP way in: a reverse proxy for streamable HTTP that knows a tool call when it sees one.

A `tools/call` goes through the exchange, by the call table. All else passes: requests, streams and
headers as they are, both ways at once; if the agent hangs up, the server hears of it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from coatcheck_sidecar.core import mcp, mcp_answer, relay
from coatcheck_sidecar.core.mcp import Posted, ToolCall, Unfit
from coatcheck_sidecar.core.relay import Sifted
from coatcheck_sidecar.core.sse import Events, TooLong
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.bindings import Binding
from coatcheck_sidecar.engine.mcp_call import JSON_TYPE, McpCall, media_of
from coatcheck_sidecar.engine.mcp_upstream import SSE_TYPE, McpOutgoing
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.ports import Lost, NotSent, Outgoing, Upstream
from coatcheck_sidecar.servers.admin import problem
from coatcheck_sidecar.servers.mcp_desk import Asking, McpDesk
from coatcheck_sidecar.servers.mcp_reply import Reply

MESSAGE_BYTES_MAX: Final = 64 * 2**20
"""Of one message from an agent: arguments with documents in them."""
LIST_BYTES_MAX: Final = 4 * 2**20
"""Of a `tools/list` that is looked into for hints; a bigger one gives none."""
QUIET_S: Final = 86_400.0
"""A stream of notifications may say nothing for a day."""
GONE_POLL_S: Final = 0.5
"""How soon a server hears that nobody listens to its stream any more."""
CALLS_KEPT: Final = 64
"""Calls whose events an agent may come back for; the oldest are forgotten."""
METHODS: Final = frozenset({"POST", "GET", "DELETE"})


class TooBig(Exception):  # noqa: N818 - says what is the matter
    """A message over the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpRequest:
    """A request on a tool's route, taken apart by the listener."""

    request: web.BaseRequest
    binding: Binding
    tool: Tool
    url: str
    token: str
    sifted: Sifted

    def outgoing(self, body: bytes) -> Outgoing:
        """As it goes on to the server, whose answers are read along: so none is compressed."""
        plain = relay.without(self.sifted.passed, "accept-encoding")
        return Outgoing(
            method=self.request.method,
            url=self.url,
            headers=(*plain, ("Accept-Encoding", "identity")),
            body=body,
            connect_s=self.tool.connect_s,
            head_s=self.tool.head_s,
            idle_s=QUIET_S,
        )


class McpProxy:
    """Serves the routes of MCP tools."""

    def __init__(
        self, desk: McpDesk, upstream_of: Callable[[Tool], Upstream], *, tasks: TaskSet
    ) -> None:
        """`tasks` are those in which calls go on when their agent is gone."""
        self._desk = desk
        self._upstream_of = upstream_of
        self._tasks = tasks
        self._calls: OrderedDict[int, tuple[str, McpCall]] = OrderedDict()

    async def handle(self, wanted: McpRequest) -> web.StreamResponse:
        """Answer one request of an agent."""
        request = wanted.request
        if request.method not in METHODS:
            return problem(405, "protocol_error", detail="MCP uses POST, GET and DELETE")
        try:
            body = await _body(request)
            posted = mcp.read(body) if request.method == "POST" else Posted()
        except TooBig as error:
            return problem(413, "too_large", detail=str(error))
        except Unfit as error:
            said = mcp_answer.error(error.code, str(error))
            return web.Response(status=400, body=said, content_type=JSON_TYPE)
        if posted.call is not None:
            return await self._call(wanted, posted.call, body=body)
        last_id = request.headers.get("Last-Event-ID", "")
        call = self._with_event(wanted, last_id) if last_id else None
        if call is not None:
            reply = Reply(request)
            await call.attach(reply, last_id=last_id)
            return reply.given()
        return await self._pass(wanted, body, method=posted.method)

    # Tool calls

    async def _call(
        self, wanted: McpRequest, asked: ToolCall, *, body: bytes
    ) -> web.StreamResponse:
        reply = Reply(wanted.request)
        call = McpCall(asked, reply, has_schema=self._desk.has_schema(wanted.tool, asked))
        outgoing = wanted.outgoing(body)
        attempt = McpOutgoing(
            call=call,
            method=outgoing.method,
            url=outgoing.url,
            headers=outgoing.headers,
            body=body,
            connect_s=outgoing.connect_s,
            head_s=outgoing.head_s,
            idle_s=wanted.tool.idle_s,
        )
        asking = Asking(wanted.binding, wanted.tool, wanted.sifted.said)
        self._calls[id(call)] = (_scope(wanted), call)
        if len(self._calls) > CALLS_KEPT:
            self._calls.popitem(last=False)
        self._tasks.start(self._perform(asking, attempt), name="mcp call")
        await call.left(reply)
        return reply.given()

    async def _perform(self, asking: Asking, attempt: McpOutgoing) -> None:
        try:
            await self._desk.perform(asking, attempt)
        finally:
            if not attempt.call.is_resumable:
                self._calls.pop(id(attempt.call), None)

    def _with_event(self, wanted: McpRequest, event_id: str) -> McpCall | None:
        scope = _scope(wanted)
        for known, call in reversed(self._calls.values()):
            if known == scope and call.has_event(event_id):
                return call
        return None

    # All else

    async def _pass(self, wanted: McpRequest, body: bytes, *, method: str) -> web.StreamResponse:
        reply = Reply(wanted.request)
        passed = self._relay(wanted, wanted.outgoing(body), method=method, reply=reply)
        work = self._tasks.start(passed, name="mcp relay")
        while not work.done():
            await asyncio.wait([work], timeout=GONE_POLL_S)
            if reply.is_gone:
                work.cancel()
                break
        refused: web.Response | None = None
        with suppress(asyncio.CancelledError):
            refused = await work
        return refused or reply.given()

    async def _relay(
        self, wanted: McpRequest, outgoing: Outgoing, *, method: str, reply: Reply
    ) -> web.Response | None:
        try:
            async with self._upstream_of(wanted.tool).send(outgoing) as answer:
                await reply.start(answer.status, answer.headers)
                pieces = answer.pieces()
                if method == mcp.LIST and answer.status == 200:
                    pieces = self._listed(wanted.tool, pieces, media=media_of(answer.headers))
                async for piece in pieces:
                    await reply.write(piece)
        except (NotSent, Lost) as error:
            if reply.response is None:
                return problem(502, "unavailable", detail=f"{wanted.tool.name}: {error}")
            reply.cut()
        else:
            await reply.end()
        return None

    async def _listed(
        self, tool: Tool, pieces: AsyncIterator[bytes], *, media: str
    ) -> AsyncIterator[bytes]:
        """The pieces, read along for what they say of tools before the agent has them."""
        events, whole = Events(event_bytes_max=LIST_BYTES_MAX), bytearray()
        async for piece in pieces:
            if media == SSE_TYPE:
                with suppress(TooLong):
                    for event in events.feed(piece):
                        self._desk.learn(tool, (event.data or "").encode())
                yield piece
            elif len(whole) + len(piece) > LIST_BYTES_MAX:
                yield bytes(whole) + piece
                whole.clear()
            else:
                whole += piece
        if whole:
            self._desk.learn(tool, bytes(whole))
            yield bytes(whole)


def _scope(wanted: McpRequest) -> str:
    session = wanted.request.headers.get("Mcp-Session-Id", "")
    return f"{wanted.token}/{wanted.tool.name}/{session}"


async def _body(request: web.BaseRequest) -> bytes:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Unfit(mcp.INVALID_REQUEST, "a compressed message is not looked into: send it plain")
    whole = bytearray()
    async for piece in request.content.iter_any():
        whole += piece
        if len(whole) > MESSAGE_BYTES_MAX:
            raise TooBig(f"a message of more than {MESSAGE_BYTES_MAX} bytes")
    return bytes(whole)
