"""What a client knows of its run and its sidecar. Pure: the desk feeds it what was read."""

import os
import threading
from collections.abc import Callable, Generator, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeVar

from coatcheck import _clock, errors, wire
from coatcheck.wire import Message, Push, Reply, Request

INCARNATION_BYTES: Final = 16
"""Random enough that two agents never share one."""
CALL_REQUESTS_SHARE: Final = 2
"""Calls that wait for an equal one take 1 / this of the requests; outcomes need the others."""
UNOPENED: Final = "unopened"
OWNED: Final = "owned"
ENDS: Final = {"finish": "finished", "fail": "failed", "release": "released", "undo": "compensated"}
"""A run's status after these requests."""

Value = TypeVar("Value")


CallPhase = StrEnum("CallPhase", "UNSTARTED RUNNING DONE")
"""How far a call got that the sidecar said `go` to; told when a connection is resumed."""


class Ask(NamedTuple):
    """One request. `whole` goes in its place on another connection: it needs no base there."""

    type: Request
    body: dict[str, Any]
    attachment: bytes | None = None
    whole: "Ask | None" = None
    within_s: float | None = None
    """The reply is waited for no longer than this; then `TimeoutError` is raised."""
    lifts: Mapping[int, Callable[[Any], Any]] = {}
    """Of an opening: what lifts a state of an older schema to the next."""


Op = Generator[Ask, Message, Value]
"""What is to be asked, one request after another; is sent each reply, or thrown its error."""


