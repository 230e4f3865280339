"""The names of `coatcheck` for agents without asyncio. Threads may share a run.

There is no thread behind it: what the sidecar says unasked (`run.draining`) is seen with the next
reply.
"""

import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self, Unpack

from coatcheck import _base, _ops
from coatcheck._base import RunBase, StepBase, socket_path
from coatcheck._blocking import Connection
from coatcheck._ops import RunResult
from coatcheck._session import Session, Value
from coatcheck._tool import Call, Params, ToolOptions, current_key, declare, tool
from coatcheck.errors import Draining

__all__ = ["Run", "RunResult", "Step", "claim_runs", "current_key", "open_run", "result", "tool"]


class Step(StepBase[None]):
    """The work between two checkpoints."""

    def tool(
        self, function: Callable[Params, Value], **options: Unpack[ToolOptions]
    ) -> Callable[Params, Value]:
        """`function`, with each call made at most once; `options` as for `coatcheck.tool`."""
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{function!r} is async: open the run by coatcheck.open_run")
        declared, run = declare(function, options), self._run

        def guarded(*args: Any, **kwargs: Any) -> Any:
            call = Call(self.number, declared, function, args, kwargs)
            return run._perform(_ops.call_tool(run._session, call))

        return guarded


class Run(RunBase[None]):
    """A run that this process owns, or will: `with` it, or take it from `claim_runs`."""

    _driver = Connection

    def __enter__(self) -> Self:
        """Open it, if it isn't. Raises `OwnedElsewhere`, `Unavailable`, `SchemaMismatch`, ..."""
        self._perform(self._enter())
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:  # noqa: PLR0917 - the language's own
        """Release it, unless it ended. `Draining` and `Parked` end here; they are no failure."""
        return bool(self._perform(self._leave(error)))

    @property
    def step(self) -> Step:
        """The step under way, for a loop of one's own."""
        return Step(self)

    def steps(self) -> Iterator[Step]:
        """One step after another, until the run ends or the pod drains. Raises `Fenced`."""
        for _ in self._turns():
            yield self.step


def open_run(run: str | None = None, **options: Unpack[_base.OpenOptions]) -> Run:
    """Create or claim a run, by `with`; for `options` see `OpenOptions`."""
    return Run(_base.opening_of(run, options))


def claim_runs(
    queue: str = "default", *, concurrency: int = 1, **options: Unpack[_base.ClaimOptions]
) -> Iterator[Run]:
    """Open runs as they get ready, for ever; ends when the pod drains.

    At most `concurrency` of those it gave are open at once. Use each by `with run:`.
    """
    slots = threading.Semaphore(concurrency)
    while True:
        slots.acquire()
        run = Run(_base.claiming_of(queue, options), slots.release)
        try:
            run._perform(run._enter())
        except Draining:
            return
        yield run


def result(run: str) -> RunResult:
    """How a run stands, and its result if it finished. Raises `NotFound`."""
    asking = _base.asking_of(run)
    return Connection(Session(asking), socket_path()).perform(_ops.result_of(asking))
