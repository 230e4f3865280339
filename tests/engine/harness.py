"""Sidecars to test: real engine, real control socket, stores and journals that the test holds."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgpack

from coatcheck.wire import Assembler, FrameReader, Message, encode_message
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.runlog import RunLog
from coatcheck_sidecar.engine.restore import read_run
from coatcheck_sidecar.engine.settings import Settings
from coatcheck_sidecar.engine.sidecar import Sidecar
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.ports import Clock, Journal, Listed, Store, Stored, StoreError
from coatcheck_sidecar.servers.control import ControlServer
from coatcheck_sidecar.servers.routes import Routes
from coatcheck_sidecar.stores.memory import MemoryStore
from coatcheck_sidecar.stores.memory_journal import MemoryJournal
from coatcheck_sidecar.stores.spool import Spool

FAST = Settings(
    heartbeat_s=0.05,
    lease_s=0.4,
    ship_interval_s=0.005,
    pause_max_s=0.0,
    claim_poll_s=0.05,
    orphan_wait_s=0.1,
    margin_s=0.1,
)
BIG = 1 << 20
HELLO = {"protocol": [1, 1], "client": "test", "incarnation": b"i" * 16}
OPEN = {"queue": "default", "schema": 1, "create": True, "wait_s": 0.0}


class Notes:
    """Hears what the engine says, and keeps it."""

    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, object]]] = []

    def note(self, event: str, /, **fields: object) -> None:
        self.all.append((event, fields))

    def of(self, event: str) -> list[dict[str, object]]:
        return [fields for name, fields in self.all if name == event]


class Link(MemoryStore):
    """A memory store whose link can be cut, and whose verbs can be made to wait."""

    def __init__(self) -> None:
        super().__init__(now_ms=SystemClock().wall_ms)
        self.is_away = False
        self.swaps: list[str] = []
        self.puts: list[str] = []
        self.before_swap: Callable[[str], Awaitable[None]] | None = None
        self.lands_unanswered = 0
        """So many of the next swaps happen, and their answer is lost."""

    def twin(self) -> "Link":
        """Another link to the same store, to be cut by itself."""
        other = Link()
        other._kept = self._kept
        other._writes = 1 << 20  # versions of its own
        return other

    async def _check(self) -> None:
        await asyncio.sleep(0)
        if self.is_away:
            raise StoreError("the link is down")

    async def get(self, name: str) -> Stored | None:
        await self._check()
        return await super().get(name)

    async def put(self, name: str, data: bytes) -> None:
        await self._check()
        self.puts.append(name)
        await super().put(name, data)

    async def swap(self, name: str, data: bytes, *, expected: str | None) -> str:
        if self.before_swap is not None:
            await self.before_swap(name)
        await self._check()
        self.swaps.append(name)
        tag = await super().swap(name, data, expected=expected)
        if self.lands_unanswered:
            self.lands_unanswered -= 1
            raise StoreError("no answer")
        return tag

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Listed]:
        await self._check()
        return await super().list(prefix, after=after, limit=limit)

    async def now_ms(self) -> int:
        await self._check()
        return await super().now_ms()


class RefusedError(Exception):
    """An `error` reply."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(f"{body['code']}: {body['message']}")
        self.code = str(body["code"])
        self.message = str(body["message"])
        self.body = body


