"""The sidecar's listener on the virtual loop, and the agent's end of a connection to it.

In place of HTTP/1.1's bytes there are messages; all that decides is the real code: the target, the
headers and the call are taken apart by `core/` and `servers/proxy.py`, the rest is the exchange.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgpack

from coatcheck_sidecar.core.asking import class_of_request
from coatcheck_sidecar.core.problem import DECISION, Problem, problem, problem_of
from coatcheck_sidecar.core.relay import BadRequest, header, sift, split_target
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.accounts import Accounts
from coatcheck_sidecar.engine.bindings import Binding, Bindings
from coatcheck_sidecar.engine.exchange import Exchange
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.engine.undo_request import UndoRequests
from coatcheck_sidecar.engine.wanted import Wanted
from coatcheck_sidecar.ports import Clock, Headers, Observer, StoreError
from coatcheck_sidecar.servers.bodies import Taken
from coatcheck_sidecar.servers.proxy import check_said, want
from coatcheck_sidecar.servers.routes import Routes
from tests.sim.http_door import HttpDoor
from tests.sim.http_server import NAME
from tests.sim.loop import this_process

if TYPE_CHECKING:
    from tests.sim.http_judge import HttpJudge

SECRET: Final = b"s" * 32
SSE_END: Final = b"data: [DONE]\n\n"
"""What a reader of events takes for the end, whether or not the body ends."""


@dataclass(slots=True)
class Reading:
    """An answer as far as it came; both ends ask it whether it looks complete."""

    status: int = 0
    headers: Headers = ()
    body: bytes = b""
    has_end: bool = False

    @property
    def is_whole(self) -> bool:
        """Its reader would stop here, content."""
        length = header(self.headers, "content-length")
        if length:
            return bool(self.status) and len(self.body) >= int(length)
        is_events = header(self.headers, "content-type") == "text/event-stream"
        return self.has_end or (is_events and self.body.endswith(SSE_END))

    def take(self, kind: str, *parts: Any) -> None:
        match kind:
            case "start":
                self.status = parts[0]
                self.headers = tuple((name, value) for name, value in parts[1])
            case "data":
                self.body += parts[0]
            case _:
                self.has_end = True


class Front:
    """What one life of a sidecar serves over HTTP."""

    def __init__(
        self,
        uid: str,
        door: HttpDoor,
        *,
        tools: dict[str, Tool],
        clock: Clock,
        observer: Observer,
        judge: "HttpJudge",
    ) -> None:
        self.bindings = Bindings(SECRET + uid.encode())
        self.routes = Routes(self.bindings, f"http://{uid}")
        self.judge = judge
        self.exchange = Exchange(
            lambda tool: door, clock=clock, observer=observer, accounts=Accounts(observer, {})
        )
        self.open: list[Serving] = []
        self.tasks = TaskSet(lambda name, error: judge.failed(f"{name} failed: {error!r}"))
        self._tools = tools
        self.undos = UndoRequests(self.exchange, tools)

    def serve(self) -> "Serving":
        """The protocol of a connection that comes in."""
        return Serving(self)

    def listeners(self, name: str) -> int:
        """How many agents' requests for this are open, as far as is known here."""
        return sum(serving.name == name and not serving.is_gone for serving in self.open)

    async def answer(self, serving: "Serving", asked: dict[str, Any]) -> None:
        """As the real one does, from the target to the end of the answer."""
        try:
            target = split_target(asked["target"])
            binding = self.bindings.find(target.token)
            if binding is None:
                return await serving.give(problem(410, "fenced", detail="no such URL"))
            tool = self._tools[target.tool]
            wanted = self._wanted(tool, asked, binding=binding)
            serving.found(binding, wanted)
            await self.exchange.perform(binding, wanted, reply=serving)
        except BadRequest as error:
            found = problem(400, "bad_request", detail=str(error))
        except Refusal as error:
            self.judge.refused(serving, error)
            found = problem_of(error)
        except StoreError as error:
            found = problem(503, "store_unavailable", detail=str(error), is_final=False)
        else:
            return None
        if serving.reading.status:
            return serving.cut()
        return await serving.give(found)

    def _wanted(self, tool: Tool, asked: dict[str, Any], *, binding: Binding) -> Wanted:
        sifted = sift((name, value) for name, value in asked["headers"])
        check_said(sifted, binding)
        target = split_target(asked["target"])
        return want(
            tool,
            asked["method"],
            target=target,
            sifted=sifted,
            taken=Taken(asked["body"]),
            binding=binding,
            call_class=class_of_request(tool, asked["method"], rest=target.rest),
        )


class Serving(asyncio.Protocol):
    """One request at the sidecar. Implements `ports.AgentReply`."""

    def __init__(self, front: Front) -> None:
        self.name = ""
        self.process = this_process()
        self.is_gone = False
        self.reading = Reading()
        """What was written so far."""
        self.binding: Binding | None = None
        self.wanted: Wanted | None = None
        self._front = front
        self._transport: Any = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._front.open.append(self)

    def data_received(self, data: bytes) -> None:
        asked = msgpack.unpackb(data)
        self.name = dict(asked["headers"])[NAME]
        work = self._front.answer(self, asked)
        self._task = self._front.tasks.start(work, name=f"request for {self.name}")

    def connection_lost(self, exc: Exception | None) -> None:
        """The agent hung up, as the real server hears it."""
        self.is_gone = True
        if self in self._front.open:
            self._front.open.remove(self)
        if self._task is not None:
            self._task.cancel()

    def found(self, binding: Binding, wanted: Wanted) -> None:
        self.binding, self.wanted = binding, wanted

    async def start(self, status: int, headers: Headers) -> None:
        await self._say("start", status, headers)

    async def write(self, data: bytes) -> None:
        await self._say("data", data)

    async def end(self) -> None:
        await self._say("end")

    def cut(self) -> None:
        self._transport.close()

    async def give(self, found: Problem) -> None:
        """An error of the sidecar's own."""
        await self._say("start", found.status, found.headers)
        await self._say("data", found.body)
        await self._say("end")

    async def _say(self, *message: Any) -> None:
        if self.is_gone:
            return
        was_whole = self.reading.is_whole
        self.reading.take(*message)
        if self.reading.is_whole and not was_whole:
            self._front.judge.gave(self)
        self._transport.write(msgpack.packb(message))
        await asyncio.sleep(0)


class Asking(asyncio.Protocol):
    """One request at the agent; `done` has the answer, or that the connection broke."""

    def __init__(self, done: "asyncio.Future[Reading]") -> None:
        self.reading = Reading()
        self.transport: Any = None
        self._done = done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        kind, *parts = msgpack.unpackb(data)
        self.reading.take(kind, *parts)
        if self.reading.is_whole and not self._done.done():
            self._done.set_result(self.reading)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(ConnectionResetError("cut"))


Listening = Callable[[Callable[[], asyncio.BaseProtocol]], Any]


async def fetch(listening: Listening | None, *, timeout_s: float, **asked: Any) -> Reading:
    """One request to the end of its answer. Raises `OSError`, `TimeoutError`."""
    if listening is None:
        raise ConnectionRefusedError("nobody listens")
    done: asyncio.Future[Reading] = asyncio.get_running_loop().create_future()
    transport, _ = listening(lambda: Asking(done))
    transport.write(msgpack.packb(asked))
    try:
        async with asyncio.timeout(timeout_s):
            return await done
    finally:
        transport.close()


def decision(reading: Reading) -> str:
    """Where an answer came from."""
    return header(reading.headers, DECISION.lower())
