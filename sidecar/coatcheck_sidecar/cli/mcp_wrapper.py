"""The wrapper of a stdio MCP server: between an agent's client, the server and the sidecar.

All messages pass, but for tool calls and their answers: those go by way of the sidecar, which says
whether the server is told to make one. What the sidecar has not recorded the agent does not get.
"""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import ClientError, ClientSession, ClientWebSocketResponse, WSMsgType

from coatcheck_sidecar.core import mcp, mcp_answer
from coatcheck_sidecar.core.mcp import ToolCall, Unfit
from coatcheck_sidecar.core.mcp_answer import Fate, Unanswered
from coatcheck_sidecar.core.mcp_link import Frame, Kind, decode, encode

LINE_BYTES_MAX: Final = 64 * 2**20
"""Of one message: documents and images in base64."""
LINK_DELAY_S: Final = 0.1
LINK_DELAY_MAX_S: Final = 2.0
LINK_WAIT_S: Final = 30.0
"""A sidecar's restart takes 0.5 to 20 s; after this a call is answered without one."""
LAST_CALLS_S: Final = 600.0
"""The agent is gone: calls under way may still end, so that their outcome is known."""
LAST_ANSWERS_S: Final = 5.0
"""The server is gone: what the sidecar makes of that is known in a round trip or two."""
STOP_S: Final = 2.0
"""Between a closed standard input, SIGTERM and SIGKILL, as the SDKs of MCP have it."""
SIGNALLED: Final = 128


@dataclass(slots=True)
class _Asked:
    """A tool call that the agent waits for."""

    call: ToolCall
    line: bytes
    is_going: bool = False
    came: bytes | None = None


async def wrap(url: str, args: Sequence[str]) -> int:
    """Serve one agent over standard input and output; the server's exit status."""
    server = await asyncio.create_subprocess_exec(
        *args, stdin=PIPE, stdout=PIPE, limit=LINE_BYTES_MAX
    )
    wrapper = Wrapper(url, server)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.terminate)
    return await wrapper.run()


