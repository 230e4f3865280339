"""Lives of an agent that is really killed: the mechanics of `testing.kill_everywhere`.

The nursery is a process without threads, forked before the sidecar's thread begins; it forks each
life of the agent and, being its parent, is the only one that kills it. The sidecar that serves a
life tells it when: at one message of the wire, before it is acted on or before it is answered. The
other points are in the agent itself, around each of its effects.
"""

import asyncio
import inspect
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from coatcheck.wire import PUSH_ID, Message
from coatcheck_sidecar.engine.sidecar import Sidecar
from coatcheck_sidecar.servers.control import Connection, ControlServer

MESSAGE_BYTES_MAX: Final = 65_536
"""Between test and nursery: a life's orders, or its end with a traceback."""
ERROR_CHARS_MAX: Final = 8_000
"""The end of a traceback, which is where it says what happened."""
KILL: Final = b"kill"
QUIT: Final = b"quit"


@dataclass(frozen=True, slots=True)
class Orders:
    """What one life is to do. `effect` (from 0) is where it dies, `is_after` on which side."""

    socket: str
    effects: str
    effect: int | None = None
    is_after: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """How a life ended: exit status, or minus the signal; the traceback if it raised."""

    status: int
    error: str = ""


class Effects:
    """Counts what an agent does to the world, in a file that outlives the agent."""

    def __init__(self, path: Path, *, orders: Orders | None = None) -> None:
        """`orders` say at which effect this process dies."""
        self._path = path
        self._orders = orders
        self._added = 0
        self._lock = threading.Lock()

    def add(self, name: str, key: object = "") -> None:
        """Note that it happened: to be called where the tool does what can't be undone."""
        with self._lock:
            number, self._added = self._added, self._added + 1
            self._die_at(number, is_after=False)
            line = json.dumps([name, str(key)]) + "\n"
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, line.encode())
            finally:
                os.close(file)
            self._die_at(number, is_after=True)

    def counts(self) -> Counter[tuple[str, str]]:
        """How often each (name, key) happened, in all lives."""
        if not self._path.exists():
            return Counter()
        lines = self._path.read_text().splitlines()
        return Counter((name, key) for name, key in map(json.loads, lines))

    def count(self, name: str, key: object = "") -> int:
        """How often this one happened, in all lives."""
        return self.counts()[name, str(key)]

    def names(self) -> list[str]:
        """Each effect in order, as a person would call it."""
        if not self._path.exists():
            return []
        return [" ".join(json.loads(line)) for line in self._path.read_text().splitlines()]

    def _die_at(self, number: int, *, is_after: bool) -> None:
        orders = self._orders
        if orders and orders.effect == number and orders.is_after == is_after:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()


class Nursery:
    """Forks lives of one agent, and kills them when told. A context manager."""

    def __init__(self, agent: Callable[[Effects], Any], *, run: str, life_s: float) -> None:
        """`life_s` is how long one life may take before it counts as stuck, and is killed."""
        self._agent = agent
        self._run = run
        self._life_s = life_s

    def __enter__(self) -> Self:
        sys.stdout.flush()
        sys.stderr.flush()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with warnings.catch_warnings():
            # Later Pythons warn of threads; nothing here takes a lock that one could hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if self._pid == 0:
            self._control.close()
            _then_exit(lambda: self._serve(theirs))
        theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._control.send(QUIT)
        self._control.close()
        os.waitpid(self._pid, 0)

    def live(self, orders: Orders) -> Ended:
        """One life, to its end."""
        self._control.send(json.dumps(asdict(orders)).encode())
        return Ended(**json.loads(self._control.recv(MESSAGE_BYTES_MAX)))

    def kill(self) -> None:
        """End the life under way, by SIGKILL; may be called by another thread."""
        self._control.send(KILL)

    def _serve(self, control: socket.socket) -> None:
        while (raw := control.recv(MESSAGE_BYTES_MAX)) not in (b"", QUIT):
            if raw != KILL:  # one that came when the life was over already
                ended = self._one_life(control, Orders(**json.loads(raw)))
                control.send(json.dumps(asdict(ended)).encode())

    def _one_life(self, control: socket.socket, orders: Orders) -> Ended:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            control.close()
            _then_exit(lambda: self._be_agent(orders), error=writing)
        os.close(writing)
        said = b""
        why = ""
        while True:
            ready = select.select([control.fileno(), reading], [], [], self._life_s)[0]
            if not ready:
                why = f"it was stuck for {self._life_s:g} s"
                os.kill(pid, signal.SIGKILL)
            if control.fileno() in ready and control.recv(MESSAGE_BYTES_MAX) in (KILL, b""):
                os.kill(pid, signal.SIGKILL)
            if reading in ready:
                part = os.read(reading, MESSAGE_BYTES_MAX)
                said += part
                if not part:
                    break
        os.close(reading)
        _, status = os.waitpid(pid, 0)
        error = why or said.decode(errors="replace")[-ERROR_CHARS_MAX:]
        return Ended(os.waitstatus_to_exitcode(status), error)

    def _be_agent(self, orders: Orders) -> None:
        os.environ |= {"COATCHECK_SOCKET": orders.socket, "COATCHECK_RUN_ID": self._run}
        effects = Effects(Path(orders.effects), orders=orders)
        found = self._agent(effects)
        if inspect.isawaitable(found):
            asyncio.run(_awaited(found))


