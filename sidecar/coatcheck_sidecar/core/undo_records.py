"""The records of compensation: what takes a call back, that a run is taken back, that it was."""

from dataclasses import dataclass
from typing import ClassVar, Final

from coatcheck_sidecar.core.model import NO_BODY, Body

END: Final = "end"
RESUBMIT: Final = "resubmit"
"""Another run with the same input goes into the queue."""
FORWARD: Final = "forward"
"""Nothing is taken back after all: what can't be undone was done meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo:
    """What takes a call back, ready to be done.

    Appended with the call's outcome, and kept until the run ends. It is a request of a sidecar's
    (`method`), a function of an agent's (`handler`), or neither: the call `is_irreversible`, or
    `why` says what kept its undo from being made.
    """

    kind: ClassVar[str] = "undo"
    call: int
    key: str
    tool: str
    step: int = 0
    handler: str = ""
    method: str = ""
    path: str = ""
    """Behind the tool's URL."""
    body: Body = NO_BODY
    """Of the request, JSON; for a handler the call's result, msgpack."""
    is_irreversible: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compensating:
    """From here on what the run did is taken back, newest first; no step of it begins."""

    kind: ClassVar[str] = "compensating"
    then: str = END
    """`end` or `resubmit`; `forward` takes it back itself."""
    by: str
    why: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compensated:
    """All that could be taken back was; the run is over."""

    kind: ClassVar[str] = "compensated"
    undone: int = 0
    successor: str = ""
    """The run that was made in its place."""


def said_of(event: Compensated) -> str:
    """How a run ended that was taken back."""
    calls = "1 call" if event.undone == 1 else f"{event.undone} calls"
    then = f"; {event.successor} was made in its place" if event.successor else ""
    return f"{calls} taken back{then}"
