"""The loopback listener: routes of tools, and the way to the run API and the forward proxy.

One handler below aiohttp's router, since every tool call passes here: the raw target is taken apart
by `core/relay.py` and never decoded, the body is taken in whole, and the exchange does the rest.
"""

import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11

from coatcheck.wire import ErrorCode
from coatcheck_sidecar.core.asking import Request, ask_of_request, check_keys, class_of_request
from coatcheck_sidecar.core.model import CallClass
from coatcheck_sidecar.core.policy import Ask
from coatcheck_sidecar.core.problem import Problem, problem, problem_of
from coatcheck_sidecar.core.relay import (
    BadRequest,
    Sifted,
    Target,
    join,
    sift,
    split_target,
    wait_s,
)
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.bindings import Binding, Bindings
from coatcheck_sidecar.engine.wanted import Performs, Wanted
from coatcheck_sidecar.ports import Outgoing, StoreError
from coatcheck_sidecar.servers.admin import SHUTDOWN_S, foreign
from coatcheck_sidecar.servers.bodies import MEMORY_BYTES_MAX, Bodies, Taken, too_large
from coatcheck_sidecar.servers.connection import Server
from coatcheck_sidecar.servers.reply import HttpReply

LINE_BYTES_MAX: Final = 16_384
"""Of a header's line: tokens of some clouds are 8 KiB and more."""
LOCAL: Final = re.compile(r"/v1(?:[/?]|$)")
HOSTS_MAX: Final = 64
"""Names of this port that were looked at and found to be loopback's."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
McpRoute = Callable[[web.BaseRequest, Binding, Tool, Target], Awaitable[web.StreamResponse]]
"""Answers a request to a tool that is an MCP server, to the end."""
BlobRoute = Callable[[web.BaseRequest, Binding, Target], Awaitable[web.StreamResponse]]
BLOBS: Final = "~blobs"
"""In the place of a tool's name, of which none can be called so."""
Busy = Callable[[str], AbstractContextManager[object]]
Work = Callable[[web.BaseRequest, HttpReply], Awaitable[web.StreamResponse]]