async def _awaited(found: Any) -> None:
    await found


def _then_exit(work: Callable[[], None], *, error: int | None = None) -> None:
    """The end of a forked process: nothing of the test's own ending runs in it."""
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        if error is not None:
            os.write(error, traceback.format_exc().encode()[-ERROR_CHARS_MAX:])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Watch:
    """Counts the messages of all lives, and has the agent killed at one of them."""

    def __init__(self, *, kill: Callable[[], None], at: int | None) -> None:
        """`at` is the point, from 0."""
        self.points: list[str] = []
        self._kill = kill
        self._at = at

    def is_killed_at(self, point: str) -> bool:
        """Note a point; true if the agent is killed there."""
        self.points.append(point)
        if len(self.points) - 1 != self._at:
            return False
        self._kill()
        return True


class WatchedServer(ControlServer):
    """The control server, with an eye on what goes through it."""

    def __init__(self, sidecar: Sidecar, path: Path, *, watch: Watch) -> None:
        """`watch` is told of every request, and of every answer."""
        super().__init__(sidecar, path)
        self._watch = watch
        self.changed = asyncio.Event()

    def _connection(self) -> Connection:
        return _WatchedConnection(
            self._sidecar,
            tasks=self._tasks,
            known=self._open,
            allowed_uids=self._allowed_uids,
            watch=self._watch,
            changed=self.changed,
        )

    async def until_idle(self) -> None:
        """Wait until every agent's end was noticed."""
        while self._open:
            self.changed.clear()
            await self.changed.wait()


class _WatchedConnection(Connection):
    def __init__(
        self, sidecar: Sidecar, *, watch: Watch, changed: asyncio.Event, **more: Any
    ) -> None:
        super().__init__(sidecar, **more)
        self._watch = watch
        self._changed = changed
        self._asked: dict[int, str] = {}
        self._is_killed = False

    def _start(self, message: Message) -> None:
        self._asked[message.id] = what = _named(message)
        if not self._is_dead_at(f"before {what}"):
            super()._start(message)

    def _write(
        self, type_: str, id_: int, *, body: dict[str, Any], attachment: bytes | None = None
    ) -> None:
        what = self._asked.pop(id_, None) if id_ != PUSH_ID else None
        if what is None or not self._is_dead_at(f"after {what}"):
            super()._write(type_, id_, body=body, attachment=attachment)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._changed.set()

    def _is_dead_at(self, point: str) -> bool:
        """From its death on nothing reaches the agent, and nothing of it is acted on."""
        self._is_killed = self._is_killed or self._watch.is_killed_at(point)
        return self._is_killed


def _named(message: Message) -> str:
    words = [str(message.type)]
    words += [str(message.body[name]) for name in ("tool", "kind", "name") if name in message.body]
    if "step" in message.body:
        words.append(f"of step {message.body['step']}")
    return " ".join(words)


def dying_at(orders: Orders, *, effect: int, is_after: bool) -> Orders:
    """The same life, which ends at an effect of its own."""
    return replace(orders, effect=effect, is_after=is_after)
