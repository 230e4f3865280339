"""The public error tree. Each error has a stable `code`, and says whether to try again."""

# ruff: noqa: N818 - the names say what is the case; "Error" would say nothing more

from typing import Any, Final, Self

from coatcheck.wire import ErrorCode, Retry

_NOT_DETAILS: Final = frozenset({"code", "message", "retry"})


class CoatcheckError(Exception):
    """Something that the sidecar refused, or that the client found out for itself.

    `code` is stable and for programs; the text names the thing and the mend. `details` holds
    what else is known, by code: `run`, `call`, `tool`, `step`, `epoch`, `address`,
    `first_sent_ms`, `calls`, `limit`.
    """

    code: ErrorCode | str = ErrorCode.PROTOCOL_ERROR
    retry: Retry = Retry.NEVER

    def __init__(self, message: str, *, retry: Retry | None = None, **details: Any) -> None:
        """Say what happened; `retry` in place of what the class says."""
        super().__init__(message)
        self.details = details
        if retry is not None:
            self.retry = retry

    @property
    def run(self) -> str | None:
        """The run that it is about."""
        return self.details.get("run")

    def to_wire(self) -> dict[str, Any]:
        """The body of an `error` reply."""
        known = {"code": str(self.code), "message": str(self), "retry": str(self.retry)}
        return {**self.details, **known}

    @classmethod
    def of(cls, other: "CoatcheckError", message: str) -> Self:
        """An error of this class about the same thing."""
        return cls(message, **other.details)


class _OfCall(CoatcheckError):
    """An error about one tool call, or about several."""

    @property
    def call(self) -> int | None:
        """The call's number: its name for operators, unique in the run."""
        return self.details.get("call")

    @property
    def tool(self) -> str | None:
        """The tool that was called."""
        return self.details.get("tool")

    @property
    def step(self) -> int | None:
        """The step that made the call."""
        return self.details.get("step")

    @property
    def first_sent_ms(self) -> int | None:
        """When the call may first have gone out, in ms since 1970 by the store's clock."""
        return self.details.get("first_sent_ms")

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The calls that stand in the way, one map each."""
        return list(self.details.get("calls") or ())


class NotFound(CoatcheckError):
    """No such run, and it was not to be created."""

    code = ErrorCode.NOT_FOUND


class Conflict(_OfCall):
    """The run is open already, or a key was used before with other arguments."""

    code = ErrorCode.CONFLICT


class OwnedElsewhere(CoatcheckError):
    """Another pod owns the run, and lives. `address` is where, if it said so."""

    code = ErrorCode.OWNED_ELSEWHERE
    retry = Retry.LATER

    @property
    def address(self) -> str | None:
        """What the owner gave as its address, for a redirect."""
        return self.details.get("address")


class InFlight(_OfCall):
    """A guarded call is still under way; its outcome must come first."""

    code = ErrorCode.IN_FLIGHT
    retry = Retry.SAME_KEY


class InDoubt(_OfCall):
    """A call may or may not have taken place, and nobody can tell yet."""

    code = ErrorCode.IN_DOUBT


class Held(_OfCall):
    """The run or the call waits for somebody's decision."""

    code = ErrorCode.HELD


class ReplayDivergence(_OfCall):
    """The step asks for something else than it did before it was restored."""

    code = ErrorCode.REPLAY_DIVERGENCE


class Parked(CoatcheckError):
    """The run waits for a signal; it is released, and ready again when the signal comes."""

    code = ErrorCode.PARKED
    retry = Retry.LATER


class Draining(CoatcheckError):
    """The pod stops; the run goes on elsewhere."""

    code = ErrorCode.DRAINING
    retry = Retry.LATER


class Fenced(CoatcheckError):
    """The run has a newer owner; nothing of this one is accepted any more."""

    code = ErrorCode.FENCED


class DeadlineExceeded(CoatcheckError):
    """The run's own deadline is over."""

    code = ErrorCode.DEADLINE_EXCEEDED


class SchemaMismatch(CoatcheckError):
    """The state has another schema, and no migration leads from it to this one."""

    code = ErrorCode.SCHEMA_MISMATCH


class TooLarge(CoatcheckError):
    """Something passes a limit, which `limit` names in bytes."""

    code = ErrorCode.TOO_LARGE

    @property
    def limit(self) -> int | None:
        """Bytes, at most."""
        return self.details.get("limit")


class Damaged(CoatcheckError):
    """What was read is not what was written."""

    code = ErrorCode.DAMAGED


class StoreUnavailable(CoatcheckError):
    """The store does not answer."""

    code = ErrorCode.STORE_UNAVAILABLE
    retry = Retry.LATER


class Unavailable(CoatcheckError):
    """The sidecar can't be reached, or can't serve this now."""

    code = ErrorCode.UNAVAILABLE
    retry = Retry.LATER


class ProtocolError(CoatcheckError):
    """One side said something that the other doesn't understand."""

    code = ErrorCode.PROTOCOL_ERROR


class NotApplied(Exception):
    """Raised by a tool: what it was asked to do did not take place, for certain."""


class NotEncodable(TypeError):
    """A value that msgpack has no form for. `path` says where it is."""

    def __init__(self, path: str, why: str) -> None:
        """Name the place and the mend."""
        super().__init__(f"{path} {why}")
        self.path = path


class StepOver(RuntimeError):
    """A step was used after its commit, or a run after its end."""


class _Unknown(CoatcheckError):
    """A code of a newer sidecar."""


_BY_CODE: Final[dict[str, type[CoatcheckError]]] = {
    str(error.code): error
    for error in (
        NotFound,
        Conflict,
        OwnedElsewhere,
        InFlight,
        InDoubt,
        Held,
        ReplayDivergence,
        Parked,
        Draining,
        Fenced,
        DeadlineExceeded,
        SchemaMismatch,
        TooLarge,
        Damaged,
        StoreUnavailable,
        Unavailable,
        ProtocolError,
    )
}


def from_wire(body: dict[str, Any]) -> CoatcheckError:
    """The error that an `error` reply tells; one of a newer sidecar keeps its code."""
    code = str(body.get("code", ErrorCode.PROTOCOL_ERROR))
    details = {key: value for key, value in body.items() if key not in _NOT_DETAILS}
    error = _BY_CODE.get(code, _Unknown)(str(body.get("message", code)))
    error.details = details
    if code not in _BY_CODE:
        error.code = code
    if body.get("retry") in set(Retry):
        error.retry = Retry(body["retry"])
    return error
