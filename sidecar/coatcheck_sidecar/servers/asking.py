"""What an agent asks over HTTP, as requests of the wire; and what it is told, for JSON."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from coatcheck.wire import ErrorCode, Request, Retry
from coatcheck_sidecar.core.session import Refusal, malformed
from coatcheck_sidecar.engine.sidecar import Sidecar
from coatcheck_sidecar.servers.agents import Agents, HttpAgent
from coatcheck_sidecar.servers.answered import Answered
from coatcheck_sidecar.servers.operations import Operation
from coatcheck_sidecar.servers.values import BASE64, from_base64, packed

NO_ARGUMENTS: Final = b"\x80"
NO_VALUE: Final = b"\xc0"
ANSWERS: Final = {"call": "result", "probed": "result", "undo": "result", "wait": "value"}
"""What the attachment of an answer is called."""
PLAIN_OPENING: Final = (
    "schema",
    "schema_from",
    "queue",
    "create",
    "wait_s",
    "code_version",
    "pinned",
    "address",
    "step_timeout_s",
    "on_drain",
    "deadline_s",
)


@dataclass(frozen=True, slots=True)
class Told:
    """An answer: plain fields, and values as msgpack."""

    body: dict[str, Any]
    values: Mapping[str, bytes | None] = field(default_factory=dict)


def value_of(body: Mapping[str, Any], name: str) -> bytes | None:
    """A value of the agent's own as msgpack, whichever way it came; raises `Refusal`."""
    encoded = f"{name}{BASE64}"
    if name in body and encoded in body:
        raise malformed(f"{name} and {encoded}: one of them")
    try:
        if encoded in body:
            return from_base64(body[encoded])
        return packed(body[name]) if name in body else None
    except ValueError as error:
        raise malformed(f"{name}: {error}") from error


class Asking:
    """Agents' requests."""

    def __init__(self, sidecar: Sidecar, agents: Agents) -> None:
        """`agents` keeps those that open a run."""
        self._sidecar = sidecar
        self._agents = agents
        self._make: Mapping[
            str, Callable[[HttpAgent, dict[str, Any]], tuple[Request, dict[str, Any], bytes | None]]
        ] = {
            "commit": _commit,
            "call": _call,
            "eta": lambda _agent, body: (Request.ETA, body, None),
            "outcome": _outcome,
            "probed": _probed,
            "undo": lambda _agent, _body: (Request.UNDO, {}, None),
            "wait": _wait,
            "finish": _finish,
            "fail": lambda _agent, body: (Request.FAIL, body, None),
            "release": lambda _agent, body: (Request.RELEASE, {"reason": "left", **body}, None),
        }

    async def open(
        self, operation: Operation, names: Mapping[str, str], *, body: dict[str, Any]
    ) -> tuple[HttpAgent, Told]:
        """Give a run to a new life of an agent; raises what `Requests.answer` does."""
        is_next = operation.id == "openNext"
        defaults = {"schema": 1, "queue": "default", "create": not is_next, "wait_s": 0.0}
        wanted: dict[str, Any] = {**defaults, **names}
        wanted |= {name: body[name] for name in PLAIN_OPENING if name in body}
        if "resume" in body:
            wanted["resume"] = _resume(body["resume"])
        incarnation = body.get("incarnation")
        agent, answered = await self._agents.open(
            wanted,
            value_of(body, "input"),
            incarnation=None if incarnation is None else bytes.fromhex(incarnation),
            replace=bool(body.get("replace")),
        )
        return agent, self._opened(agent, answered)

    def _opened(self, agent: HttpAgent, answered: Answered) -> Told:
        given = {name: item for name, item in answered.body.items() if item is not None}
        values = {
            "input": given.pop("input", None),
            "state" if given.pop("has_state") else "result": answered.attachment,
        }
        given |= {
            "token": agent.token,
            "incarnation": agent.incarnation.hex(),
            "silence_s": self._sidecar.settings.agent_silence_s,
        }
        return Told(given, values)

    async def ask(
        self,
        agent: HttpAgent,
        operation: Operation,
        *,
        names: Mapping[str, str],
        body: dict[str, Any],
    ) -> Told:
        """What an agent with a run asks; raises what `Requests.answer` does."""
        if operation.id == "alive":
            return Told(self._alive(agent))
        if "call" in names:
            body = {**body, "call": int(names["call"])}
        request, wanted, attachment = self._make[operation.id](agent, body)
        answered = await agent.ask(request, wanted, attachment=attachment)
        agent.is_fresh = False
        told = {name: item for name, item in answered.body.items() if item is not None}
        told["draining"] = bool(told.get("draining")) or agent.is_draining
        if "until_boot_s" in told:
            told["left_s"] = told["until_boot_s"] - self._sidecar.doors.clock.boottime()
        name = ANSWERS.get(operation.id, "")
        return Told(told, {name: answered.attachment})

    def _alive(self, agent: HttpAgent) -> dict[str, Any]:
        agent.check_in_time()
        if agent.is_over:
            why = f"run {agent.run} is no longer this agent's: open it again"
            raise Refusal(ErrorCode.FENCED, why, retry=Retry.NEVER, run=agent.run)
        return {"epoch": agent.epoch, "step": agent.step, "draining": agent.is_draining}


