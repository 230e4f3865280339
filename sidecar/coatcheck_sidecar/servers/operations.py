"""What the run API can be asked: its routes, its checks and its document come of this table."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from coatcheck_sidecar.core.call_events import Resolution
from coatcheck_sidecar.core.model import RUN_ID, Effect
from coatcheck_sidecar.core.policy import Identity
from coatcheck_sidecar.servers.schemas import (
    COUNT,
    DECIDED,
    DONE,
    DOUBT,
    DRAIN,
    FLAG,
    IS_CUT,
    LEVELS,
    NAME,
    OPENED,
    OPENING,
    ORDER,
    RESUME,
    SECONDS,
    SIGNALS,
    STATUSES,
    SUMMARY,
    TEXT,
    WAITING,
    WRITTEN,
    Schema,
    shape,
    takes,
    value,
    words,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One thing to ask: `POST /v1/runs/{run}/commit`, what it takes and what it answers."""

    id: str
    path: str
    says: str
    answer: Schema
    takes: Schema | None = None
    """Of the body; `None`: a GET, which has none."""
    is_agents: bool = False
    """Asked by the agent that has the run, with its token."""
    statuses: tuple[int, ...] = ()
    """Of its errors, beyond those that every operation has."""
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        """The path as an expression over raw paths: nothing in them is ever decoded."""
        raw = re.escape(self.path).replace(r"\{run\}", f"(?P<run>{RUN_ID.pattern})")
        raw = raw.replace(r"\{queue\}", f"(?P<queue>{RUN_ID.pattern})")
        raw = raw.replace(r"\{call\}", "(?P<call>[0-9]{1,15})")
        object.__setattr__(self, "pattern", re.compile(raw))

    @property
    def method(self) -> str:
        """GET only looks."""
        return "GET" if self.takes is None else "POST"

    @property
    def fields(self) -> Mapping[str, Schema]:
        """What its body may hold."""
        properties: Mapping[str, Schema] = (self.takes or {}).get("properties", {})
        return properties


_AGENT: Final = "/v1/runs/{run}/"

