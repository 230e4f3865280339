"""MCP way in: a reverse proxy for streamable HTTP that knows a tool call when it sees one.

A `tools/call` goes through the exchange, by the call table. All else passes: requests, streams and
headers as they are, both ways at once; if the agent hangs up, the server hears of it.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core import mcp, mcp_answer, relay
from coatcheck_sidecar.core.mcp import Posted, ToolCall, Unfit
from coatcheck_sidecar.core.relay import BadRequest, Sifted, Target
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.sse import Events, TooLong
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.bindings import Binding
from coatcheck_sidecar.engine.mcp_call import JSON_TYPE, McpCall, media_of
from coatcheck_sidecar.engine.mcp_upstream import SSE_TYPE, McpOutgoing
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.engine.wanted import BAD_GATEWAY, Performs
from coatcheck_sidecar.ports import Lost, NotSent, Observer, Outgoing, Upstream
from coatcheck_sidecar.servers.bodies import too_large
from coatcheck_sidecar.servers.mcp_desk import Asking, McpDesk
from coatcheck_sidecar.servers.mcp_stdio import StdioLink
from coatcheck_sidecar.servers.proxy import check_said
from coatcheck_sidecar.servers.reply import HttpReply

MESSAGE_BYTES_MAX: Final = 64 * 2**20
"""Of one message from an agent: arguments with documents in them."""
LIST_BYTES_MAX: Final = 4 * 2**20
"""Of a `tools/list` that is looked into for hints; a bigger one gives none."""
QUIET_S: Final = 86_400.0
"""A stream of notifications may say nothing for a day."""
CALLS_KEPT: Final = 64
"""Calls whose events an agent may come back for; the oldest are forgotten."""
METHODS: Final = frozenset({"POST", "GET", "DELETE"})


@dataclass(frozen=True, slots=True)
class Route:
    """A request on a tool's route."""

    request: web.BaseRequest
    binding: Binding
    tool: Tool
    target: Target
    sifted: Sifted

    def outgoing(self, body: bytes, *, idle_s: float) -> Outgoing:
        """As it goes on to the server, whose answers are read along: so none is compressed."""
        plain = relay.without(self.sifted.passed, "accept-encoding")
        return Outgoing(
            method=self.request.method,
            url=mcp.url_of(self.tool.mcp, self.target.rest, query=self.target.query),
            headers=(*plain, ("Accept-Encoding", "identity")),
            body=body,
            connect_s=self.tool.connect_s,
            head_s=self.tool.head_s,
            idle_s=idle_s,
        )

    @property
    def scope(self) -> tuple[str, str, str]:
        """Where ids of events are unique."""
        return (
            self.target.token,
            self.tool.name,
            self.request.headers.get("Mcp-Session-Id", ""),
        )


class McpProxy:
    """Serves the routes of MCP tools."""

    def __init__(
        self, exchange: Performs, upstream_of: Callable[[Tool], Upstream], *, observer: Observer
    ) -> None:
        """`upstream_of` gives a tool's connections, as the exchange has them."""
        self._upstream_of = upstream_of
        self._tasks = TaskSet(
            lambda name, e: observer.note("task_failed", name=name, error=repr(e))
        )
        """Calls go on when their agent is gone."""
        self._desk = McpDesk(exchange)
        self._link = StdioLink(self._desk, tasks=self._tasks)
        self._calls: OrderedDict[int, tuple[tuple[str, str, str], McpCall]] = OrderedDict()

    async def close(self) -> None:
        """Stop what is under way."""
        await self._tasks.close()

    async def handle(  # noqa: PLR0917 - the listener's
        self, request: web.BaseRequest, binding: Binding, tool: Tool, target: Target
    ) -> web.StreamResponse:
        """Answer one request of an agent; raises `Refusal`, `BadRequest`."""
        sifted = relay.sift(request.headers.items())
        check_said(sifted, binding)
        route = Route(request, binding, tool, target, sifted)
        if tool.mcp == mcp.STDIO:
            return await self._link.handle(request, Asking(binding, tool, sifted.said))
        if request.method not in METHODS:
            raise BadRequest("MCP uses POST, GET and DELETE")
        try:
            body = await _body(request)
            posted = mcp.read(body) if request.method == "POST" else Posted()
        except Unfit as error:
            said = mcp_answer.error(error.code, str(error))
            return web.Response(status=400, body=said, content_type=JSON_TYPE)
        if posted.call is not None:
            return await self._call(route, posted.call, body=body)
        last_id = request.headers.get("Last-Event-ID", "")
        call = self._with_event(route, last_id) if last_id else None
        if call is None:
            return await self._pass(route, body, method=posted.method)
        reply = HttpReply(request)
        await call.attach(reply, last_id=last_id)
        return reply.as_response()

    async def _call(self, route: Route, asked: ToolCall, *, body: bytes) -> web.StreamResponse:
        reply = HttpReply(route.request)
        call = McpCall(asked, reply, has_schema=self._desk.has_schema(route.tool, asked))
        attempt = McpOutgoing.of(route.outgoing(body, idle_s=route.tool.idle_s), call)
        self._calls[id(call)] = (route.scope, call)
        if len(self._calls) > CALLS_KEPT:
            self._calls.popitem(last=False)
        asking = Asking(route.binding, route.tool, route.sifted.said)
        self._tasks.start(self._perform(asking, attempt), name="mcp call")
        await call.left(reply)
        return reply.as_response()

    async def _perform(self, asking: Asking, attempt: McpOutgoing) -> None:
        try:
            await self._desk.perform(asking, attempt)
        finally:
            if not attempt.call.is_resumable:
                self._calls.pop(id(attempt.call), None)

    def _with_event(self, route: Route, event_id: str) -> McpCall | None:
        for scope, call in reversed(self._calls.values()):
            if scope == route.scope and call.has_event(event_id):
                return call
        return None

    async def _pass(self, route: Route, body: bytes, *, method: str) -> web.StreamResponse:
        """All else. If the agent hangs up this is cancelled, and the server hears of it."""
        tool, reply = route.tool, HttpReply(route.request)
        try:
            async with self._upstream_of(tool).send(route.outgoing(body, idle_s=QUIET_S)) as answer:
                await reply.start(answer.status, answer.headers)
                pieces = answer.pieces()
                if method == mcp.LIST and answer.status == 200:
                    pieces = self._listed(tool, pieces, media=media_of(answer.headers))
                async for piece in pieces:
                    await reply.write(piece)
                await reply.end()
        except (NotSent, Lost) as error:
            if not reply.is_started:
                raise Refusal(
                    ErrorCode.UNAVAILABLE,
                    f"{tool.name}: {error}",
                    retry=Retry.LATER,
                    http_status=BAD_GATEWAY,
                    tool=tool.name,
                ) from None
            reply.cut()
        return reply.as_response()

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


async def _body(request: web.BaseRequest) -> bytes:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Unfit(mcp.INVALID_REQUEST, "a compressed message is not looked into: send it plain")
    whole = bytearray()
    async for piece in request.content.iter_any():
        whole += piece
        if len(whole) > MESSAGE_BYTES_MAX:
            raise too_large(MESSAGE_BYTES_MAX)
    return bytes(whole)
