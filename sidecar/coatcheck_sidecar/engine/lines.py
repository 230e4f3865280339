"""Lines of listings, and reading many things at once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.model import Call, Status
from coatcheck_sidecar.core.ownership import RunSummary, summary_of
from coatcheck_sidecar.core.record import CallEvent, number_of
from coatcheck_sidecar.engine.restore import Restored

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run in a listing."""

    summary: RunSummary
    owner: str = ""
    silent_s: float | None = None
    """For how long its owner's heartbeat has stood still, by the store's clock."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A call for somebody to decide."""

    run: str
    queue: str
    call: Call


async def each(
    items: Iterable[Item], work: Callable[[Item], Awaitable[Answer]], *, at_once: int
) -> list[Answer]:
    """The answers, in order; at most `at_once` under way."""
    gate = asyncio.Semaphore(at_once)

    async def one(item: Item) -> Answer:
        async with gate:
            return await work(item)

    return await asyncio.gather(*(one(item) for item in items))


def merged(head: Head, line: RunLine | None) -> RunLine:
    """What the head says, and of the line what only that knows."""
    if line is None or line.summary.epoch != head.epoch:
        return RunLine(summary_of(head), head.owner if head.status is Status.OWNED else "")
    summary = summary_of(head, in_doubt=line.summary.in_doubt, stuck=line.summary.stuck)
    return replace(line, summary=summary)


def has_calls(head: Head) -> tuple[str, bool]:
    """The run, and whether its log still has calls, of which some may be in doubt."""
    over = head.over_numbers
    calls = (r for r in head.records if isinstance(r.event, CallEvent))
    return head.run, bool(head.calls) or any(number_of(r) not in over for r in calls)


def doubts_of(restored: Restored) -> list[Doubt]:
    """The calls of a run that somebody must decide."""
    state = restored.log.state
    return [Doubt(state.run, state.created.queue, call) for call in state.in_doubt]
