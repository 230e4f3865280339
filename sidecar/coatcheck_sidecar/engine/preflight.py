"""Whether an image that is not deployed yet would go on with the runs there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coatcheck_sidecar.core.ownership import Accepts, summary_of
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.lines import each
from coatcheck_sidecar.engine.restore import read_head
from coatcheck_sidecar.ports import Store

HEADS_READ_MAX: Final = 16
"""At once: each is one GET of up to 256 KiB."""


@dataclass(frozen=True, slots=True)
class Passed:
    """A run that such an agent would pass over, or whose head nobody can read."""

    run: str
    queue: str
    status: str
    step: int
    schema: int
    code_version: str
    why: str


@dataclass(frozen=True, slots=True)
class Preflight:
    """What became of each run that is not over."""

    taken: int
    passed: list[Passed]


async def preflight(
    store: Store, runs: Sequence[str], *, accepts: Accepts, queue: str | None = None
) -> Preflight:
    """Hold each of `runs` that is not over against what an agent accepts. Writes nothing."""
    found = await each(
        runs, lambda run: _looked_at(store, run, accepts=accepts), at_once=HEADS_READ_MAX
    )
    lines = [line for line in found if line is not None and queue in (None, line.queue, "")]
    passed = [line for line in lines if line.why]
    return Preflight(len(lines) - len(passed), passed)


async def _looked_at(store: Store, run: str, *, accepts: Accepts) -> Passed | None:
    """`None` if there is no run any more, or it is over."""
    try:
        found = await read_head(store, run)
    except Refusal as error:
        return Passed(run, "", "unread", 0, 0, "", error.message)
    if found is None or found[0].status.is_final:
        return None
    line = summary_of(found[0])
    why = accepts.refusal(line)
    return Passed(run, line.queue, line.status, line.step, line.schema, line.code_version, why)