class Wrapper:
    """One agent, one server, one link."""

    def __init__(self, url: str, server: Process) -> None:
        """`url` is that of the tool's route, `server` has pipes."""
        self._url = url
        self._server = server
        self._link: ClientWebSocketResponse | None = None
        self._asked: dict[int, _Asked] = {}
        self._going: dict[str | float, int] = {}
        self._lists: set[str | float] = set()
        self._last = 0
        self._is_over = False
        self._changed = asyncio.Event()

    async def run(self) -> int:
        """To the end of the server, or of the agent and what it asked for."""
        async with asyncio.TaskGroup() as group:
            link = group.create_task(self._keep_link())
            agent = group.create_task(self._hear_agent())
            server = group.create_task(self._hear_server())
            server.add_done_callback(lambda _: self._changed.set())
            await asyncio.wait([agent, server], return_when=asyncio.FIRST_COMPLETED)
            if not server.done():
                await self._until_answered(LAST_CALLS_S, also=server)
            await self._stop_server()
            await server
            await self._lose()
            await self._until_answered(LAST_ANSWERS_S)
            agent.cancel()
            link.cancel()
        code = self._server.returncode or 0
        return code if code >= 0 else SIGNALLED - code

    # The agent

    async def _hear_agent(self) -> None:
        lines = asyncio.StreamReader(limit=LINE_BYTES_MAX)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := await lines.readline():
            if line.strip():
                await self._from_agent(line)

    async def _from_agent(self, line: bytes) -> None:
        try:
            said = mcp.read(line)
        except Unfit as error:
            await _tell_agent(mcp_answer.error(error.code, str(error)))
            return
        if said.call is None:
            if said.method == mcp.LIST and said.id is not None:
                self._lists.add(said.id)
            await self._tell_server(line)
            return
        self._last += 1
        self._asked[self._last] = _Asked(said.call, line)
        await self._say(Frame(Kind.CALL, self._last, line))

    # The server

    async def _hear_server(self) -> None:
        lines = self._server.stdout
        while lines is not None and (line := await lines.readline()):
            await self._from_server(line)

    async def _from_server(self, line: bytes) -> None:
        answered = mcp.answered_id(line)
        if answered is not None and answered in self._going:
            number = self._going.pop(answered)
            self._asked[number].came = line
            await self._say(Frame(Kind.CAME, number, line.strip()))
            return
        if answered is not None and answered in self._lists:
            self._lists.discard(answered)
            await self._say(Frame(Kind.LISTED, 0, line.strip()))
        await _tell_agent(line)

    async def _tell_server(self, line: bytes) -> None:
        stdin = self._server.stdin
        with suppress(ConnectionError):
            if stdin is not None:
                stdin.write(line if line.endswith(b"\n") else line + b"\n")
                await stdin.drain()

    async def _stop_server(self) -> None:
        if self._server.stdin is not None:
            self._server.stdin.close()
        for stop in (self._server.terminate, self._server.kill):
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await self._server.wait()
                    return
            with suppress(ProcessLookupError):
                stop()
        await self._server.wait()

    async def _lose(self) -> None:
        """The server is gone: what it was told to make has no answer."""
        self._is_over = True
        self._going.clear()
        for number, asked in self._asked.items():
            if asked.is_going and asked.came is None:
                await self._say(Frame(Kind.LOST, number))

    # The sidecar

    async def _keep_link(self) -> None:
        delay_s, missed_s = LINK_DELAY_S, 0.0
        async with ClientSession() as session:
            while True:
                with suppress(ClientError, OSError, ValueError):
                    async with session.ws_connect(self._url, max_msg_size=0) as link:
                        delay_s, missed_s = LINK_DELAY_S, 0.0
                        await self._hear_link(link)
                self._link = None
                if missed_s >= LINK_WAIT_S:
                    await self._answer_alone()
                await asyncio.sleep(delay_s)
                missed_s += delay_s
                delay_s = min(2 * delay_s, LINK_DELAY_MAX_S)

    async def _hear_link(self, link: ClientWebSocketResponse) -> None:
        """Ask for what is open, again if need be: the sidecar knows what became of it."""
        self._link = link
        for number, asked in list(self._asked.items()):
            await self._say(Frame(Kind.CALL, number, asked.line))
        async for message in link:
            if message.type is WSMsgType.BINARY:
                await self._from_link(decode(message.data))

    async def _from_link(self, frame: Frame) -> None:
        asked = self._asked.get(frame.number)
        if asked is None:
            return
        if frame.kind is Kind.ANSWER:
            await self._answer(frame.number, frame.message)
        elif asked.came is not None:
            await self._say(Frame(Kind.CAME, frame.number, asked.came.strip()))
        elif self._is_over:
            kind = Kind.LOST if asked.is_going else Kind.UNMADE
            await self._say(Frame(kind, frame.number))
        elif not asked.is_going:
            asked.is_going = True
            self._going[asked.call.id] = frame.number
            await self._tell_server(asked.line)

    async def _say(self, frame: Frame) -> None:
        """Lost if there is no link: all that is open is asked for again by the next one."""
        with suppress(ClientError, ConnectionError):
            if self._link is not None:
                await self._link.send_bytes(encode(frame))

    # Answers

    async def _answer(self, number: int, message: bytes) -> None:
        self._asked.pop(number, None)
        self._going = {key: n for key, n in self._going.items() if n != number}
        await _tell_agent(message)
        self._changed.set()

    async def _answer_alone(self) -> None:
        """There is no sidecar: nothing is made without one."""
        for number, asked in list(self._asked.items()):
            fate = Fate.UNKNOWN if asked.is_going else Fate.NOT_APPLIED
            why = Unanswered(fate=fate, reason="unavailable", detail="the sidecar can't be reached")
            await self._answer(number, mcp_answer.answer(asked.call, why, has_schema=True))

    async def _until_answered(
        self, wait_s: float, *, also: asyncio.Task[None] | None = None
    ) -> None:
        """Until nothing is open any more, or `also` is done."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while self._asked and not (also is not None and also.done()):
                    self._changed.clear()
                    await self._changed.wait()


async def _tell_agent(message: bytes) -> None:
    """One line: JSON has line ends only between its values."""
    line = b" ".join(message.splitlines()) + b"\n"
    await asyncio.to_thread(_write, line)


def _write(line: bytes) -> None:
    with suppress(BrokenPipeError):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
