"""Every operation as a generator: yields what is to be asked or called, is sent the reply.

One body for both drivers, and no socket, thread or loop in it.
"""

import os
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from coatcheck import _codec, wire
from coatcheck._session import (
    RESUME_WAIT_S,
    Ask,
    CallPhase,
    Opening,
    Session,
    field,
    outcome,
)
from coatcheck._tool import Call, Invoke, TooLate
from coatcheck.errors import (
    CoatcheckError,
    Conflict,
    Damaged,
    Held,
    InDoubt,
    NotApplied,
    NotFound,
    ProtocolError,
    SchemaMismatch,
    TooLarge,
    Unavailable,
)
from coatcheck.wire import Message, Request

Result = TypeVar("Result")
Op = Generator[Ask, Message, Result]
ToolOp = Generator[Ask | Invoke, Any, Result]
Migrations = Mapping[int, Callable[[Any], Any]]

STARTS_MAX: Final = 8
"""Windows missed in a row; then the process is starved, and asking again only adds load."""
PROBES_MAX: Final = 8
"""A "no" counts once it has settled; each probe is asked for after a wait, so few are enough."""
OWNED: Final = "owned"
"""What an opened run is, unless it was over before it could be opened."""
CLIENT_NAME: Final = "coatcheck-python"
UNSET: Final[Any] = object()


class Opened(NamedTuple):
    """What an `open` gave."""

    state: Any
    input: Any


class RunResult(NamedTuple):
    """How a run stands; `result` is what it finished with, `error` what it failed with."""

    status: str
    result: Any
    error: str | None


def handshake(session: Session) -> Op[None]:
    """Begin a connection: settle version and limits, and resume the run if there was one."""
    body = {
        "protocol": list(wire.PROTOCOL_VERSIONS),
        "client": CLIENT_NAME,
        "incarnation": session.incarnation,
    }
    reply = yield Ask(Request.HELLO, body)
    version, (lowest, highest) = field(reply, "protocol", kind=int), wire.PROTOCOL_VERSIONS
    if not lowest <= version <= highest:
        raise ProtocolError(
            f"the sidecar speaks protocol {version}, this client {lowest} to {highest}: "
            "upgrade the older one"
        )
    limits = field(reply, "limits", kind=dict)
    session.state_bytes_max = int(limits.get("state_bytes", session.state_bytes_max))
    session.requests_max = int(limits.get("requests", session.requests_max))
    if session.is_open and not session.is_ended:
        yield from _resume(session)


def _resume(session: Session) -> Op[None]:
    calls, answered = session.report(), sorted(session.answered)
    resume = {"epoch": session.epoch, "calls": calls, "answered": answered}
    opening = session.opening._replace(run=session.run, create=False, wait_s=RESUME_WAIT_S)
    reply = yield Ask(Request.OPEN, {**_open_body(opening), "resume": resume})
    session.epoch = field(reply, "epoch", kind=int)
    session.is_draining = session.is_draining or reply.body.get("draining") is True
    session.base = None


def _open_body(opening: Opening) -> dict[str, Any]:
    body = {
        "run": opening.run,
        "queue": opening.queue,
        "schema": opening.schema,
        "code_version": opening.code_version or os.environ.get("COATCHECK_CODE_VERSION"),
        "pinned": opening.is_pinned or None,
        "create": opening.create,
        "wait_s": opening.wait_s,
        "address": opening.address,
        "step_timeout_s": opening.step_timeout_s,
    }
    return {key: value for key, value in body.items() if value is not None}


def open_run(session: Session, migrations: Migrations) -> Op[Opened]:
    """Create or claim a run; its newest state, lifted to the schema of this code."""
    opening = session.opening
    reply = yield Ask(Request.OPEN, _open_body(opening), opening.input)
    session.run = field(reply, "run", kind=str)
    session.epoch = field(reply, "epoch", kind=int)
    session.step = field(reply, "step", kind=int)
    session.is_open = True
    session.is_ended = reply.body.get("status", OWNED) != OWNED
    try:
        given = reply.body.get("input")
        state = _lifted(session, reply, migrations=migrations)
        return Opened(state, None if given is None else _codec.decode(given))
    except (SchemaMismatch, Damaged) as error:
        yield from leave(session, "left", error=str(error))
        raise


def claim(session: Session, migrations: Migrations) -> Op[Opened]:
    """Open the next ready run of the queue, however long it takes for one to come."""
    while True:
        try:
            return (yield from open_run(session, migrations))
        except Unavailable as error:
            if "socket" in error.details:
                raise


