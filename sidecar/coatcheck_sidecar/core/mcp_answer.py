"""What the proxy itself says to an MCP client: results that a model can reason about.

A call that is in doubt or held is answered by a result with `isError`, not by a failure of the
transport: the model reads what is known, and what to do.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from coatcheck_sidecar.core import mcp
from coatcheck_sidecar.core.mcp import ToolCall

DETAILS: Final = "dev.coatcheck/outcome"
"""Of a result's `_meta`: the same as its structured content, where that must fit a schema."""


class Fate(StrEnum):
    """What is known of a call that has no answer."""

    UNKNOWN = "unknown"
    """It was sent, and may have taken effect."""
    HELD = "held"
    """It was not sent now, because somebody must decide about an earlier one first."""
    NOT_APPLIED = "not_applied"
    """It was not sent, or is known to have had no effect."""


ADVICE: Final = {
    Fate.UNKNOWN: (
        "It is not known whether it took effect. Do not repeat it, and do not do the same by "
        "other means: say that its outcome is unknown and that a person must look."
    ),
    Fate.HELD: (
        "It was not carried out: an earlier call of which the outcome is unknown, or which this "
        "one may repeat in other words, must be looked at by a person first. Do not do the same "
        "by other means."
    ),
    Fate.NOT_APPLIED: "It was not carried out. It may be tried again.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """Why a call has no answer. `detail` is a sentence for people, `number` the call's name."""

    fate: Fate
    reason: str
    detail: str
    number: int | None = None


def fate_of(code: str) -> Fate:
    """By the code of a refusal (`coatcheck.wire.ErrorCode`)."""
    match code:
        case "in_doubt" | "in_flight":
            return Fate.UNKNOWN
        case "held" | "replay_divergence" | "conflict":
            return Fate.HELD
        case _:
            return Fate.NOT_APPLIED


def answer(call: ToolCall, why: Unanswered, *, has_schema: bool) -> bytes:
    """A JSON-RPC response to this asking. `has_schema`: the tool has an output schema."""
    known = {
        "outcome": why.fate.value,
        "call": why.number,
        "tool": call.name,
        "reason": why.reason,
    }
    text = f"{call.name}: {why.detail}. {ADVICE[why.fate]}"
    result: dict[str, Any] = {
        "isError": True,
        "content": [{"type": "text", "text": text}],
        "_meta": {DETAILS: known},
    }
    if not has_schema:
        result["structuredContent"] = known
    return _response(call, result)


def given(call: ToolCall, body: bytes) -> bytes:
    """A recorded answer as the response to this asking.

    What a person or a probe put in the place of an answer is a value, or nothing: it becomes a
    result, unless it is one.
    """
    try:
        value = json.loads(body) if body else None
    except ValueError:
        return body
    if isinstance(value, dict) and ("result" in value or "error" in value) and "jsonrpc" in value:
        return mcp.with_id(body, call.id_text)
    if isinstance(value, dict) and isinstance(value.get("content"), list):
        return _response(call, value)
    text = f"{call.name} is known to have taken effect; its answer is not"
    shown = text if value is None else json.dumps(value, ensure_ascii=False)
    result: dict[str, Any] = {"content": [{"type": "text", "text": shown}]}
    if isinstance(value, dict):
        result["structuredContent"] = value
    return _response(call, result)


def _response(call: ToolCall, result: dict[str, Any]) -> bytes:
    typed = {"resultType": "complete", **result} if call.is_typed else result
    return f'{{"jsonrpc":"2.0","id":{call.id_text},"result":{json.dumps(typed)}}}'.encode()


def error(code: int, why: str) -> bytes:
    """A JSON-RPC error to a body whose id is not known."""
    said = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": why}}
    return json.dumps(said).encode()
