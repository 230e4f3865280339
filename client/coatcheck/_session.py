"""What a client knows of its run and its sidecar. Pure: both drivers feed it what they read."""

import os
import threading
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

from coatcheck import _clock, wire
from coatcheck.errors import (
    CoatcheckError,
    Draining,
    Fenced,
    Parked,
    ProtocolError,
    StepOver,
    from_wire,
)
from coatcheck.wire import Message, Push, Reply, Request

INCARNATION_BYTES: Final = 16
"""Random enough that two agents never share one."""
HANDSHAKE_S: Final = 15.0
"""A socket that takes a connection and says nothing for this long is as good as gone."""
RESUME_WAIT_S: Final = 10.0
"""How long a sidecar may take to find a run again; less than the handshake may take."""
RELEASE_S: Final = 20.0
"""Leaving a run waits this long for the sidecar, and no longer: a lease ends it otherwise."""
CALL_REQUESTS_SHARE: Final = 2
"""Calls that wait for an equal one take 1 / this of the requests; outcomes need the others."""

Value = TypeVar("Value")


class CallPhase(StrEnum):
    """How far a call got that the sidecar said `go` to; told when a connection is resumed."""

    UNSTARTED = "unstarted"
    RUNNING = "running"
    DONE = "done"


class Ask(NamedTuple):
    """One request. `whole` goes in its place on another connection: it needs no base there."""

    type: Request
    body: dict[str, Any]
    attachment: bytes | None = None
    whole: "Ask | None" = None
    state: bytes | None = None
    """What becomes the base of the next patch, once this is acknowledged."""
    is_posted: bool = False
    """Nobody waits for the reply."""


class Opening(NamedTuple):
    """What an `open` says; `run` is `None` for the next ready one of the queue."""

    run: str | None
    queue: str
    schema: int
    code_version: str | None = None
    is_pinned: bool = False
    create: bool = True
    wait_s: float = 60.0
    address: str | None = None
    step_timeout_s: float | None = None
    input: bytes | None = None


@lru_cache(maxsize=1)
def _incarnation(pid: int) -> bytes:
    return _clock.random_bytes(INCARNATION_BYTES)


