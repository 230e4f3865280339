"""An event loop on virtual time, and processes on it that can be frozen and killed.

Time stands still while anything can run, and then jumps to the next timer. Each callback belongs
to the process in whose context it was scheduled. A dead process's callbacks never run again, so no
`finally` of it has any effect; a frozen one's wait, in order, until it is thawed.
"""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from random import Random
from typing import Any, Final, TypeVar

CALLBACKS_MAX: Final = 3_000_000
"""A seed takes a tenth of this; more is a loop without a pause in it."""
EPOCH_MS: Final = 1_900_000_000_000
"""Where the wall clocks of the simulation begin."""

Result = TypeVar("Result")
OnFuse = Callable[[], None]


class Process:
    """One operating system process, as far as the loop knows it."""

    def __init__(self, name: str, clock: "SimClock") -> None:
        self.name = name
        self.clock = clock
        self.context = Context()
        self.context.run(PROCESS.set, self)
        self.is_dead = False
        self.is_frozen = False
        self.held_back: list[asyncio.Handle] = []
        """Callbacks that wait for the thaw, or, of a dead process, for nothing."""
        self.ports: list[Any] = []
        """Its ends of connections."""
        self.socket = ""
        self.undos: dict[tuple[str, str], Callable[..., Any]] = {}
        """Of an agent's: the functions that it was loaded with, by tool and name."""
        self.windows = 0
        """Tool calls between their look at the clock and their write."""
        self._fuse = 0
        self._on_fuse: OnFuse = lambda: None

    def set_fuse(self, callbacks: int, on_fuse: OnFuse) -> None:
        """Call `on_fuse` in place of the callback after so many: a fault at any await."""
        self._fuse, self._on_fuse = callbacks, on_fuse

    def may_run(self) -> bool:
        """Count a callback down; false if it must not run now."""
        if self._fuse and not (self.is_dead or self.is_frozen):
            self._fuse -= 1
            if not self._fuse:
                self._on_fuse()
        return not (self.is_dead or self.is_frozen)


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


def this_process() -> Process:
    """The process in whose name the caller runs."""
    process = PROCESS.get()
    assert process is not None, "no process runs here"
    return process


class VirtualLoop(asyncio.AbstractEventLoop):
    """The part of a loop that coroutines, futures and in-memory transports need."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.is_stopped = False
        self.callbacks = 0
        self.slow_reads = 0.0
        """The share of what comes over a connection that is read late, up to `slow_s`."""
        self.slow_s = 0.0
        self.errors: list[str] = []
        self.sockets: dict[str, Callable[[Callable[[], asyncio.BaseProtocol]], Any]] = {}
        """By path: makes a connection, or raises `OSError`."""
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()
        self._is_over = False

    def run(self, *, until_s: float) -> None:
        """Run until stopped, or until this time, or until nothing is left to do."""
        asyncio._set_running_loop(self)
        try:
            while not self.is_stopped and self.now_s < until_s and self._turn():
                pass
        finally:
            asyncio._set_running_loop(None)

    def close(self) -> None:
        """Forget everything; what garbage still schedules goes nowhere."""
        self._is_over = True
        self._ready.clear()
        self._timers.clear()

    def _turn(self) -> bool:
        while self._ready and not self.is_stopped:
            self._run_one(self._ready.popleft())
        if not self._timers:
            return False
        when_s = self._timers[0][0]
        self.now_s = max(self.now_s, when_s)
        while self._timers and self._timers[0][0] <= self.now_s:
            self._ready.append(heapq.heappop(self._timers)[2])
        return True

    def _run_one(self, handle: asyncio.Handle) -> None:
        if handle.cancelled():
            return
        process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
        if process is not None and not process.may_run():
            process.held_back.append(handle)
            return
        self.callbacks += 1
        if self.callbacks > CALLBACKS_MAX:
            raise RuntimeError(f"{CALLBACKS_MAX} callbacks by {self.now_s:.3f} s: a busy loop")
        handle._run()

    def thaw(self, process: Process) -> None:
        """Let a frozen process go on where it stood."""
        process.is_frozen = False
        waiting, process.held_back = process.held_back, []
        self._ready.extendleft(reversed(waiting))

    def start(self, process: Process, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` in the name of a process."""
        return self.create_task(work, context=process.context.copy())

    # What asyncio asks of a loop

    def time(self) -> float:
        return self.now_s

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._is_over:
            self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now_s + max(0.0, delay), callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self._is_over:
            heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is skipped when its time comes."""

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Result],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> "asyncio.Task[Result]":
        return asyncio.Task(coro, loop=self, name=name, context=context)

    async def create_unix_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], path: str | None = None
    ) -> Any:
        connect = self.sockets.get(str(path))
        if connect is None:
            raise FileNotFoundError(path)
        return connect(protocol_factory)

    def is_running(self) -> bool:
        return not self._is_over

    def is_closed(self) -> bool:
        return self._is_over

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        message = str(context.get("message", ""))
        if not self._is_over and message.startswith("Exception in callback"):
            self.errors.append(f"{message}: {context.get('exception')!r}")


class SimClock:
    """Implements `ports.Clock` for the processes of one node."""

    def __init__(
        self, loop: VirtualLoop, random: Random, *, wall_offset_s: float = 0.0, drift: float = 0.0
    ) -> None:
        """`drift` is how much faster than true time the wall clock goes, as a share."""
        self._loop = loop
        self._random = random
        self._wall_offset_s = wall_offset_s
        self._drift = drift
        self._booted_s = random.uniform(0.0, 1e6)
        self.suspended_s = 0.0
        """How long the machine slept: its boot-time clock went on, the monotonic one did not."""

    def monotonic(self) -> float:
        return self._booted_s + self._loop.now_s - self.suspended_s

    def boottime(self) -> float:
        return self._booted_s + self._loop.now_s

    def wall_ms(self) -> int:
        wall_s = self._loop.now_s * (1.0 + self._drift) + self._wall_offset_s
        return EPOCH_MS + int(wall_s * 1000)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)
