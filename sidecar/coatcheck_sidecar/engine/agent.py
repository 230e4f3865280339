"""What the engine knows of a live agent."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from coatcheck.wire import Push
from coatcheck_sidecar.core.ownership import Accepts

PushTo = Callable[[Push, dict[str, Any]], None]


class LateOutcome(NamedTuple):
    """What came of a call, as who made it says."""

    call: int
    attempt: int
    body: bytes | None
    head: bytes = b""
    """Of an HTTP answer, as it is kept; `body` is its body then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wants:
    """What an agent asks for when it opens a run."""

    run: str | None
    queue: str = "default"
    schema: int = 1
    schema_from: int | None = None
    """The oldest that the agent lifts to its own; only its own if absent."""
    code_version: str = ""
    pinned: bool = False
    can_create: bool = True
    wait_s: float = 60.0
    address: str = ""
    input: bytes | None = None
    deadline_s: float | None = None
    """From its creation; only a new run takes it."""
    incarnation: bytes = b""
    resume_epoch: int | None = None
    resume_answered: frozenset[int] | None = None
    """Calls of its step whose answer an agent that comes back has, if it says so."""
    is_next: bool = False
    """The next of a queue will do, and this is one."""
    is_undo: bool = False
    """Nobody's agent asks: a sidecar takes the run back."""

    @property
    def accepts(self) -> Accepts:
        """What the agent can go on with."""
        return Accepts(self.schema, self.code_version, self.schema_from)


class Agent:
    """The live agent of a run: its incarnation, and how to tell it something."""

    def __init__(self, incarnation: bytes, push: PushTo, *, code_version: str, schema: int) -> None:
        """`push` must not wait."""
        self.incarnation = incarnation
        self.push = push
        self.code_version = code_version
        self.schema = schema