OPERATIONS: Final = (
    Operation(
        id="open",
        path="/v1/runs/{run}/open",
        says="Make a run, or go on with it, as its one owner.",
        takes=takes(
            **OPENING,
            queue={**NAME, "default": "default"},
            create={**FLAG, "default": True},
            resume={**RESUME, "description": "After a lost connection, by the same process."},
            replace={**FLAG, "description": "The process that had it is known to be dead."},
            **value("input", "Of a new run."),
        ),
        answer=OPENED,
        statuses=(409, 410, 413, 424),
    ),
    Operation(
        id="openNext",
        path="/v1/queues/{queue}/open",
        says="Take the next ready run of a queue.",
        takes=takes(**OPENING),
        answer=OPENED,
        statuses=(409, 410, 424),
    ),
    Operation(
        id="commit",
        path=_AGENT + "commit",
        says="End a step with its checkpoint: durable at `level` when it is answered.",
        takes=takes(
            "step",
            step=COUNT,
            level={**LEVELS, "default": "node"},
            schema=COUNT,
            signals=SIGNALS,
            **value("state", "All that the next step needs."),
        ),
        answer=shape("seq step draining", seq=COUNT, step=COUNT, draining=FLAG),
        is_agents=True,
        statuses=(409, 413),
    ),
    Operation(
        id="call",
        path=_AGENT + "calls",
        says="Ask what to do about a tool call, before it is made.",
        takes=takes(
            "tool effect",
            tool=TEXT,
            effect=words(*(effect.value for effect in Effect)),
            step=COUNT,
            key=TEXT,
            business={**TEXT, "description": "JSON pointer into the arguments."},
            show={
                "type": "array",
                "items": TEXT,
                "description": "JSON pointers to what operators see.",
            },
            identity=words(*(identity.value for identity in Identity)),
            repeats=FLAG,
            level=LEVELS,
            probe=FLAG,
            settle_s=SECONDS,
            key_lifetime_s=SECONDS,
            unresolved_ok=FLAG,
            irreversible={**FLAG, "description": "Never started while the pod drains."},
            undo={**TEXT, "description": "The function that takes the call back, by its name."},
            **value("arguments", "By parameter name."),
        ),
        answer=DECIDED,
        is_agents=True,
        statuses=(409, 422, 424),
    ),
    Operation(
        id="eta",
        path=_AGENT + "eta",
        says="Say how long the run still needs: a drain that can wait for its end does.",
        takes=takes("seconds", seconds=SECONDS),
        answer=shape("draining", draining=FLAG),
        is_agents=True,
        statuses=(409,),
    ),
    Operation(
        id="outcome",
        path=_AGENT + "calls/{call}/outcome",
        says="Say what came of a call that was to be made.",
        takes=takes(
            "attempt",
            attempt=COUNT,
            kind={**words("result", "not_applied", "failed"), "default": "result"},
            reason=TEXT,
            **value("result", "What came back."),
        ),
        answer=WRITTEN,
        is_agents=True,
        statuses=(409, 424),
    ),
    Operation(
        id="probed",
        path=_AGENT + "calls/{call}/probed",
        says="Say what the upstream knows of a call that may have been made.",
        takes=takes(
            "attempt applied", attempt=COUNT, applied=FLAG, **value("result", "If applied.")
        ),
        answer=DECIDED,
        is_agents=True,
        statuses=(409, 422, 424),
    ),
    Operation(
        id="undo",
        path=_AGENT + "undo",
        says="Of a run that is taken back: the next function to call; without one it is over.",
        takes=takes(),
        answer=shape(
            "draining",
            undo={**TEXT, "description": "The function's name."},
            tool={**TEXT, "description": "Of the call that it takes back."},
            key={**TEXT, "description": "To ask for the undo as a call under."},
            call=COUNT,
            draining=FLAG,
            **value("result", "Of the call that it takes back."),
        ),
        is_agents=True,
        statuses=(409, 424),
    ),
    Operation(
        id="wait",
        path=_AGENT + "wait",
        says="Receive a signal; if there is none the run is parked, and 409 `parked` says so.",
        takes=takes("name", name=TEXT, signals=SIGNALS, **value("payload", "For people.")),
        answer=shape(
            "signal draining", signal=COUNT, draining=FLAG, **value("value", "Of the signal.")
        ),
        is_agents=True,
        statuses=(409,),
    ),
    Operation(
        id="finish",
        path=_AGENT + "finish",
        says="The last checkpoint, if there is a state, and the result, in one append.",
        takes=takes(
            step=COUNT,
            schema=COUNT,
            signals=SIGNALS,
            **value("state", "The last one."),
            **value("result", "What the run came to."),
        ),
        answer=WRITTEN,
        is_agents=True,
        statuses=(409, 413),
    ),
    Operation(
        id="fail",
        path=_AGENT + "fail",
        says="The run is over without a result.",
        takes=takes("error", error=TEXT),
        answer=WRITTEN,
        is_agents=True,
        statuses=(409,),
    ),
    Operation(
        id="release",
        path=_AGENT + "release",
        says="Give the run up, for another agent.",
        takes=takes(
            reason={**words("left", "error", "draining", "in_doubt", "held"), "default": "left"},
            error=TEXT,
        ),
        answer=WRITTEN,
        is_agents=True,
        statuses=(409,),
    ),
    Operation(
        id="alive",
        path=_AGENT + "alive",
        says="Say that this agent lives, while it thinks for long.",
        takes=takes(),
        answer=shape("epoch step draining", epoch=COUNT, step=COUNT, draining=FLAG),
        is_agents=True,
        statuses=(409,),
    ),
    Operation(
        id="listRuns",
        path="/v1/runs",
        says="The runs that this pod owns.",
        answer=shape("runs", runs={"type": "array", "items": SUMMARY}),
    ),
    Operation(
        id="showRun",
        path="/v1/runs/{run}",
        says="One of them.",
        answer=SUMMARY,
        statuses=(404,),
    ),
    Operation(
        id="result",
        path="/v1/runs/{run}/result",
        says="How any run stands, and its result once it is finished.",
        answer=shape(
            "run status",
            run=NAME,
            status=STATUSES,
            error={"type": ["string", "null"]},
            **value("result", "If it is finished."),
        ),
        statuses=(404, 424),
    ),
    Operation(
        id="doubts",
        path="/v1/runs/{run}/doubts",
        says="Calls of any run that may have taken place: `resolve` decides them.",
        answer=shape("doubts", doubts={"type": "array", "items": DOUBT}),
        statuses=(404, 424),
    ),
    Operation(
        id="signal",
        path="/v1/runs/{run}/signal",
        says="Send any run a value that it waits for, or will.",
        takes=takes("name by", name=TEXT, **ORDER, **value("value", "What `wait` gives.")),
        answer=DONE,
        statuses=(404, 409, 424),
    ),
    Operation(
        id="resolve",
        path="/v1/runs/{run}/resolve",
        says="Decide what became of a call: in doubt, or done with its answer lost, or taken back.",
        takes=takes(
            "call verdict by",
            call=COUNT,
            verdict=words(*(verdict.value for verdict in Resolution)),
            force={**FLAG, "description": "Even while a send may still be on its way."},
            **ORDER,
            **value("value", "With `applied`: the result to give the agent."),
        ),
        answer=DONE,
        statuses=(404, 409, 424),
    ),
    Operation(
        id="cancel",
        path="/v1/runs/{run}/cancel",
        says="End any run for good. Calls in flight are not undone.",
        takes=takes("by", **ORDER),
        answer=DONE,
        statuses=(404, 409, 424),
    ),
    Operation(
        id="retry",
        path="/v1/runs/{run}/retry",
        says="Let a held run go on; forgets its crashes.",
        takes=takes("by", **ORDER),
        answer=DONE,
        statuses=(404, 409, 424),
    ),
    Operation(
        id="compensate",
        path="/v1/runs/{run}/compensate",
        says="Take back what any run did, newest call first, and end it.",
        takes=takes("by", then={**words("end", "resubmit"), "default": "end"}, **ORDER),
        answer=DONE,
        statuses=(404, 409, 424),
    ),
    Operation(
        id="waiting",
        path="/v1/queue",
        says="What waits in all queues of the store, and how many runs of them want a pod.",
        answer=shape(
            "wanted queues is_cut",
            wanted=COUNT,
            queues={"type": "array", "items": WAITING},
            is_cut=IS_CUT,
        ),
    ),
    Operation(
        id="waitingIn",
        path="/v1/queues/{queue}",
        says="The same of one queue; there are only noughts of one that nobody ever used.",
        answer={
            **WAITING,
            "properties": {**WAITING["properties"], "is_cut": IS_CUT},
        },
    ),
    Operation(
        id="showDrain",
        path="/v1/drain",
        says="How the pod's shutdown stands: seconds from now, bytes, and who waits for what.",
        answer=DRAIN,
    ),
    Operation(
        id="drain",
        path="/v1/drain",
        says="Shut the pod down: runs stop, are shipped and released. There is no way back.",
        takes=takes(
            deadline_s={**SECONDS, "description": "What is left until SIGKILL; else the grace."}
        ),
        answer=DRAIN,
    ),
    Operation(
        id="observe",
        path="/v1/observe",
        says="What a deploy now would lose and double, by what was seen so far.",
        answer={"type": "object"},
        statuses=(404,),
    ),
    Operation(
        id="document",
        path="/v1/openapi.json",
        says="This document.",
        answer={"type": "object"},
    ),
)
"""Every route of `/v1`."""
