"""The public error tree. Each error has a stable `code`, and says whether to try again."""

# ruff: noqa: N818 - the names say what is the case; "Error" would say nothing more

import re
from collections.abc import Sequence
from typing import Any, Final

from coatcheck.wire import ErrorCode, Retry

_ATTRIBUTES: Final = {"run", "call", "tool", "step", "first_sent_ms", "calls", "address", "limit"}
_BY_CODE: Final[dict[str, "type[CoatcheckError]"]] = {}


class CoatcheckError(Exception):
    """Something that the sidecar refused, or that the client found out for itself.

    `code` is stable and for programs: the name of the class, `not_found` of `NotFound`. The text
    names the thing and the mend. `details` holds what else is known, some of it as attributes.
    """

    code: ErrorCode | str = ErrorCode.PROTOCOL_ERROR
    retry: Retry = Retry.NEVER
    run: str | None = None
    """The run that it is about."""

    def __init__(self, message: str, *, retry: Retry | None = None, **details: Any) -> None:
        """Say what happened; `retry` in place of what the class says."""
        super().__init__(message)
        self.retry = retry or self.retry
        self.details = details
        vars(self).update({name: details[name] for name in details.keys() & _ATTRIBUTES})

    def __init_subclass__(cls, *, retry: Retry | None = None) -> None:
        cls.retry = retry or cls.retry
        if cls.__module__ == __name__ and not cls.__name__.startswith("_"):
            cls.code = ErrorCode(re.sub("(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower())
            _BY_CODE[cls.code] = cls


class _OfCall(CoatcheckError):
    """An error about one tool call, or about several."""

    call: int | None = None
    """The call's number: its name for operators, unique in the run."""
    tool: str | None = None
    """The tool that was called."""
    step: int | None = None
    """The step that made the call."""
    first_sent_ms: int | None = None
    """When the call may first have gone out, in ms since 1970 by the store's clock."""
    calls: Sequence[dict[str, Any]] = ()
    """The calls that stand in the way, one map each."""


class NotFound(CoatcheckError):
    """No such run, and it was not to be created."""


class Conflict(_OfCall):
    """The run is open already, or a key was used before with other arguments."""


class OwnedElsewhere(CoatcheckError, retry=Retry.LATER):
    """Another pod owns the run, and lives. `address` is where, if it said so."""

    address: str | None = None
    """What the owner gave as its address, for a redirect."""


class InFlight(_OfCall, retry=Retry.SAME_KEY):
    """A guarded call is still under way; its outcome must come first."""


class InDoubt(_OfCall):
    """A call may or may not have taken place, and nobody can tell yet."""


class Held(_OfCall):
    """The run or the call waits for somebody's decision."""


class ReplayDivergence(_OfCall):
    """The step asks for something else than it did before it was restored."""


class Parked(CoatcheckError, retry=Retry.LATER):
    """The run waits for a signal; it is released, and ready again when the signal comes."""


class Draining(CoatcheckError, retry=Retry.LATER):
    """The pod stops; the run goes on elsewhere."""


class Fenced(CoatcheckError):
    """The run has a newer owner; nothing of this one is accepted any more."""


class DeadlineExceeded(CoatcheckError):
    """The run's own deadline is over."""


class SchemaMismatch(CoatcheckError):
    """The state has another schema than this code."""


class TooLarge(CoatcheckError):
    """Something passes a limit, which `limit` names in bytes."""

    limit: int | None = None
    """Bytes, at most."""


class Damaged(CoatcheckError):
    """What was read is not what was written."""


class StoreUnavailable(CoatcheckError, retry=Retry.LATER):
    """The store does not answer."""


class Unavailable(CoatcheckError, retry=Retry.LATER):
    """The sidecar can't be reached, or can't serve this now."""


class ProtocolError(CoatcheckError):
    """One side said something that the other doesn't understand."""


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


def from_wire(body: dict[str, Any]) -> CoatcheckError:
    """The error that an `error` reply tells; one of a newer sidecar keeps its code."""
    details = dict(body)
    code = str(details.pop("code", ErrorCode.PROTOCOL_ERROR))
    message, retry = str(details.pop("message", code)), details.pop("retry", None)
    kind = _BY_CODE.get(code, CoatcheckError)
    error = kind(message, retry=Retry(retry) if retry in set(Retry) else None, **details)
    error.code = code
    return error
