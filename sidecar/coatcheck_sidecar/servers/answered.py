"""What the engine says, as replies of the wire."""

from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core.model import OutcomeKind
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.attempts import Answer, Go, Recorded
from coatcheck_sidecar.engine.restore import Restored


@dataclass(frozen=True, slots=True)
class Answered:
    """A reply: its body and attachment, and whether the connection has a run."""

    body: dict[str, Any]
    attachment: bytes | None = None
    is_open: bool = field(default=True)


def answer_of(answer: Answer) -> Answered:
    """What to do about a call."""
    call = answer.call
    body: dict[str, Any] = {"call": call.number, "attempt": call.attempt}
    if isinstance(answer, Go):
        body |= {"decision": "go", "upstream_key": answer.upstream_key}
        if answer.until_boot_s is not None:
            body["until_boot_s"] = answer.until_boot_s
        return Answered(body)
    if isinstance(answer, Recorded):
        kind = answer.outcome.kind
        body |= {"decision": "replay", "kind": kind.value}
        return Answered(body, answer.outcome.body.data if kind is OutcomeKind.RESULT else None)
    return Answered({**body, "decision": "probe", "upstream_key": call.upstream_key})


def over(found: Restored | None) -> Answered:
    """How a run stands that is not the asker's; raises `Refusal` if it is gone."""
    if found is None:
        raise Refusal(ErrorCode.UNAVAILABLE, "the run is gone", retry=Retry.LATER)
    state = found.log.state
    body = {
        "run": state.run,
        "epoch": state.epoch,
        "step": state.step + 1,
        "status": state.status.value,
        "error": state.reason,
        "has_state": False,
        "draining": False,
    }
    result = state.result.data if state.result is not None else None
    return Answered(body, result, is_open=False)


def release() -> str:
    """This sidecar's version."""
    try:
        return version("coatcheck")
    except PackageNotFoundError:
        return "unknown"