def _resume(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Names in JSON are text; those of calls are numbers."""
    try:
        calls = {int(number): life for number, life in raw.get("calls", {}).items()}
    except ValueError as error:
        raise malformed(f"open: resume: calls has a name that is no call: {error}") from error
    return {**raw, "calls": calls}


def _without(body: Mapping[str, Any], *names: str) -> dict[str, Any]:
    left_out = {*names, *(f"{name}{BASE64}" for name in names)}
    return {name: item for name, item in body.items() if name not in left_out}


def _commit(agent: HttpAgent, body: dict[str, Any]) -> tuple[Request, dict[str, Any], bytes | None]:
    state = value_of(body, "state")
    if state is None:
        raise malformed("commit: field 'state' is missing")
    defaults = {"level": "node", "schema": agent.schema}
    return Request.COMMIT, defaults | _without(body, "state"), state


def _call(agent: HttpAgent, body: dict[str, Any]) -> tuple[Request, dict[str, Any], bytes | None]:
    defaults = {"step": agent.step, "identity": "content"}
    arguments = value_of(body, "arguments") or NO_ARGUMENTS
    return Request.CALL, defaults | _without(body, "arguments"), arguments


def _outcome(
    _agent: HttpAgent, body: dict[str, Any]
) -> tuple[Request, dict[str, Any], bytes | None]:
    wanted = {"kind": "result"} | _without(body, "result")
    result = value_of(body, "result")
    if wanted["kind"] != "result" and result is not None:
        raise malformed(f"outcome: {wanted['kind']!r} has no result")
    if wanted["kind"] == "result" and result is None:
        result = NO_VALUE
    return Request.OUTCOME, wanted, result


def _probed(
    _agent: HttpAgent, body: dict[str, Any]
) -> tuple[Request, dict[str, Any], bytes | None]:
    result = value_of(body, "result")
    if body["applied"] and result is None:
        result = NO_VALUE
    return Request.PROBED, _without(body, "result"), result


def _wait(agent: HttpAgent, body: dict[str, Any]) -> tuple[Request, dict[str, Any], bytes | None]:
    wanted = {"step": agent.step} | _without(body, "payload")
    return Request.WAIT, wanted, value_of(body, "payload")


def _finish(agent: HttpAgent, body: dict[str, Any]) -> tuple[Request, dict[str, Any], bytes | None]:
    state, result = value_of(body, "state"), value_of(body, "result") or NO_VALUE
    wanted = {"step": agent.step, "schema": agent.schema} | _without(body, "state", "result")
    if state is None:
        return Request.FINISH, wanted, result
    return Request.FINISH, wanted | {"state_length": len(state)}, state + result
