"""What the engine knows of a live agent."""

from collections.abc import Callable
from typing import Any, NamedTuple

from coatcheck.wire import Push

PushTo = Callable[[Push, dict[str, Any]], None]


class LateOutcome(NamedTuple):
    """What came of a call, as who made it says."""

    call: int
    attempt: int
    body: bytes | None
    head: bytes = b""
    """Of an HTTP answer, as it is kept; `body` is its body then."""


class Agent:
    """The live agent of a run: its incarnation, and how to tell it something."""

    def __init__(self, incarnation: bytes, push: PushTo, *, code_version: str, schema: int) -> None:
        """`push` must not wait."""
        self.incarnation = incarnation
        self.push = push
        self.code_version = code_version
        self.schema = schema
