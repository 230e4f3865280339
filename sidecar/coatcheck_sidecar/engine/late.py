"""Outcomes that come after their run was let go of: a cut call may still turn out well.

At a drain's deadline a run is released where it stands, and its calls in flight are in doubt. Its
agent lives on for a moment, and may still tell what came of one; so may an upstream of the proxy.
That is brought to wherever the run is now, as an operator's word would be.
"""

from typing import Final

from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.model import CallState
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.agent import LateOutcome
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.restore import Damaged
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.ports import StoreError

ID_BYTES: Final = 8
TELL_S: Final = 30.0
"""Longer than the process lives that is about to be killed."""


class Late:
    """Brings late outcomes to their runs."""

    def __init__(self, outside: Outside, *, tasks: TaskSet) -> None:
        """`outside` reaches runs of any pod."""
        self._outside = outside
        self._tasks = tasks

    def tell(self, keeper: Keeper, told: LateOutcome) -> None:
        """A call took place, with this result; if nobody knew, it is resolved by that."""
        call = keeper.log.state.calls.get(told.call)
        if call is None or call.state is not CallState.IN_DOUBT or call.attempt != told.attempt:
            return
        command = Command(
            id=keeper.doors.clock.random_bytes(ID_BYTES).hex(),
            run=keeper.run,
            what="resolve",
            by="its upstream" if told.head else "its agent",
            why=f"a late outcome of epoch {keeper.log.state.epoch}",
            call=told.call,
            verdict="applied",
            value=told.body,
            head=told.head,
        )
        self._tasks.start(self._bring(keeper, command), name=f"late outcome {keeper.run}")

    async def _bring(self, keeper: Keeper, command: Command) -> None:
        observer = keeper.doors.observer
        try:
            done = await self._outside.command(command, timeout_s=TELL_S)
        except (Refusal, StoreError, Damaged) as error:
            observer.note("late_outcome", run=keeper.run, call=command.call, refused=str(error))
        else:
            observer.note("late_outcome", run=keeper.run, call=command.call, refused=done.refused)