class Proxy:
    """Dispatches the requests of one listener."""

    def __init__(
        self,
        tools: Mapping[str, Tool],
        *,
        bindings: Bindings,
        exchange: Performs,
        bodies: Bodies,
        local: Handler,
    ) -> None:
        """`local` answers what is below `/v1`, and guards itself."""
        self._tools = tools
        self._bindings = bindings
        self._exchange = exchange
        self._bodies = bodies
        self._local = local
        self._hosts: set[str] = set()
        self.names_all = False
        """Reads that are passed on are identified too, for whoever looks on."""
        self.forward: Handler | None = None
        """Answers absolute targets and CONNECT."""
        self.busy: Busy = lambda _token: nullcontext()
        """Entered while an agent, by its token, calls a tool."""
        self.mcp: McpRoute | None = None
        self.blobs: BlobRoute | None = None

    def server(self) -> web.Server:
        """For a runner. An agent that hangs up cancels its handler."""
        return Server(
            self.handle,
            access_log=None,
            auto_decompress=False,
            handler_cancellation=True,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=LINE_BYTES_MAX,
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        target = request.raw_path
        is_absolute = not target.startswith("/")
        if is_absolute and self.forward is not None:
            return await self.forward(request)
        if LOCAL.match(target):
            return await self._local(request)
        refused = self._foreign(request)
        if refused is not None:
            return await _refuse(HttpReply(request), problem(403, "forbidden", detail=refused))
        return await self._answered(request, self._route)

    async def serve(  # noqa: PLR0917 - a handler of the forward proxy
        self, request: web.BaseRequest, binding: Binding, tool: Tool, rest: str
    ) -> web.StreamResponse:
        """Answer a request that is a call of `tool`; `rest` is what stands behind its upstream."""
        path, _, query = rest.partition("?")
        target = Target("", tool.name, path, query)
        return await self._answered(
            request,
            lambda _, reply: self._call(request, reply, binding=binding, tool=tool, target=target),
        )

    async def _answered(self, request: web.BaseRequest, work: "Work") -> web.StreamResponse:
        reply = HttpReply(request)
        try:
            return await work(request, reply)
        except BadRequest as error:
            found = problem(400, "bad_request", detail=str(error))
        except Refusal as error:
            found = problem_of(error)
        except StoreError as error:
            found = problem(503, "store_unavailable", detail=str(error), is_final=False)
        return await _refuse(reply, found)

    def _foreign(self, request: web.BaseRequest) -> str | None:
        headers = request.headers
        hosts, is_page = headers.getall("Host", []), "Origin" in headers
        if not is_page and len(hosts) == 1 and hosts[0] in self._hosts:
            return None
        refused = foreign(hosts, origins=headers.getall("Origin", []))
        if refused is None and not is_page and len(self._hosts) < HOSTS_MAX:
            self._hosts.add(hosts[0])
        return refused

    async def _route(self, request: web.BaseRequest, reply: HttpReply) -> web.StreamResponse:
        target = split_target(request.raw_path)
        binding = self._bindings.find(target.token)
        if binding is None:
            raise _no_token(self._bindings.ended_by(target.token))
        if target.tool == BLOBS and self.blobs is not None:
            with self.busy(target.token):
                return await self.blobs(request, binding, target)
        tool = self._tools.get(target.tool)
        if tool is None:
            names = ", ".join(sorted(self._tools)) or "none"
            why = f"there is no tool {target.tool!r} in the configuration: {names}"
            raise Refusal(ErrorCode.NOT_FOUND, why, tool=target.tool)
        with self.busy(target.token):
            if not tool.mcp:
                return await self._call(request, reply, binding=binding, tool=tool, target=target)
            if self.mcp is None:
                raise Refusal(ErrorCode.NOT_FOUND, f"{tool.name} is an MCP server", tool=tool.name)
            return await self.mcp(request, binding, tool, target)

    async def _call(
        self,
        request: web.BaseRequest,
        reply: HttpReply,
        *,
        binding: Binding,
        tool: Tool,
        target: Target,
    ) -> web.StreamResponse:
        sifted = sift(request.headers.items())
        check_said(sifted, binding)
        if "upgrade" in request.headers:
            found = problem(501, "unsupported", detail="routes carry no WebSockets or upgrades")
            return await _refuse(reply, found)
        call_class = class_of_request(tool, request.method, rest=target.rest)
        taken = await self.take_body(request, tool)
        wanted = want(
            tool,
            request.method,
            target=target,
            sifted=sifted,
            taken=taken,
            binding=binding,
            call_class=call_class,
            is_named=self.names_all,
        )
        await self._exchange.perform(binding, wanted, reply=reply)
        return reply.as_response()

    async def take_body(self, request: web.BaseRequest, tool: Tool) -> Taken:
        """A request's body; raises `Refusal` above the tool's limit."""
        if not request.body_exists:
            return Taken()
        bytes_max = tool.request_bytes_max
        if (request.content_length or 0) > bytes_max:
            raise too_large(bytes_max)
        if "expect" in request.headers and request.version >= HttpVersion11:
            transport = request.transport
            if transport is not None:
                transport.write(CONTINUE)
        first = await request.content.readany()
        if len(first) == request.content_length and len(first) <= MEMORY_BYTES_MAX:
            return Taken(first)
        return await self._bodies.take(_pieces(request, first), bytes_max=bytes_max)


async def _pieces(request: web.BaseRequest, first: bytes) -> AsyncIterator[bytes]:
    data = first
    while data:
        yield data
        data = await request.content.readany()


def check_said(sifted: Sifted, binding: Binding) -> None:
    """Raises `Refusal` if the request says another run or step than its token's."""
    said, run = sifted.said, binding.keeper.run
    named = said.get("coatcheck-run", run)
    if named != run:
        why = f"the token is of run {run}, Coatcheck-Run says {named!r:.140}"
        raise Refusal(ErrorCode.CONFLICT, why, http_status=403)
    step = said.get("coatcheck-step")
    if step is not None and step != str(binding.calls.step):
        raise Refusal(
            ErrorCode.CONFLICT,
            f"a call of step {step!r:.20}: the step to do is {binding.calls.step}",
            run=run,
        )


def want(
    tool: Tool,
    method: str,
    *,
    target: Target,
    sifted: Sifted,
    taken: Taken,
    binding: Binding,
    call_class: CallClass,
    is_named: bool = False,
) -> Wanted:
    """The exchange's order for a route's request; raises `BadRequest`.

    What nobody keeps has no identity, unless it `is_named` all the same.
    """
    place = join(tool.upstream, target.rest, query=target.query)
    is_recorded = call_class is not CallClass.READ or tool.record
    ask = _passed(tool.name)
    check_keys(sifted.said)
    if is_recorded or is_named:
        request = Request(
            method=method,
            place=place,
            headers=sifted.passed,
            said=sifted.said,
            body=taken.body if isinstance(taken.body, bytes) else b"",
            body_digest=taken.digest,
        )
        run, step = binding.keeper.run, binding.calls.step
        ask = ask_of_request(tool, request, run=run, step=step, call_class=call_class)
        if call_class is not CallClass.READ and (tool.undo or tool.irreversible):
            undo = tool.undo_text(method, target.rest or "/")
            ask = replace(ask, undo=undo, is_irreversible=tool.irreversible)
    return Wanted(
        tool=tool,
        ask=ask,
        outgoing=Outgoing(
            method=method,
            url=place.url,
            headers=sifted.passed,
            body=taken.body,
            connect_s=tool.connect_s,
            head_s=tool.head_s,
            idle_s=tool.idle_s,
        ),
        is_recorded=is_recorded,
        level=tool.durability,
        wait_s=wait_s(sifted.said) if sifted.said else 0.0,
    )


@cache
def _passed(tool: str) -> Ask:
    return Ask(run="", step=0, tool=tool, call_class=CallClass.READ, fingerprint=b"")


def _no_token(ended_by: ErrorCode | None) -> Refusal:
    if ended_by is ErrorCode.DEADLINE_EXCEEDED:
        return Refusal(ended_by, "this URL is of a run whose deadline is over")
    if ended_by is not None:
        why = "this URL is of a run, or of a life of its agent, that is over here: open the run"
        return Refusal(ended_by, why)
    return Refusal(ErrorCode.NOT_FOUND, "nobody was given this URL: take `proxy` of the open run")


async def _refuse(reply: HttpReply, found: Problem) -> web.StreamResponse:
    if reply.is_started:
        reply.cut()
    else:
        await reply.give(found)
    return reply.as_response()


class Listener:
    """A proxy's server on its port, from `start` to `close`."""

    def __init__(self, proxy: Proxy, reserved: socket.socket) -> None:
        """`reserved` is closed with it."""
        self._proxy = proxy
        self._socket = reserved
        self._runner: web.ServerRunner | None = None
        self.port: int = reserved.getsockname()[1]

    async def start(self) -> None:
        """Answer whoever connected, and those that will."""
        self._runner = web.ServerRunner(self._proxy.server(), shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()

    async def close(self) -> None:
        """Stop listening, and end what is open."""
        if self._runner is not None:
            await self._runner.cleanup()
        self._socket.close()