class Wire:
    """A client of bare messages: says what a test wants said, well formed or not."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.tasks = TaskSet(lambda _name, _error: None)
        self.pushes: list[Message] = []
        self.stray: list[Message] = []
        """Errors with id 0."""
        self.is_lost = asyncio.Event()
        self.incarnation = os.urandom(16)
        self.run = ""
        self.step = 1
        self.epoch = 0
        self._replies: dict[int, asyncio.Future[Message]] = {}
        self._last = 0

    @classmethod
    async def connect(cls, path: Path, *, incarnation: bytes | None = None) -> Self:
        self = cls(*await asyncio.open_unix_connection(str(path)))
        self.incarnation = incarnation or self.incarnation
        self.tasks.start(self._read(), name="read")
        return self

    async def _read(self) -> None:
        frames, joined = FrameReader(), Assembler()
        with contextlib.suppress(ConnectionError):
            while data := await self.reader.read(BIG):
                for frame in frames.feed(data):
                    message = joined.add(frame)
                    if message is not None:
                        self._take(message)
        self.is_lost.set()
        for future in self._replies.values():
            if not future.done():
                future.set_exception(ConnectionError("hung up"))
                future.exception()

    def _take(self, message: Message) -> None:
        if message.id == 0:
            (self.stray if message.type == "error" else self.pushes).append(message)
        elif not self._replies[message.id].done():
            self._replies[message.id].set_result(message)

    def raw(self, data: bytes) -> None:
        self.writer.write(data)

    def send(
        self, type_: str, body: dict[str, Any], attachment: bytes | None = None
    ) -> "asyncio.Future[Message]":
        self._last += 1
        future = asyncio.get_running_loop().create_future()
        self._replies[self._last] = future
        for frame in encode_message(type_, self._last, body, attachment):
            self.writer.write(frame)
        return future

    async def ask(
        self, type_: str, body: dict[str, Any] | None = None, attachment: bytes | None = None
    ) -> Message:
        reply = await self.send(type_, body or {}, attachment)
        if reply.type == "error":
            raise RefusedError(reply.body)
        return reply

    async def hello(self) -> Message:
        body = {"protocol": [1, 1], "client": "test", "incarnation": self.incarnation}
        return await self.ask("hello", body)

    async def open(self, run: str | None = "r1", **more: Any) -> Message:
        given = more.pop("input", None)
        body = {"queue": "default", "schema": 1, "create": True, "wait_s": 0.0, **more}
        if run is not None:
            body["run"] = run
        reply = await self.ask("open", body, given)
        self.run, self.step, self.epoch = (
            reply.body["run"], reply.body["step"], reply.body["epoch"],
        )  # fmt: skip
        return reply

    async def commit(self, state: bytes = b"s", *, level: str = "node", **more: Any) -> int:
        body = {"step": self.step, "level": level, "schema": 1, **more}
        reply = await self.ask("commit", body, state)
        self.step = reply.body["step"]
        return int(reply.body["seq"])

    async def call(self, tool: str = "charge", effect: str = "once", **more: Any) -> Message:
        arguments = msgpack.packb(more.pop("args", {}))
        body = {
            "step": self.step, "tool": tool, "effect": effect, "identity": "content", **more,
        }  # fmt: skip
        return await self.ask("call", body, arguments)

    async def outcome(self, go: Message, kind: str = "result", result: Any = None) -> int:
        body = {"call": go.body["call"], "attempt": go.body["attempt"], "kind": kind}
        data = msgpack.packb(result) if kind == "result" else None
        return int((await self.ask("outcome", body, data)).body["seq"])

    async def finish(self, result: Any = None) -> None:
        await self.ask("finish", {"step": self.step}, msgpack.packb(result))

    async def release(self, reason: str = "left") -> None:
        await self.ask("release", {"reason": reason})

    async def drop(self) -> None:
        """As an agent that is killed."""
        self.writer.close()
        await self.tasks.close()


@dataclass
class Pod:
    """One life of a sidecar."""

    sidecar: Sidecar
    server: ControlServer
    path: Path
    notes: Notes
    journal: Journal
    wires: list[Wire] = field(default_factory=list)
    is_gone: bool = False
    may_fail: bool = False
    """A task of the engine may end by an exception."""

    async def wire(self, *, incarnation: bytes | None = None, is_greeted: bool = True) -> Wire:
        """A client, without a run."""
        wire = await Wire.connect(self.path, incarnation=incarnation)
        self.wires.append(wire)
        if is_greeted:
            await wire.hello()
        return wire

    async def agent(self, run: str | None = "r1", **more: Any) -> Wire:
        """A client with an open run."""
        wire = await self.wire(incarnation=more.pop("incarnation", None))
        await wire.open(run, **more)
        return wire

    async def die(self) -> None:
        """Stop in the middle: nothing more is shipped or released. The journal is left alone."""
        if not self.is_gone:
            self.is_gone = True
            await self.server.close()
            await self.sidecar.close()
            for wire in self.wires:
                await wire.drop()


class Yard:
    """Pods around one store. Sockets lie in a short path of their own."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.store = store
        self.pods: list[Pod] = []
        self.at_end = contextlib.AsyncExitStack()
        """What was started beside the pods."""

    async def pod(
        self,
        me: str = "pod1.s1",
        *,
        journal: Journal | None = None,
        settings: Settings = FAST,
        clock: Clock | None = None,
        store: Store | None = None,
        routes: Routes | None = None,
    ) -> Pod:
        """Start a sidecar; pods of the same name share a socket path and a spool."""
        notes = Notes()
        kept = MemoryJournal() if journal is None else journal
        uid = me.partition(".")[0]
        sidecar = Sidecar(
            me,
            store=store or self.store,
            journal=kept,
            spool=Spool(self.folder / f"{uid}.spool", bytes_max=1 << 30),
            clock=clock or SystemClock(),
            settings=settings,
            observer=notes,
        )
        await sidecar.start()
        server = ControlServer(sidecar, self.folder / f"{uid}.sock", routes=routes)
        await server.start()
        pod = Pod(sidecar, server, self.folder / f"{uid}.sock", notes, kept)
        self.pods.append(pod)
        return pod

    async def log(self, run: str = "r1") -> RunLog:
        """A run as the store has it."""
        found = await read_run(self.store, run, bytes_max=1 << 30)
        assert found is not None
        return found.log


@contextlib.asynccontextmanager
async def yard(store: Store | None = None) -> AsyncIterator[Yard]:
    folder = Path(tempfile.mkdtemp(prefix="cck"))
    made = Yard(folder, store or Link())
    try:
        yield made
    finally:
        await made.at_end.aclose()
        for pod in made.pods:
            await pod.die()
            await pod.journal.close()
        await made.store.close()
        shutil.rmtree(folder)
    for pod in made.pods:
        assert pod.may_fail or not pod.notes.of("task_failed")


async def until(is_so: Callable[[], Any], *, timeout_s: float = 5.0) -> None:
    """Wait for something that comes by itself."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = is_so()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.005)


async def still_serves(pod: Pod) -> None:
    """A good client gets all it wants, of a pod that isn't on its way out."""
    if pod.sidecar.drain.is_begun:
        return
    agent = await pod.agent("good")
    await agent.commit(b"fine", level="remote")
    await agent.release()
    await agent.drop()


async def last_words(wire: Wire) -> str:
    """What is said before the connection is closed."""
    async with asyncio.timeout(5):
        await wire.is_lost.wait()
    return " ".join(message.body["message"] for message in wire.stray)


def link(yard: Yard) -> Link:
    """Its store, to be cut off."""
    assert isinstance(yard.store, Link)
    return yard.store


async def names(yard: Yard, prefix: str) -> list[str]:
    return [entry.name for entry in await yard.store.list(prefix)]


async def names_are(yard: Yard, prefix: str, wanted: list[str]) -> bool:
    return await names(yard, prefix) == wanted
