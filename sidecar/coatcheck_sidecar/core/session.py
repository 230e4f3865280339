"""The sidecar's side of the wire: which request may come when, and what it must look like.

    greeting -> idle -> opening -> open -> closed
                  `-----(open refused)--'

`result` is answered in every state after the greeting. Field checks are a table, so that a wrong
body gets an error that names the request, the field and what it must be.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from math import inf
from typing import Any, Final

from coatcheck.wire import ErrorCode, Request, Retry
from coatcheck_sidecar.core.call_events import Resolution
from coatcheck_sidecar.core.drain import OnDrain
from coatcheck_sidecar.core.model import RUN_ID, Effect, Level


class Phase(Enum):
    """Where a connection stands."""

    GREETING = auto()
    IDLE = auto()
    OPENING = auto()
    OPEN = auto()
    CLOSED = auto()


class Refusal(Exception):  # noqa: N818 - an answer to the client, not a fault of ours
    """A request is answered by `error`: code, sentence, what to do, and more keys by code."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        retry: Retry = Retry.NEVER,
        **details: Any,
    ) -> None:
        """`details` go into the error's body."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry = retry
        self.details = details

    def body(self) -> dict[str, Any]:
        """As it goes over the wire."""
        return {
            "code": self.code.value,
            "message": self.message,
            "retry": self.retry.value,
            **self.details,
        }


def malformed(message: str) -> Refusal:
    """The client broke the protocol."""
    return Refusal(ErrorCode.PROTOCOL_ERROR, message)


@dataclass(frozen=True, slots=True)
class Field:
    """What a field of a request must be; `values` lists the words it may be."""

    kinds: tuple[type, ...]
    is_required: bool = True
    values: frozenset[str] = frozenset()


INT: Final = (int,)
NUMBER: Final = (int, float)
TEXT: Final = (str,)
FLAG: Final = (bool,)
SAID: Final = frozenset({"error", "reason"})
"""What an agent says of a failure may be long; its beginning is kept."""
LEVELS: Final = frozenset(level.value for level in Level)
EFFECTS: Final = frozenset(effect.value for effect in Effect)
VERDICTS: Final = frozenset(resolution.value for resolution in Resolution)
ON_DRAIN: Final = frozenset(on_drain.value for on_drain in OnDrain)


def _may(kinds: tuple[type, ...], values: frozenset[str] = frozenset()) -> Field:
    return Field(kinds, is_required=False, values=values)


FIELDS: Final[dict[Request, dict[str, Field]]] = {
    Request.HELLO: {
        "protocol": Field((list,)),
        "client": Field(TEXT),
        "incarnation": Field((bytes,)),
    },
    Request.OPEN: {
        "run": _may(TEXT),
        "queue": Field(TEXT),
        "schema": Field(INT),
        "schema_from": _may(INT),
        "code_version": _may(TEXT),
        "pinned": _may(FLAG),
        "create": Field(FLAG),
        "wait_s": Field(NUMBER),
        "address": _may(TEXT),
        "step_timeout_s": _may(NUMBER),
        "on_drain": _may(TEXT, values=ON_DRAIN),
        "deadline_s": _may(NUMBER),
        "resume": _may((dict,)),
    },
    Request.COMMIT: {
        "step": Field(INT),
        "level": Field(TEXT, values=LEVELS),
        "schema": Field(INT),
        "patch": _may((dict,)),
    },
    Request.CALL: {
        "step": Field(INT),
        "tool": Field(TEXT),
        "effect": Field(TEXT, values=EFFECTS),
        "key": _may(TEXT),
        "business": _may(TEXT),
        "show": _may((list,)),
        "identity": Field(TEXT, values=frozenset({"content", "positional"})),
        "repeats": _may(FLAG),
        "level": _may(TEXT, LEVELS),
        "probe": _may(FLAG),
        "settle_s": _may(NUMBER),
        "key_lifetime_s": _may(NUMBER),
        "unresolved_ok": _may(FLAG),
        "irreversible": _may(FLAG),
        "undo": _may(TEXT),
    },
    Request.RESOLVE: {
        "call": Field(INT),
        "verdict": Field(TEXT, values=VERDICTS),
        "why": _may(TEXT),
        "force": _may(FLAG),
    },
    Request.ETA: {"seconds": Field(NUMBER)},
    Request.OUTCOME: {
        "call": Field(INT),
        "attempt": Field(INT),
        "kind": Field(TEXT, values=frozenset({"result", "not_applied", "failed"})),
        "reason": _may(TEXT),
    },
    Request.PROBED: {"call": Field(INT), "attempt": Field(INT), "applied": Field(FLAG)},
    Request.UNDO: {},
    Request.WAIT: {"name": Field(TEXT), "step": Field(INT)},
    Request.FINISH: {
        "step": Field(INT),
        "schema": _may(INT),
        "state_length": _may(INT),
        "patch": _may((dict,)),
    },
    Request.FAIL: {"error": Field(TEXT)},
    Request.RELEASE: {
        "reason": Field(TEXT, values=frozenset({"left", "error", "draining", "in_doubt", "held"})),
        "error": _may(TEXT),
    },
    Request.RESULT: {"run": Field(TEXT)},
}

WITH_RUN: Final = frozenset(FIELDS) - {Request.HELLO, Request.OPEN, Request.RESULT}
ENDS: Final = frozenset({Request.FINISH, Request.FAIL})
"""Said again after the answer was lost, on a connection whose run is over by them."""
LATE: Final = frozenset({Request.OUTCOME})
"""Worth hearing though the run was let go of meanwhile: it may resolve a doubt."""
IN_RUN: Final = WITH_RUN - ENDS - LATE
RUN_PHASES: Final = frozenset({Phase.OPEN, Phase.CLOSED})
BY_NAME: Final = {request.value: request for request in Request}
SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
"""JSON can spell one; neither msgpack nor a file can hold it."""
TEXT_CHARS_MAX: Final = 4_096
"""Keys, names and addresses go into heads, which stay small."""
INCARNATION_BYTES: Final = 16


class Session:
    """One connection: says whether a request is legal now, and moves on."""

    def __init__(self) -> None:
        """A connection begins with its greeting."""
        self.phase = Phase.GREETING

    def receive(self, kind: str, body: dict[str, Any]) -> Request:
        """Check a request; raises `Refusal`."""
        request = BY_NAME.get(kind)
        if request is None:
            raise malformed(f"{kind!r:.40} is no request of this protocol")
        self._check_order(request)
        check_fields(request, body)
        if request is Request.HELLO:
            self.phase = Phase.IDLE
        elif request is Request.OPEN:
            self.phase = Phase.OPENING
        return request

    def _check_order(self, request: Request) -> None:
        if (request is Request.HELLO) != (self.phase is Phase.GREETING):
            raise malformed(
                f"{request} in phase {self.phase.name.lower()}: hello comes first, once"
            )
        if request is Request.OPEN and self.phase is not Phase.IDLE:
            raise malformed("open: a connection serves one run; make a new one")
        if self.phase is Phase.CLOSED and request in IN_RUN:
            why = f"{request}: this connection's run was given up; open it again"
            raise Refusal(ErrorCode.FENCED, why)
        if self.phase not in RUN_PHASES and request in WITH_RUN:
            raise malformed(f"{request} without an open run on this connection")

    def opened(self, *, is_open: bool) -> None:
        """The answer to `open` is known."""
        self.phase = Phase.OPEN if is_open else Phase.IDLE

    def closed(self) -> None:
        """The run was released, finished, failed or lost."""
        self.phase = Phase.CLOSED


def check_fields(request: Request, body: dict[str, Any]) -> None:
    """Types and words of a request's fields; raises `Refusal` naming the field."""
    for name, field in FIELDS[request].items():
        value = body.get(name)
        if value is None:
            if field.is_required:
                raise malformed(f"{request}: field {name!r} is missing")
            continue
        kind = type(value)
        if kind not in field.kinds:
            raise malformed(f"{request}: field {name!r} is {kind.__name__}")
        if kind in NUMBER and not 0 <= value < inf:
            raise malformed(f"{request}: {name!r} is {value}, not a number from 0")
        if kind is str:
            _check_text(value, f"{request}: {name!r}", is_said=name in SAID)
        if field.values and value not in field.values:
            words = sorted(field.values)
            raise malformed(f"{request}: {name!r} is {value!r:.40}, not one of {words}")
    _check_names(request, body)


def _check_text(value: str, what: str, *, is_said: bool) -> None:
    if len(value) > TEXT_CHARS_MAX and not is_said:
        raise malformed(f"{what} has {len(value)} of {TEXT_CHARS_MAX} characters")
    if SURROGATE.search(value):
        raise malformed(f"{what} has a lone surrogate, which is no UTF-8")


def _check_names(request: Request, body: dict[str, Any]) -> None:
    for name in ("run", "queue") if request in (Request.OPEN, Request.RESULT) else ():
        value = body.get(name)
        if value is not None and not RUN_ID.fullmatch(value):
            raise malformed(f"{request}: {name} {value!r:.140} must match {RUN_ID.pattern}")
    if request is Request.HELLO and len(body["incarnation"]) != INCARNATION_BYTES:
        raise malformed(f"hello: incarnation must be {INCARNATION_BYTES} bytes")
