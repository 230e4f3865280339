"""The names of `coatcheck` for agents without asyncio. Threads may share a run.

There is no thread behind it: what the sidecar says unasked (`run.draining`) is seen with the next
reply.
"""

import inspect
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, Unpack

from coatcheck import _clock, _ops
from coatcheck._base import (
    ClaimOptions,
    OpenOptions,
    RunBase,
    asking_of,
    claiming_of,
    exit_reason,
    opening_of,
    socket_path,
)
from coatcheck._blocking import Connection
from coatcheck._ops import UNSET, Op, RunResult
from coatcheck._session import RELEASE_S, Opening, Session
from coatcheck._tool import Call, Durability, ToolOptions, current_key, declare, tool
from coatcheck.errors import CoatcheckError, Draining, NotApplied, Parked, Unavailable

__all__ = [
    "NotApplied",
    "Run",
    "RunResult",
    "Step",
    "claim_runs",
    "current_key",
    "open_run",
    "result",
    "tool",
]

Params = ParamSpec("Params")
Value = TypeVar("Value")


class Step:
    """The work between two checkpoints."""

    def __init__(self, connection: Connection, session: Session, *, commit: Any) -> None:
        self._connection, self._session, self._commit = connection, session, commit
        self.number = session.step
        """From 1; the same when the step is done again."""

    def commit(self, state: Any, *, durability: Durability = "node") -> None:
        """End the step with a checkpoint; durable when it returns. Errors as in `coatcheck`."""
        self._commit(self.number, state, level=durability)

    def tool(
        self, function: Callable[Params, Value], **options: Unpack[ToolOptions]
    ) -> Callable[Params, Value]:
        """`function`, with each call made at most once; `options` as for `coatcheck.tool`."""
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{function!r} is async: open the run by coatcheck.open_run")
        declared = declare(function, options)

        def guarded(*args: Params.args, **kwargs: Params.kwargs) -> Value:
            call = Call(self.number, declared, function, args, kwargs)
            operation = _ops.call_tool(self._session, call)
            value: Value = self._connection.perform(operation)
            return value

        return guarded


class Run(RunBase):
    """A run that this process owns, or will: `with` it, or take it from `claim_runs`."""

    def __init__(
        self, opening: Opening, options: OpenOptions | ClaimOptions, *, done: Callable[[], None]
    ) -> None:
        super().__init__(Session(opening), options.get("migrations"))
        self._connection = Connection(self._session, path=socket_path())
        self._done = done

    def __enter__(self) -> Self:
        """Open it, if it isn't. Raises `OwnedElsewhere`, `Unavailable`, `SchemaMismatch`, ..."""
        if not self._session.is_open:
            self._open(_ops.open_run(self._session, self._migrations))
        return self

    def _open(self, operation: Op[_ops.Opened]) -> None:
        try:
            self._opened(self._connection.perform(operation))
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        try:
            self._connection.close()
        finally:
            self._done()

    def __exit__(  # noqa: PLR0917 - the language's own signature
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Release it, unless it ended. `Draining` and `Parked` end here; they are no failure."""
        self._connection.give_up_at_s = _clock.monotonic() + RELEASE_S
        try:
            reason, said = exit_reason(self, error)
            self._connection.perform(_ops.leave(self._session, reason, error=said))
        except CoatcheckError as failure:
            # As in the asyncio client: the lease gives the run up in our place.
            if error is None and not isinstance(failure, Unavailable):
                raise
        finally:
            self._close()
        return isinstance(error, Draining | Parked)

    @property
    def step(self) -> Step:
        """The step under way, for a loop of one's own."""
        return Step(self._connection, self._session, commit=self._commit)

    def steps(self) -> Iterator[Step]:
        """One step after another, until the run ends or the pod drains. Raises `Fenced`."""
        self._is_looping = True
        try:
            while self._session.has_next_step:
                yield self.step
        finally:
            self._is_looping = False

    def commit(self, state: Any, *, durability: Durability = "node") -> None:
        """End the step under way. Outside `steps()` raises `Draining` once the state is safe."""
        self._commit(self._session.step, state, level=durability)

    def _commit(self, step: int, state: Any, *, level: Durability) -> None:
        self._connection.perform(_ops.commit(self._session, step, state=state, level=level))
        self._committed(state)

    def wait_for(self, name: str, payload: Any = None) -> Any:
        """The value of a signal. Raises `Parked` if it has not come: leave, and be woken by it."""
        return self._connection.perform(_ops.wait_for(self._session, name, payload=payload))

    def finish(self, result: Any = None, *, state: Any = UNSET) -> None:
        """End the run with a result, and a last checkpoint in the same append."""
        self._connection.perform(_ops.finish(self._session, result, state=state))

    def fail(self, error: str | BaseException) -> None:
        """End the run as failed, for good."""
        self._connection.perform(_ops.fail(self._session, str(error)))


def open_run(run: str | None = None, **options: Unpack[OpenOptions]) -> Run:
    """Create or claim a run, by `with`; for `options` see `OpenOptions`."""
    return Run(opening_of(run, options), options, done=lambda: None)


def claim_runs(
    queue: str = "default", *, concurrency: int = 1, **options: Unpack[ClaimOptions]
) -> Iterator[Run]:
    """Open runs as they get ready, for ever; ends when the pod drains.

    At most `concurrency` of those it gave are open at once. Use each by `with run:`.
    """
    slots = threading.Semaphore(concurrency)
    while True:
        slots.acquire()
        run = Run(claiming_of(queue, options), options, done=slots.release)
        try:
            run._open(_ops.claim(run._session, run._migrations))
        except Draining:
            return
        yield run


def result(run: str) -> RunResult:
    """How a run stands, and its result if it finished. Raises `NotFound`."""
    connection = Connection(Session(asking_of(run)), path=socket_path())
    try:
        return connection.perform(_ops.result_of(run))
    finally:
        connection.close()
