"""The shapes of what the run API takes and answers, as JSON Schema has them.

A value of the agent's own (a state, arguments, a result) may be any JSON, under its name; or
msgpack in base64, under its name and `_base64`.
"""

from collections.abc import Mapping
from typing import Any, Final

from coatcheck.wire import Retry
from coatcheck_sidecar.core.drain import Doing, OnDrain
from coatcheck_sidecar.core.model import RUN_ID, Level, OutcomeKind, Status
from coatcheck_sidecar.core.session import ON_DRAIN, SAID, TEXT_CHARS_MAX
from coatcheck_sidecar.servers.values import BASE64

Schema = Mapping[str, Any]

TEXT: Final[Schema] = {"type": "string"}
NAME: Final[Schema] = {"type": "string", "pattern": f"^{RUN_ID.pattern}$"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
SECONDS: Final[Schema] = {"type": "number", "minimum": 0}
FLAG: Final[Schema] = {"type": "boolean"}
HEX16: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
COUNTS: Final[Schema] = {"type": "array", "items": COUNT}
COMMAND_ID: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}


def words(*values: str) -> Schema:
    """One of these."""
    return {"type": "string", "enum": sorted(values)}


def shape(required: str = "", /, **properties: Schema) -> Schema:
    """A map with these properties; `required` names those that are always there."""
    made: dict[str, Any] = {"type": "object", "properties": properties}
    return {**made, "required": required.split()} if required else made


def value(name: str, what: str) -> dict[str, Schema]:
    """A value of the agent's own, in either form."""
    return {
        name: {"description": what},
        f"{name}{BASE64}": {
            "type": "string",
            "contentEncoding": "base64",
            "contentMediaType": "application/msgpack",
            "description": f"`{name}` as msgpack, where JSON has no exact form for it.",
        },
    }


def _with_limits(properties: dict[str, Schema]) -> dict[str, Schema]:
    """Texts go into heads, which stay small."""
    return {
        name: {**schema, "maxLength": TEXT_CHARS_MAX}
        if schema is TEXT and name not in SAID
        else schema
        for name, schema in properties.items()
    }


def takes(required: str = "", /, **properties: Schema) -> Schema:
    """A body: nothing else may be in it."""
    return {**shape(required, **_with_limits(properties)), "additionalProperties": False}


