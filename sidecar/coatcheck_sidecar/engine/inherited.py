"""What a run's new owner tells of the last one.

A sidecar's counters end with it, and what it counts in its last seconds no scraper reads. So how a
pod went is counted where its runs go on.
"""

from typing import Final

from coatcheck_sidecar.core.drain import left_by
from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.ports import Observer

CRASHES: Final = frozenset({"restart", "takeover"})
"""Causes of a claim that say that the last agent did not let go of its run."""
HELD_BY: Final = frozenset({"in_doubt", "crash_loop", "held", "damaged"})
"""How the reason of a held run begins; all others are counted together."""
OTHER: Final = "other"


def place_of(log: Head | RunState) -> dict[str, object]:
    """Where a run is, for its log lines: the epoch, and the step to do."""
    return {"epoch": log.epoch, "step": log.step + 1}


def note_inherited(observer: Observer, head: Head, *, cause: str, now_ms: int) -> None:
    """The run with this head, as it was before, has a new owner; `now_ms` is store time."""
    if cause in CRASHES:
        observer.note("crashed", run=head.run, how=cause, **place_of(head))
    left = left_by(head.reason) if head.status is Status.READY else None
    if left is not None:
        last_ms = head.records[-1].at_ms if head.records else None
        waited_s = None if last_ms is None else max(0, now_ms - last_ms) / 1000
        told = {"hook": left[0], "stop": left[1], "waited_s": waited_s, **place_of(head)}
        observer.note("inherited", run=head.run, **told)


def note_let_go(observer: Observer, state: RunState) -> None:
    """This ownership is over."""
    status, reason, place = state.status, state.reason, place_of(state)
    observer.note("let_go", run=state.run, status=status.value, reason=reason, **place)
    if status is Status.HELD:
        word = reason.partition(":")[0]
        why = word if word in HELD_BY else OTHER
        observer.note("held", run=state.run, why=why, reason=reason, **place)