def _lifted(session: Session, reply: Message, *, migrations: Migrations) -> Any:
    data, schema = reply.attachment, session.opening.schema
    if data is None or reply.body.get("has_state") is False:
        return None
    state, found = _codec.decode(data), reply.body.get("schema", schema)
    for version in range(found, schema):
        if version not in migrations:
            break
        state, found = migrations[version](state), version + 1
    if found != schema:
        raise SchemaMismatch(
            f"the state of run {session.run} has schema {found}, this code {schema}: "
            f"give a migration for {found}, or deploy code that accepts it",
            run=session.run,
        )
    return state


def commit(session: Session, step: int, *, state: Any, level: str) -> Op[None]:
    """End a step with a checkpoint, durable at `level` when it returns."""
    data = _state(session, state)
    session.check(step)
    body = {"step": step, "level": level, "schema": session.opening.schema}
    yield from _ended(session, Ask(Request.COMMIT, body, data, state=data), data=data)


def finish(session: Session, result: Any, *, state: Any) -> Op[None]:
    """End the run with a result, and a last checkpoint unless `state` is `UNSET`."""
    tail = _codec.encode(result, "result")
    session.check(session.step)
    body: dict[str, Any] = {"step": session.step}
    if state is UNSET:
        yield from _ended(session, Ask(Request.FINISH, body, tail), data=b"")
        return
    data = _state(session, state)
    body |= {"schema": session.opening.schema, "state_length": len(data)}
    yield from _ended(session, Ask(Request.FINISH, body, data + tail), data=data, tail=tail)


def _state(session: Session, state: Any) -> bytes:
    data = _codec.encode(state, "state")
    if len(data) > session.state_bytes_max:
        raise TooLarge(
            f"the state has {len(data)} bytes, {session.state_bytes_max} are allowed: "
            "keep big values outside it, or raise state_bytes_max",
            run=session.run,
            limit=session.state_bytes_max,
        )
    return data


def _ended(session: Session, whole: Ask, *, data: bytes, tail: bytes = b"") -> Op[None]:
    """Send what ends a step: as a patch where that is less, whole if the base is unknown."""
    session.is_committing = True
    patch = wire.make_patch(session.base[1], data) if session.base else None
    if session.base is None or patch is None:
        yield whole
        return
    body = {
        **whole.body,
        "patch": {"base": session.base[0], "length": patch.length, "ranges": patch.ranges},
    }
    if whole.type is Request.FINISH:
        body["state_length"] = len(patch.data)
    try:
        yield whole._replace(body=body, attachment=patch.data + tail, whole=whole)
    except Conflict:
        session.base, session.is_committing = None, True
        yield whole


def fail(session: Session, error: str) -> Op[None]:
    """End the run as failed."""
    session.check()
    yield Ask(Request.FAIL, {"error": error})


def leave(session: Session, reason: str, *, error: str | None = None) -> Op[None]:
    """Give the run up in good order, if there is one to give up."""
    if session.is_open and not session.is_ended and session.fenced is None:
        body = {"reason": reason}
        yield Ask(Request.RELEASE, body if error is None else {**body, "error": error})


def wait_for(session: Session, name: str, *, payload: Any) -> Op[Any]:
    """The value of a signal; raises `Parked` if it has not come."""
    session.check(session.step)
    body = {"name": name, "step": session.step}
    reply = yield Ask(Request.WAIT, body, _codec.encode(payload, "payload"))
    session.signals.discard(name)
    return None if reply.attachment is None else _codec.decode(reply.attachment)


def result_of(run: str) -> Op[RunResult]:
    """How a run stands, whoever owns it."""
    reply = yield Ask(Request.RESULT, {"run": run})
    value = None if reply.attachment is None else _codec.decode(reply.attachment)
    return RunResult(field(reply, "status", kind=str), value, reply.body.get("error"))


def call_tool(session: Session, call: Call) -> ToolOp[Any]:
    """One tool call: asked about, made or answered from its record, its outcome recorded."""
    session.check(call.step)
    if call.tool.is_unrecorded:
        return (yield Invoke(call, session))
    ask = Ask(Request.CALL, _call_body(call), call.encoded())
    for _ in range(STARTS_MAX):
        reply: Message = yield ask
        for _ in range(PROBES_MAX):
            if reply.body.get("decision") != "probe":
                break
            reply = yield from _probe(session, call, reply=reply)
        match reply.body.get("decision"):
            case "replay":
                return _replayed(session, call, reply=reply)
            case "go":
                try:
                    return (yield from _attempt(session, call, go=reply))
                except TooLate:
                    reason = "its window was over before it could start"
                    yield from _tell(session, outcome(reply, "not_applied", reason=reason))
            case other:
                raise ProtocolError(f"{call.tool.name}: the decision is {other!r:.40}")
    raise Unavailable(
        f"{call.tool.name} missed {STARTS_MAX} windows to start in: is this process starved of CPU?"
    )


