"""Drives an operation by hand: a test reads as the conversation that it is."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import pytest

from coatcheck._ops import Command, ToolOp
from coatcheck._session import OWNED, Ask, Session
from coatcheck._tool import Invoke
from coatcheck.wire import Message, Request

Result = TypeVar("Result")

RUN = Ask(
    Request.OPEN, {"run": "r", "queue": "default", "schema": 1, "create": True, "wait_s": 60.0}
)


def session(*, step: int = 1, **more: Any) -> Session:
    """A session whose run is open at a step."""
    made = Session(RUN)
    made.run, made.epoch, made.step, made.status = "r", 1, step, OWNED
    for name, value in more.items():
        setattr(made, name, value)
    return made


def ok(body: dict[str, Any] | None = None, attachment: bytes | None = None) -> Message:
    """A reply that grants."""
    return Message("ok", 1, body or {}, attachment)


def refusal(code: str, **more: Any) -> Message:
    """A reply that refuses."""
    return Message("error", 1, {"code": code, "message": f"it is {code}", **more}, None)


class Play(Generic[Result]):
    """One operation: `asks` what it asks, `calls` what it calls, until it returns or raises."""

    def __init__(self, session: Session, operation: ToolOp[Result]) -> None:
        self.session = session
        self._operation = operation
        self._command: Command = None
        self._result: Any = None
        self._step(lambda: next(operation))

    def _step(self, advance: Callable[[], Command]) -> None:
        try:
            self._command = advance()
        except StopIteration as stop:
            self._command, self._result = None, stop.value

    def asks(
        self, kind: str, body: dict[str, Any] | None = None, attachment: Any = ...
    ) -> "Play[Result]":
        """The operation asks this, with at least these keys."""
        command = self._command
        assert isinstance(command, Ask), command
        assert command.type == kind
        for key, value in (body or {}).items():
            assert command.body.get(key, "(absent)") == value, (key, command.body)
        if attachment is not ...:
            assert command.attachment == attachment
        return self

    def gets(self, reply: Message) -> "Play[Result]":
        """The sidecar replies."""
        command = self._command
        assert isinstance(command, Ask), command
        try:
            self.session.settle(command, reply)
        except Exception as error:
            fault = error
            self._step(lambda: self._operation.throw(fault))
        else:
            self._step(lambda: self._operation.send(reply))
        return self

    def calls(self) -> "Play[Result]":
        """The operation calls a function, which returns or raises."""
        command = self._command
        assert isinstance(command, Invoke), command
        try:
            with command:
                value = command.start()
        except BaseException as error:
            fault = error
            self._step(lambda: self._operation.throw(fault))
        else:
            self._step(lambda: self._operation.send(value))
        return self

    def returns(self) -> Result:
        """The operation is over; what it gave."""
        if self._command is not None:
            pytest.fail(f"it goes on: {self._command}")
        result: Result = self._result
        return result
