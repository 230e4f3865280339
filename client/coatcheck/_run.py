"""Runs, steps and tools for agents on asyncio."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, Self, TypeAlias, Unpack, overload

from coatcheck import _base, _ops
from coatcheck._aio import Connection
from coatcheck._base import RunBase, StepBase, socket_path
from coatcheck._ops import RunResult
from coatcheck._session import Session, Value
from coatcheck._tool import Call, Params, ToolOptions, current_key, declare, tool
from coatcheck.errors import Draining

__all__ = ["Run", "RunResult", "Step", "claim_runs", "current_key", "open_run", "result", "tool"]

Async: TypeAlias = Coroutine[Any, Any, Value]
"""What an async function returns."""


class Step(StepBase[Async[None]]):
    """The work between two checkpoints."""

    @overload
    def tool(
        self, function: Callable[Params, Async[Value]], **options: Unpack[ToolOptions]
    ) -> Callable[Params, Async[Value]]: ...
    @overload
    def tool(
        self, function: Callable[Params, Value], **options: Unpack[ToolOptions]
    ) -> Callable[Params, Async[Value]]: ...
    def tool(self, function: Any, **options: Unpack[ToolOptions]) -> Callable[..., Async[Any]]:
        """`function`, with each call made at most once; `options` as for `coatcheck.tool`.

        A plain function runs in a thread. The call raises `InDoubt` where nobody knows whether it
        took place, `Held` and `ReplayDivergence` where somebody must decide, else what the
        function raises. Its value is always as decoded from its recorded form.
        """
        declared, run = declare(function, options), self._run

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            call = Call(self.number, declared, function, args, kwargs)
            return await run._perform(_ops.call_tool(run._session, call))

        return guarded


class Run(RunBase[Async[None]]):
    """A run that this process owns, or will: `async with` it, or take it from `claim_runs`."""

    _driver = Connection

    async def __aenter__(self) -> Self:
        """Open it, if it isn't. Raises `OwnedElsewhere`, `Unavailable`, `SchemaMismatch`, ..."""
        await self._perform(self._enter())
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:  # noqa: PLR0917 - the language's own
        """Release it, unless it ended. `Draining` and `Parked` end here; they are no failure."""
        return bool(await self._perform(self._leave(error)))

    @property
    def step(self) -> Step:
        """The step under way, for a loop of one's own."""
        return Step(self)

    async def steps(self) -> AsyncIterator[Step]:
        """One step after another, until the run ends or the pod drains. Raises `Fenced`.

        A step that was not committed is given again.
        """
        for _ in self._turns():
            yield self.step


def open_run(run: str | None = None, **options: Unpack[_base.OpenOptions]) -> Run:
    """Create or claim a run, by `async with`; fenced elsewhere from then on.

    `run` is its name, else `COATCHECK_RUN_ID`; for `options` see `OpenOptions`.
    """
    return Run(_base.opening_of(run, options))


async def claim_runs(
    queue: str = "default", *, concurrency: int = 1, **options: Unpack[_base.ClaimOptions]
) -> AsyncGenerator[Run, None]:
    """Open runs as they get ready, for ever; ends when the pod drains.

    At most `concurrency` of those it gave are open at once. Use each by `async with run:`.
    """
    slots = asyncio.Semaphore(concurrency)
    while True:
        await slots.acquire()
        run = Run(_base.claiming_of(queue, options), slots.release)
        try:
            await run._perform(run._enter())
        except Draining:
            return
        yield run


async def result(run: str) -> RunResult:
    """How a run stands, and its result if it finished. Raises `NotFound`."""
    asking = _base.asking_of(run)
    return await Connection(Session(asking), socket_path()).perform(_ops.result_of(asking))
