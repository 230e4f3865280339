"""MCP way in for stdio servers: the sidecar's side of `core/mcp_link.py`.

An attempt at a call is made by the wrapper in the agent's container. For the exchange it is one
like any other: made by this process, and lost if the wrapper goes.
"""

import asyncio
import re
from dataclasses import replace
from typing import Final

from aiohttp import WSMsgType, web

from coatcheck_sidecar.core import mcp, mcp_answer
from coatcheck_sidecar.core.mcp import Unfit
from coatcheck_sidecar.core.mcp_link import Frame, Kind, decode, encode
from coatcheck_sidecar.core.relay import BadRequest
from coatcheck_sidecar.engine.mcp_call import McpCall
from coatcheck_sidecar.engine.mcp_upstream import ANSWER_BYTES_MAX, McpOutgoing
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.ports import Headers, Lost, NotSent, Outgoing
from coatcheck_sidecar.servers.mcp_desk import Asking, McpDesk

FRAME_BYTES_MAX: Final = ANSWER_BYTES_MAX + 1024
PING_S: Final = 20.0
"""Both ends are on one machine: this is for a wrapper that hangs."""
SERVER: Final = re.compile(r"[A-Za-z0-9._-]{0,64}")


class StdioLink:
    """Serves the wrappers of one sidecar."""

    def __init__(self, desk: McpDesk, *, tasks: TaskSet) -> None:
        self._desk = desk
        self._tasks = tasks

    async def handle(self, request: web.BaseRequest, asking: Asking) -> web.StreamResponse:
        """One wrapper, until it goes. `?server=` tells those of one tool apart."""
        server = request.query.get("server", "")
        socket = web.WebSocketResponse(max_msg_size=FRAME_BYTES_MAX, heartbeat=PING_S)
        if not SERVER.fullmatch(server) or not socket.can_prepare(request):
            raise BadRequest("the tool is a stdio server: `coatcheck mcp -- CMD` speaks to it")
        tool = replace(asking.tool, account=f"{asking.tool.account}/{server}")
        wrapper = _Wrapper(socket, self._desk, asking=Asking(asking.binding, tool, {}))
        await socket.prepare(request)
        try:
            async for message in socket:
                if message.type is WSMsgType.BINARY:
                    wrapper.take(decode(message.data), tasks=self._tasks)
        except ValueError:
            await socket.close()
        finally:
            wrapper.gone()
        return socket


class _Wrapper:
    """What one wrapper asks, and is doing."""

    def __init__(self, socket: web.WebSocketResponse, desk: McpDesk, *, asking: Asking) -> None:
        self._socket = socket
        self._desk = desk
        self._asking = asking
        self._made: dict[int, asyncio.Future[bytes]] = {}
        self.is_gone = False

    def take(self, frame: Frame, *, tasks: TaskSet) -> None:
        """A frame of the wrapper; raises `ValueError` for one that only the sidecar says."""
        made = self._made.get(frame.number)
        match frame.kind:
            case Kind.CALL:
                tasks.start(self._call(frame), name="mcp stdio call")
            case Kind.LISTED:
                self._desk.learn(self._asking.tool, frame.message)
            case Kind.CAME if made is not None and not made.done():
                made.set_result(frame.message)
            case Kind.LOST if made is not None and not made.done():
                made.set_exception(Lost("the server went before it answered"))
            case Kind.UNMADE if made is not None and not made.done():
                made.set_exception(NotSent("the server is gone"))
            case Kind.CAME | Kind.LOST | Kind.UNMADE:
                pass  # nobody waits for it any more
            case Kind.GO | Kind.ANSWER:
                raise ValueError("a frame that only the sidecar says")

    def gone(self) -> None:
        """Nothing more will be heard of what it was told to make."""
        self.is_gone = True
        for made in self._made.values():
            if not made.done():
                made.set_exception(Lost("the wrapper of the server went"))

    async def say(self, frame: Frame) -> None:
        """Send a frame; raises `NotSent` if the wrapper is gone."""
        try:
            await self._socket.send_bytes(encode(frame))
        except (ConnectionError, RuntimeError):
            raise NotSent("the wrapper of the server is gone") from None

    async def _call(self, frame: Frame) -> None:
        reply = _Reply(self, frame.number)
        try:
            asked = mcp.read_call(frame.message)
        except Unfit as error:
            await reply.write(mcp_answer.error(error.code, str(error)))
            await reply.end()
            return
        tool = self._asking.tool
        call = McpCall(asked, reply, has_schema=self._desk.has_schema(tool, asked))
        outgoing = Outgoing(
            method="POST",
            url=mcp.STDIO,
            body=frame.message,
            connect_s=tool.connect_s,
            head_s=tool.head_s,
            idle_s=tool.idle_s,
        )

        async def made() -> bytes:
            return await self._make(frame.number)

        await self._desk.perform(self._asking, replace(McpOutgoing.of(outgoing, call), local=made))

    async def _make(self, number: int) -> bytes:
        made: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        await self.say(Frame(Kind.GO, number))
        if self.is_gone:
            raise Lost("the wrapper of the server went")
        self._made[number] = made
        try:
            return await made
        finally:
            del self._made[number]


class _Reply:
    """An answer for the wrapper's agent, as one frame. Status and headers mean nothing here."""

    def __init__(self, wrapper: _Wrapper, number: int) -> None:
        self._wrapper = wrapper
        self._number = number
        self._message = bytearray()

    @property
    def is_gone(self) -> bool:
        return self._wrapper.is_gone

    async def start(self, _status: int, _headers: Headers) -> None:
        self._message.clear()

    async def write(self, data: bytes) -> None:
        self._message += data

    async def end(self) -> None:
        try:
            await self._wrapper.say(Frame(Kind.ANSWER, self._number, bytes(self._message)))
        except NotSent:
            self._wrapper.gone()

    def cut(self) -> None:
        self._wrapper.gone()
