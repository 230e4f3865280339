"""What the end of a step asks of a run's log: nothing guarded in flight, and how long it took."""

from typing import TypedDict

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core.model import CallState
from coatcheck_sidecar.core.record import Checkpoint
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.core.session import Refusal


class Took(TypedDict):
    """Of a run's steps so far, as a record says it."""

    worked_ms: int
    longest_ms: int


def took(before: Checkpoint, seconds: float) -> Took:
    """How long steps took, with one more of so many seconds."""
    step_ms = max(0, int(seconds * 1000))
    return {
        "worked_ms": before.worked_ms + step_ms,
        "longest_ms": max(before.longest_ms, step_ms),
    }


def check_nothing_open(state: RunState, what: str) -> None:
    """Raises `Refusal` while a guarded call is in flight."""
    in_flight = [
        call
        for call in state.calls.values()
        if call.state is CallState.DISPATCHED and call.call_class.is_guarded and call.attempt > 0
    ]
    if in_flight:
        names = ", ".join(f"{call.tool} (call {call.number})" for call in in_flight)
        raise Refusal(
            ErrorCode.IN_FLIGHT,
            f"{what} of run {state.run} while {names} is in flight: wait for it first",
            retry=Retry.LATER,
        )


def check_goes_on(state: RunState) -> None:
    """Raises `Refusal` for a run that is taken back: that is how it ends."""
    if state.compensating is not None:
        why = f"what run {state.run} did is being taken back"
        raise Refusal(ErrorCode.DRAINING, why, retry=Retry.LATER, run=state.run)


def check_step(state: RunState, step: int, *, epoch: int) -> None:
    """Raises `Refusal` unless the agent of this epoch may end this step."""
    if state.epoch > epoch:  # its agent came back, or another one, while this waited
        why = f"run {state.run} was claimed anew; epoch {epoch} is over"
        raise Refusal(ErrorCode.FENCED, why, run=state.run, epoch=epoch)
    if step != state.step + 1:
        raise Refusal(
            ErrorCode.CONFLICT,
            f"commit of step {step} of run {state.run}: the step to do is {state.step + 1}",
        )
    check_nothing_open(state, "commit")
