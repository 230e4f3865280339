"""Runs, steps and tools for agents on asyncio."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, Unpack, overload

from coatcheck import _ops
from coatcheck._aio import Connection
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
from coatcheck._ops import UNSET, Op, RunResult
from coatcheck._session import RELEASE_S, Opening, Session
from coatcheck._tool import Call, Durability, ToolOptions, declare
from coatcheck.errors import CoatcheckError, Draining, Parked, Unavailable

Params = ParamSpec("Params")
Value = TypeVar("Value")


class Step:
    """The work between two checkpoints."""

    def __init__(self, connection: Connection, session: Session, *, commit: Any) -> None:
        self._connection, self._session, self._commit = connection, session, commit
        self.number = session.step
        """From 1; the same when the step is done again."""

    async def commit(self, state: Any, *, durability: Durability = "node") -> None:
        """End the step with a checkpoint; durable when it returns.

        Raises `NotEncodable` with the path of what can't be stored, `StepOver` if the step was
        committed before, `InFlight` while a guarded call is open, `TooLarge`, `Fenced`.
        """
        await self._commit(self.number, state, level=durability)

    @overload
    def tool(
        self, function: Callable[Params, Coroutine[Any, Any, Value]], **options: Unpack[ToolOptions]
    ) -> Callable[Params, Coroutine[Any, Any, Value]]: ...
    @overload
    def tool(
        self, function: Callable[Params, Value], **options: Unpack[ToolOptions]
    ) -> Callable[Params, Coroutine[Any, Any, Value]]: ...
    def tool(
        self, function: Callable[..., Any], **options: Unpack[ToolOptions]
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        """`function`, with each call made at most once; `options` as for `coatcheck.tool`.

        A plain function runs in a thread. The call raises `InDoubt` where nobody knows whether it
        took place, `Held` and `ReplayDivergence` where somebody must decide, else what the
        function raises. Its value is always as decoded from its recorded form.
        """
        declared = declare(function, options)

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            call = Call(self.number, declared, function, args, kwargs)
            return await self._connection.perform(_ops.call_tool(self._session, call))

        return guarded


class Run(RunBase):
    """A run that this process owns, or will: `async with` it, or take it from `claim_runs`."""

    def __init__(
        self, opening: Opening, options: OpenOptions | ClaimOptions, *, done: Callable[[], None]
    ) -> None:
        super().__init__(Session(opening), options.get("migrations"))
        self._connection = Connection(self._session, path=socket_path())
        self._done = done

    async def __aenter__(self) -> Self:
        """Open it, if it isn't. Raises `OwnedElsewhere`, `Unavailable`, `SchemaMismatch`, ..."""
        if not self._session.is_open:
            await self._open(_ops.open_run(self._session, self._migrations))
        return self

    async def _open(self, operation: Op[_ops.Opened]) -> None:
        try:
            self._opened(await self._connection.perform(operation))
        except BaseException:
            await self._close()
            raise

    async def _close(self) -> None:
        try:
            await self._connection.close()
        finally:
            self._done()

    async def __aexit__(  # noqa: PLR0917 - the language's own signature
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Release it, unless it ended. `Draining` and `Parked` end here; they are no failure."""
        try:
            async with asyncio.timeout(RELEASE_S):
                reason, said = exit_reason(self, error)
                release = _ops.leave(self._session, reason, error=said)
                await self._connection.perform(release)
        except (CoatcheckError, TimeoutError) as failure:
            # What was committed is safe, and the lease gives the run up in our place; but the first
            # word on being fenced or damaged is not swallowed.
            if error is None and not isinstance(failure, Unavailable | TimeoutError):
                raise
        finally:
            await self._close()
        return isinstance(error, Draining | Parked)

    @property
    def step(self) -> Step:
        """The step under way, for a loop of one's own."""
        return Step(self._connection, self._session, commit=self._commit)

    async def steps(self) -> AsyncIterator[Step]:
        """One step after another, until the run ends or the pod drains. Raises `Fenced`.

        A step that was not committed is given again.
        """
        self._is_looping = True
        try:
            while self._session.has_next_step:
                yield self.step
        finally:
            self._is_looping = False

    async def commit(self, state: Any, *, durability: Durability = "node") -> None:
        """End the step under way; as `Step.commit`.

        Outside `steps()` it raises `Draining` when the state is safe and the pod stops, which ends
        the loop and is absorbed by `async with`.
        """
        await self._commit(self._session.step, state, level=durability)

    async def _commit(self, step: int, state: Any, *, level: Durability) -> None:
        await self._connection.perform(_ops.commit(self._session, step, state=state, level=level))
        self._committed(state)

    async def wait_for(self, name: str, payload: Any = None) -> Any:
        """The value of a signal. Raises `Parked` if it has not come: leave, and be woken by it.

        `payload` is shown to whoever is to send the signal.
        """
        return await self._connection.perform(_ops.wait_for(self._session, name, payload=payload))

    async def finish(self, result: Any = None, *, state: Any = UNSET) -> None:
        """End the run with a result, and a last checkpoint in the same append."""
        await self._connection.perform(_ops.finish(self._session, result, state=state))

    async def fail(self, error: str | BaseException) -> None:
        """End the run as failed, for good."""
        await self._connection.perform(_ops.fail(self._session, str(error)))


def open_run(run: str | None = None, **options: Unpack[OpenOptions]) -> Run:
    """Create or claim a run, by `async with`; fenced elsewhere from then on.

    `run` is its name, else `COATCHECK_RUN_ID`; for `options` see `OpenOptions`.
    """
    return Run(opening_of(run, options), options, done=lambda: None)


async def claim_runs(
    queue: str = "default", *, concurrency: int = 1, **options: Unpack[ClaimOptions]
) -> AsyncGenerator[Run, None]:
    """Open runs as they get ready, for ever; ends when the pod drains.

    At most `concurrency` of those it gave are open at once. Use each by `async with run:`.
    """
    slots = asyncio.Semaphore(concurrency)
    while True:
        await slots.acquire()
        run = Run(claiming_of(queue, options), options, done=slots.release)
        try:
            await run._open(_ops.claim(run._session, run._migrations))
        except Draining:
            return
        yield run


async def result(run: str) -> RunResult:
    """How a run stands, and its result if it finished. Raises `NotFound`."""
    connection = Connection(Session(asking_of(run)), path=socket_path())
    try:
        return await connection.perform(_ops.result_of(run))
    finally:
        await connection.close()