class Session:
    """One connection's run: where it stands, and what must be said again after a break."""

    def __init__(self, opening: Ask) -> None:
        """Nothing is known yet but how to ask for it."""
        self.opening = opening
        self.incarnation = _clock.random_bytes(INCARNATION_BYTES)
        """The same on each connection: by it a sidecar knows this agent again, and no other."""
        self.run: str = opening.body.get("run", "")
        self.status = UNOPENED
        self.epoch = self.step = 0
        self.is_committing = self.is_draining = False
        self.fenced: errors.Fenced | None = None
        self.base: tuple[int, bytes] | None = None
        """The seq and the bytes of the state that a patch may start from."""
        self.calls: dict[int, CallPhase] = {}
        self.answered: set[int] = set()
        """Calls of the step under way whose answer is known here."""
        self.signals: list[int] = []
        """Those that this step received; its commit consumes them."""
        self.greeted({})
        self.proxy: str | None = None
        """What stands before a tool's name in its URL; this life of the agent's alone."""
        self.environ: dict[str, str] = {}
        """Variables by which clients of other makers find their tool's URL."""
        self.is_off = os.environ.get("COATCHECK_MODE") == "off"
        """Nothing is kept, and nobody asked."""
        self.on_stop: Callable[[], object] = lambda: None
        """Called, more than once perhaps, when the agent must stop."""
        self._phases = threading.Lock()

    @property
    def is_open(self) -> bool:
        """The run is this process's, as far as it knows."""
        return self.status == OWNED and self.fenced is None

    @property
    def has_next_step(self) -> bool:
        """Another step may begin. Raises `Fenced`."""
        if self.fenced is not None:
            raise self.fenced
        return self.is_open and not self.is_draining

    def check(self, step: int | None = None) -> None:
        """Raise `Fenced` or `StepOver` if nothing can be asked, or not about `step`."""
        if self.fenced is not None:
            raise self.fenced
        if not self.is_open:
            raise errors.StepOver(f"run {self.run} is {self.status}, and not open here")
        if step is not None and step != self.step:
            raise errors.StepOver(f"step {step} is over; run {self.run} is at step {self.step}")
        if step is not None and self.is_committing:
            raise errors.StepOver(f"step {step} of run {self.run} is being committed already")

    def begin(self, number: int) -> bool:
        """Note that call `number` starts now; false if its `go` was given back meanwhile."""
        with self._phases:
            if number in self.calls:
                self.calls[number] = CallPhase.RUNNING
            return number in self.calls

    def report(self) -> dict[str, Any]:
        """How the run stands here, for a sidecar that came back: a `resume`.

        A call reported as unstarted must not start any more: its `go` is given back by this.
        """
        with self._phases:
            calls = dict(self.calls)
            self.calls = {n: p for n, p in calls.items() if p is not CallPhase.UNSTARTED}
            return {"epoch": self.epoch, "calls": calls, "answered": sorted(self.answered)}

    def greeted(self, limits: dict[str, int]) -> None:
        """Note what a sidecar takes at most."""
        self.state_bytes_max = limits.get("state_bytes", wire.STATE_BYTES_MAX)
        self.calls_max = max(1, limits.get("requests", wire.REQUESTS_MAX) // CALL_REQUESTS_SHARE)
        """How many `call` requests may wait for their reply at once."""

    def opened(self, reply: Message) -> None:
        """Note what an `open` gave: the run, or that it is over."""
        self.status = reply.body.get("status", OWNED)
        self.epoch = field(reply, "epoch", kind=int)
        self.proxy = reply.body.get("proxy", self.proxy)
        self.environ = reply.body.get("env", self.environ)

    def settle(self, ask: Ask, message: Message) -> None:
        """Note what a reply tells, in order of arrival; raise it if it is an error."""
        self.refused(ask)
        if message.type == Reply.ERROR:
            error = errors.from_wire(message.body)
            self.fenced = error if isinstance(error, errors.Fenced) else self.fenced
            self.status = "parked" if isinstance(error, errors.Parked) else self.status
            self.is_draining |= isinstance(error, errors.Draining)
            raise error
        if message.type != Reply.OK:
            raise errors.ProtocolError(f"{ask.type} was answered by {message.type:.40}")
        self.is_draining |= message.body.get("draining") is True
        if "result" in (message.body.get("kind"), ask.body.get("kind")):
            self.answered.add(message.body.get("call") or ask.body["call"])
        if ask.type is Request.COMMIT:
            self.answered.clear()
            self.step = field(message, "step", kind=int)
            self.base = (field(message, "seq", kind=int), (ask.whole or ask).attachment or b"")
            consumed = ask.body.get("signals", ())
            self.signals = [number for number in self.signals if number not in consumed]
        if "undo" not in message.body:  # with it there is more to take back
            self.status = ENDS.get(ask.type, self.status)

    def refused(self, ask: Ask) -> None:
        """Note that `ask` is no longer under way, whatever became of it."""
        if ask.type in (Request.COMMIT, Request.FINISH):
            self.is_committing = False
        elif ask.type is Request.OUTCOME:
            self.calls.pop(ask.body["call"], None)

    def answer_off(self, number: int, ask: Ask) -> Message:
        """What a sidecar would say that keeps nothing: go on."""
        if ask.type in (Request.WAIT, Request.RESULT) or "run" not in self.opening.body:
            text = f"{ask.type} needs a sidecar, and coatcheck is off (COATCHECK_MODE)"
            return Message(Reply.ERROR, number, {"code": "not_found", "message": text})
        body = {"run": self.run, "epoch": 0, "seq": 0, "step": self.step + 1, "attempt": 1}
        body |= {"upstream_key": f"{self.incarnation.hex()}-{number}", "call": number}
        return Message(Reply.OK, number, {**body, "decision": "go", "input": ask.attachment})

    def push(self, message: Message) -> None:
        """Note what the sidecar says unasked. What needs no answer from here is ignored."""
        self.is_draining |= message.type == Push.DRAIN
        if message.type == Push.FENCED:
            text = f"run {self.run} has a newer owner, of epoch {message.body.get('epoch')}"
            self.fenced = errors.Fenced(text, **{"run": self.run, **message.body})


def field(message: Message, name: str, *, kind: type[Value]) -> Value:
    """One value of a reply. Raises `ProtocolError` if it isn't there, or another type."""
    value = message.body.get(name)
    if not isinstance(value, kind):
        raise errors.ProtocolError(f"a reply has no {name} of type {kind.__name__}")
    return value


def outcome(go: Message, kind: str, *, reason: str = "", result: bytes | None = None) -> Ask:
    """What became of the attempt that `go` allowed."""
    numbers = {name: field(go, name, kind=int) for name in ("call", "attempt")}
    return Ask(Request.OUTCOME, {**numbers, "kind": kind, "reason": reason}, result)