class Session:
    """One connection's run: where it stands, and what must be said again after a break."""

    def __init__(self, opening: Opening) -> None:
        """Nothing is known yet but what is wanted."""
        self.opening = opening
        self.run = ""
        self.epoch = 0
        self.step = 0
        self.is_open = False
        self.is_ended = False
        self.is_committing = False
        self.is_draining = False
        self.drain_at_s: float | None = None
        self.deadline_at_s: float | None = None
        self.checkpoint_wanted = False
        self.signals: set[str] = set()
        self.fenced: Fenced | None = None
        self.base: tuple[int, bytes] | None = None
        self.calls: dict[int, CallPhase] = {}
        self.answered: set[int] = set()
        """Calls of the step under way whose answer is known here."""
        self.state_bytes_max = wire.STATE_BYTES_MAX
        self.requests_max = wire.REQUESTS_MAX
        self._last_id = 0
        self._phases = threading.Lock()

    @property
    def incarnation(self) -> bytes:
        """The same for the life of this process."""
        return _incarnation(os.getpid())

    @property
    def calls_max(self) -> int:
        """How many `call` requests may wait for their reply at once."""
        return max(1, self.requests_max // CALL_REQUESTS_SHARE)

    def next_id(self) -> int:
        """An id that no request of this session had; a request keeps its id when sent again."""
        self._last_id = self._last_id % wire.ID_MAX + 1
        return self._last_id

    def check(self, step: int | None = None) -> None:
        """Raise `Fenced` or `StepOver` if nothing can be asked, or not about `step`."""
        if self.fenced is not None:
            raise self.fenced
        if self.is_ended:
            raise StepOver(f"run {self.run} is over for this process: open it again")
        if step is None:
            return
        if step != self.step:
            raise StepOver(f"step {step} is over; run {self.run} is at step {self.step}")
        if self.is_committing:
            raise StepOver(f"step {step} of run {self.run} is being committed already")

    @property
    def has_next_step(self) -> bool:
        """Another step may begin. Raises `Fenced`."""
        if self.fenced is not None:
            raise self.fenced
        return not (self.is_ended or self.is_draining)

    def begin(self, number: int) -> bool:
        """Note that call `number` starts now; false if its `go` was given back meanwhile."""
        with self._phases:
            if number not in self.calls:
                return False
            self.calls[number] = CallPhase.RUNNING
            return True

    def report(self) -> dict[int, CallPhase]:
        """The calls without an acknowledged outcome, for a sidecar that came back.

        One reported as unstarted must not start any more: its `go` is given back by this.
        """
        with self._phases:
            calls = dict(self.calls)
            for number, phase in calls.items():
                if phase is CallPhase.UNSTARTED:
                    del self.calls[number]
            return calls

    def settle(self, ask: Ask, message: Message, *, is_abandoned: bool = False) -> Ask | None:
        """Note what a reply tells, in order of arrival; raise it if it is an error.

        Returns what must be said because nobody waits for the reply any more.
        """
        self.refused(ask)
        if message.type == Reply.ERROR:
            raise self._noted(from_wire(message.body))
        if message.type != Reply.OK:
            raise ProtocolError(f"{ask.type} was answered by {message.type:.40}")
        if message.body.get("draining") is True:
            self.is_draining = True
        if message.body.get("decision") == "replay":
            self.answered.add(field(message, "call", kind=int))
        match ask.type:
            case Request.COMMIT:
                self.answered.clear()
                self.step = field(message, "step", kind=int)
                self.base = (field(message, "seq", kind=int), ask.state or b"")
                self.checkpoint_wanted = False
            case Request.FINISH | Request.FAIL | Request.RELEASE:
                self.is_ended = True
            case Request.OUTCOME:
                self.calls.pop(ask.body["call"], None)
                if ask.body["kind"] == "result":
                    self.answered.add(ask.body["call"])
            case Request.CALL | Request.PROBED if is_abandoned:
                return _unstarted(message)
        return None

    def refused(self, ask: Ask) -> None:
        """Note that `ask` is no longer under way, whatever became of it."""
        if ask.type in (Request.COMMIT, Request.FINISH):
            self.is_committing = False

    def _noted(self, error: CoatcheckError) -> CoatcheckError:
        match error:
            case Fenced():
                self.fenced = error
            case Parked():
                self.is_ended = True
            case Draining():
                self.is_draining = True
            case _:
                pass
        return error

    def push(self, message: Message) -> None:
        """Note what the sidecar says unasked. What a newer one says is ignored."""
        body = message.body
        match message.type:
            case Push.DRAIN:
                self.is_draining = True
                self.drain_at_s = _clock.monotonic() + float(body.get("deadline_s", 0.0))
            case Push.FENCED:
                text = f"run {self.run} has a newer owner, of epoch {body.get('epoch')}"
                self.fenced = Fenced(text, run=self.run, epoch=body.get("epoch"))
            case Push.CHECKPOINT_PLEASE:
                self.checkpoint_wanted = True
            case Push.DEADLINE:
                self.deadline_at_s = _clock.monotonic() + float(body.get("left_s", 0.0))
            case Push.SIGNAL:
                self.signals.add(str(body.get("name")))
            case _:
                pass


def field(message: Message, name: str, *, kind: type[Value]) -> Value:
    """One value of a reply. Raises `ProtocolError` if it isn't there, or another type."""
    value = message.body.get(name)
    if not isinstance(value, kind):
        raise ProtocolError(f"a reply has no {name} of type {kind.__name__}")
    return value


def outcome(go: Message, kind: str, *, reason: str = "", result: bytes | None = None) -> Ask:
    """What became of the attempt that `go` allowed."""
    body = {
        "call": field(go, "call", kind=int),
        "attempt": field(go, "attempt", kind=int),
        "kind": kind,
    }
    return Ask(Request.OUTCOME, {**body, "reason": reason} if reason else body, result)


def _unstarted(message: Message) -> Ask | None:
    if message.body.get("decision") != "go":
        return None
    return outcome(message, "not_applied", reason="the caller had gone")._replace(is_posted=True)