def _call_body(call: Call) -> dict[str, Any]:
    tool = call.tool
    body = {
        "step": call.step,
        "tool": tool.name,
        "effect": tool.effect,
        "key": call.explicit_key(),
        "business": call.business,
        "identity": tool.identity,
        "repeats": tool.repeats or None,
        "level": tool.durability,
        "probe": True if tool.probe else None,
        "settle_s": tool.probe_settle_s,
        "key_lifetime_s": tool.key_lifetime_s,
        "unresolved_ok": tool.unresolved_ok or None,
    }
    return {key: value for key, value in body.items() if value is not None}


def _attempt(session: Session, call: Call, *, go: Message) -> ToolOp[Any]:
    number = field(go, "call", kind=int)
    session.calls[number] = CallPhase.UNSTARTED
    invoke = Invoke(
        call,
        session,
        number=number,
        key=go.body.get("upstream_key"),
        until_boot_s=go.body.get("until_boot_s"),
    )
    try:
        data = _codec.encode((yield invoke), f"the result of {call.tool.name}")
    except TooLate:
        raise
    except NotApplied as error:
        yield from _tell(session, outcome(go, "not_applied", reason=str(error)))
        raise
    except Exception as error:
        yield from _tell(session, outcome(go, "failed", reason=_said(error)))
        if call.tool.effect == "once":
            raise _doubt(session, call, number=number, why=_said(error)) from error
        raise
    except BaseException as error:
        # The agent is being stopped: say what is known, and don't hold it up.
        told = outcome(go, "failed", reason=_said(error))
        yield _done(session, told._replace(is_posted=True))
        raise
    if not (yield from _tell(session, outcome(go, "result", result=data))):
        again: Message = yield Ask(Request.CALL, _call_body(call), call.encoded())
        if again.body.get("decision") != "go":
            return _replayed(session, call, reply=again)
        yield _done(session, outcome(again, "result", result=data))
    # The recorded form, so that the agent sees the same the first time and on each replay.
    return _codec.typed(_codec.decode(data), call.function)


def _tell(session: Session, ask: Ask) -> Op[bool]:
    """Tell an outcome; false if the sidecar knows of no such call.

    It came back, and the call was a read, of which nothing is kept before its answer.
    """
    try:
        yield _done(session, ask)
    except NotFound:
        session.calls.pop(ask.body["call"], None)
        return False
    return True


def _done(session: Session, ask: Ask) -> Ask:
    session.calls[ask.body["call"]] = CallPhase.DONE
    return ask


def _probe(session: Session, call: Call, *, reply: Message) -> ToolOp[Message]:
    number, probe = field(reply, "call", kind=int), call.tool.probe
    if probe is None:
        raise _doubt(session, call, number=number, why="it has no probe to ask")
    asked = call._replace(function=probe)
    try:
        value = yield Invoke(asked, session, key=reply.body.get("upstream_key"))
    except NotApplied:
        value = None
    except Exception as error:
        why = f"its probe raised {_said(error)}"
        raise _doubt(session, call, number=number, why=why) from error
    applied = value is not None and value is not False
    body = {"call": number, "attempt": field(reply, "attempt", kind=int), "applied": applied}
    data = _codec.encode(value, f"the probe of {call.tool.name}") if applied else None
    try:
        answer: Message = yield Ask(Request.PROBED, body, data)
    except NotFound:  # a sidecar that came back did not send us to ask
        answer = yield Ask(Request.CALL, _call_body(call), call.encoded())
    return answer


def _replayed(session: Session, call: Call, *, reply: Message) -> Any:
    kind, number = reply.body.get("kind", "result"), reply.body.get("call")
    if kind == "result":
        if reply.attachment is None:
            return None
        return _codec.typed(_codec.decode(reply.attachment), call.function)
    if kind == "unknown":
        raise _doubt(session, call, number=number, why="its effect is unknown")
    text = f"call {number} of {call.tool.name} took place, but its answer is {kind}"
    raise Held(text, run=session.run, call=number, tool=call.tool.name, step=call.step)


def _doubt(session: Session, call: Call, *, number: Any, why: str) -> CoatcheckError:
    name = call.tool.name
    return InDoubt(
        f"call {number} of {name} may or may not have taken place ({why}): "
        f"look, then say so with `coatcheck resolve {session.run} {number}`",
        run=session.run,
        call=number,
        tool=name,
        step=call.step,
    )


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:1000]