STATUSES: Final = words(*(status.value for status in Status))
RESUME: Final = shape(
    "epoch",
    epoch=COUNT,
    calls={"type": "object", "additionalProperties": words("unstarted", "running", "done")},
    answered=COUNTS,
)
OPENING: Final[dict[str, Schema]] = {
    "schema": {**COUNT, "default": 1},
    "schema_from": COUNT,
    "wait_s": {**SECONDS, "default": 0},
    "code_version": TEXT,
    "pinned": FLAG,
    "address": TEXT,
    "step_timeout_s": SECONDS,
    "on_drain": {**words(*ON_DRAIN), "default": OnDrain.AUTO.value},
    "deadline_s": {**SECONDS, "description": "Of a new run: from now until it must be over."},
    "incarnation": HEX16,
}
OPENED: Final = shape(
    "token incarnation run status epoch step draining silence_s",
    token={**TEXT, "description": "Goes with each request of this agent."},
    incarnation=HEX16,
    run=NAME,
    status=STATUSES,
    epoch=COUNT,
    step={**COUNT, "description": "The step to do next."},
    seq=COUNT,
    schema=COUNT,
    draining=FLAG,
    undoing={**FLAG, "description": "It is being taken back: ask for `undo`, and do no step."},
    proxy={**TEXT, "description": "URL of the tool proxy, for this life of the agent."},
    env={
        "type": "object",
        "additionalProperties": TEXT,
        "description": "Variables by which clients of other makers find their tool.",
    },
    error={"type": ["string", "null"], "description": "Why the run is over."},
    silence_s={**SECONDS, "description": "Ask for something at least this often."},
    **value("state", "The newest checkpoint."),
    **value("input", "What the run was made with."),
    **value("result", "Of a finished run."),
)
DECIDED: Final = shape(
    "decision call attempt draining",
    decision=words("go", "replay", "probe"),
    call=COUNT,
    attempt=COUNT,
    upstream_key=TEXT,
    until_boot_s={**SECONDS, "description": "Make it before CLOCK_BOOTTIME passes this."},
    left_s={"type": "number", "description": "The same, in seconds from now."},
    kind=words(*(kind.value for kind in OutcomeKind)),
    draining=FLAG,
    **value("result", "With `replay`: what came back."),
)
WRITTEN: Final = shape("seq draining", seq=COUNT, draining=FLAG)
SUMMARY: Final = shape(
    "run epoch status queue step in_doubt schema code_version pinned reason not_before_ms stuck"
    " deadline_ms undo",
    run=NAME,
    epoch=COUNT,
    status=STATUSES,
    queue=NAME,
    step=COUNT,
    in_doubt=COUNT,
    schema=COUNT,
    code_version=TEXT,
    pinned=FLAG,
    reason=TEXT,
    not_before_ms=COUNT,
    stuck=FLAG,
    deadline_ms={**COUNT, "description": "Store time by which it is over; 0: never."},
    undo={**TEXT, "description": "Being taken back: by whom next, `sidecar` or `agent`."},
)
WAITING: Final = shape(
    "queue wanted ready later owned undoing parked held",
    queue=NAME,
    wanted={**COUNT, "description": "Runs that want a pod: what scalers scale by."},
    ready={**COUNT, "description": "An agent may take them now."},
    later={**COUNT, "description": "Ready, after the pause that follows a crash."},
    owned={**COUNT, "description": "A pod has them, or had them when it died."},
    undoing={**COUNT, "description": "What they did is to be taken back by a sidecar."},
    parked={**COUNT, "description": "They wait for a signal."},
    held={**COUNT, "description": "They wait for an operator."},
)
IS_CUT: Final[Schema] = {**FLAG, "description": "There is more than was counted."}
LEFT_S: Final[Schema] = {"type": ["number", "null"], "description": "Seconds from now."}
DRAIN: Final = shape(
    "draining released unshipped_bytes budget_bytes bytes_per_s latency_s runs",
    draining=FLAG,
    released={**FLAG, "description": "No run is here, and all that there was is shipped."},
    cause=TEXT,
    since_s=SECONDS,
    deadline_s=LEFT_S,
    barrier_s=LEFT_S,
    cut_s={**LEFT_S, "description": "Until what has not stopped is released where it stands."},
    ship_s=SECONDS,
    feasible={**FLAG, "description": "At the rate measured all gets off the pod in time."},
    unshipped_bytes=COUNT,
    budget_bytes={**COUNT, "description": "What may be unshipped and still make the grace."},
    bytes_per_s=SECONDS,
    latency_s=SECONDS,
    runs={
        "type": "array",
        "items": shape(
            "run on_drain doing until_s step boundary_s eta_s unshipped_bytes waits_for",
            run=NAME,
            on_drain=words(*ON_DRAIN),
            doing=words(*(doing.value for doing in Doing)),
            until_s=LEFT_S,
            step=COUNT,
            boundary_s={**SECONDS, "description": "Its longest step so far."},
            eta_s=LEFT_S,
            unshipped_bytes=COUNT,
            waits_for=TEXT,
        ),
    },
)
DOUBT: Final = shape(
    "call tool step first_sent_ms reason summary",
    call=COUNT,
    tool=TEXT,
    step=COUNT,
    business_key={"type": ["string", "null"]},
    first_sent_ms=COUNT,
    reason=TEXT,
    summary=TEXT,
)
DONE: Final = shape(
    "id status", id=COMMAND_ID, status={**TEXT, "description": "Of the run afterwards."}
)
ORDER: Final[dict[str, Schema]] = {
    "by": TEXT,
    "why": TEXT,
    "id": {**COMMAND_ID, "description": "A command is carried out once under one id."},
    "timeout_s": {**SECONDS, "maximum": 300, "default": 30},
}
SIGNALS: Final[Schema] = {
    **COUNTS,
    "description": "Numbers of the signals that this step received.",
}
LEVELS: Final = words(*(level.value for level in Level))
PROBLEM: Final = shape(
    "status code detail retry",
    status=COUNT,
    code=TEXT,
    detail=TEXT,
    retry=words(*(retry.value for retry in Retry)),
    run=TEXT,
    call=COUNT,
    tool=TEXT,
    step=COUNT,
    epoch=COUNT,
    address=TEXT,
    reason=TEXT,
    limit=COUNT,
    deadline_ms=COUNT,
    calls={"type": "array", "items": {"type": "object"}},
)
