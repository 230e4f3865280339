"""Every operation as a generator: yields what is to be asked or called, is sent the reply.

One body for both drivers, and no socket, thread or loop in it.
"""

from collections.abc import Generator
from contextlib import suppress
from typing import Any, Final, NamedTuple

from coatcheck import _codec, errors, wire
from coatcheck._session import Ask, CallPhase, Op, Session, Value, field, outcome
from coatcheck._tool import UNDOS, Call, Invoke, TooLate, declare, undo_name
from coatcheck.wire import Message, Request

Command = Ask | Invoke | None
"""A request, a function to call; or, `None`, the end of the connection."""
ToolOp = Generator[Command, Any, Value]

STARTS_MAX: Final = 8
"""Windows missed in a row, probes between; asking again would only add load."""
RESUME_WAIT_S: Final = 10.0
"""How long a sidecar may take to find a run again; less than the handshake may take."""
RELEASE_S: Final = 20.0
"""Leaving a run waits this long for the sidecar, and no longer: a lease ends it otherwise."""
ERROR_CHARS_MAX: Final = 1_000
"""What the sidecar is told of an exception: enough to know it by."""
CLIENT_NAME: Final = "coatcheck-python"
UNSET: Final[Any] = object()


class RunResult(NamedTuple):
    """How a run stands; `result` is what it finished with, `error` what it failed with."""

    status: str
    result: Any
    error: str | None


def handshake(session: Session) -> Op[None]:
    """Begin a connection: settle version and limits, and resume the run if there was one."""
    lowest, highest = wire.PROTOCOL_VERSIONS
    body = {"protocol": [lowest, highest], "client": CLIENT_NAME}
    reply = yield Ask(Request.HELLO, {**body, "incarnation": session.incarnation})
    version = field(reply, "protocol", kind=int)
    if not lowest <= version <= highest:
        speaks = f"the sidecar speaks protocol {version}, this client {lowest} to {highest}"
        raise errors.ProtocolError(f"{speaks}: upgrade the older one")
    session.greeted(field(reply, "limits", kind=dict))
    session.is_off |= reply.body.get("mode") == "off"
    session.environ = reply.body.get("env", session.environ)
    if session.is_open and not session.is_off:
        session.base, known = None, {"run": session.run, "create": False, "wait_s": RESUME_WAIT_S}
        again = {**session.opening.body, **known, "resume": session.report()}
        session.opened((yield Ask(Request.OPEN, again)))


def open_run(session: Session) -> ToolOp[tuple[Any, Any, RunResult]]:
    """Create or claim a run, or the next of its queue: its state, its input, how it stands."""
    reply: Message | None = None
    while reply is None:
        try:
            reply = yield session.opening
        except errors.Unavailable as error:
            if session.run or "socket" in error.details:
                raise
    session.run = field(reply, "run", kind=str)
    session.step = field(reply, "step", kind=int)
    session.opened(reply)
    stands = _stands(reply, session.status)
    if not session.is_open:
        return None, None, stands
    given, data, seq = reply.body.get("input"), reply.attachment, reply.body.get("seq")
    if data is not None and seq is not None:
        session.base = (seq, data)
    if reply.body.get("undoing"):
        yield from take_back(session)
    state, target = _codec.decode(data), session.opening.body["schema"]
    for schema in range(reply.body.get("schema", target), target) if data is not None else ():
        state = session.opening.lifts[schema](state)
    return state, _codec.decode(given), stands


def _stands(reply: Message, status: str) -> RunResult:
    data = reply.attachment if status == "finished" else None
    return RunResult(status, _codec.decode(data), reply.body.get("error") or None)


def take_back(session: Session) -> ToolOp[None]:
    """Undo what the run did, newest first: the sidecar says which function is next."""
    while "undo" in (reply := (yield Ask(Request.UNDO, {}))).body:
        tool, name = (field(reply, part, kind=str) for part in ("tool", "undo"))
        if (undo := UNDOS.get((tool, name))) is None:
            raise errors.Unavailable(f"no tool {tool} with undo={name} here", run=session.run)
        declared = declare(undo, {"key": field(reply, "key", kind=str)})
        value = _codec.decode(reply.attachment)
        yield from call_tool(session, Call(session.step, declared, undo, (value,), {}))


def commit(session: Session, step: int, *, state: Any, level: str) -> Op[None]:
    """End a step with a checkpoint, durable at `level` when it returns."""
    data = _encoded(session, state)
    session.check(step)
    body = {"step": step, "level": level, "schema": session.opening.body["schema"]}
    yield from _ended(session, Ask(Request.COMMIT, body, data), data=data)


def finish(session: Session, result: Any, *, state: Any) -> Op[None]:
    """End the run with a result, and a last checkpoint unless `state` is `UNSET`."""
    tail = _codec.encode(result, "result")
    session.check(session.step)
    body, data = {"step": session.step}, b""
    if state is not UNSET:
        data = _encoded(session, state)
        body |= {"schema": session.opening.body["schema"], "state_length": len(data)}
    yield from _ended(session, Ask(Request.FINISH, body, data + tail), data=data)


def _encoded(session: Session, state: Any) -> bytes:
    data, limit = _codec.encode(state, "state"), session.state_bytes_max
    if len(data) > limit:
        text = f"the state has {len(data)} bytes, {limit} are allowed"
        raise errors.TooLarge(text, run=session.run, limit=limit)
    return data


def _ended(session: Session, whole: Ask, *, data: bytes) -> Op[None]:
    """Send what ends a step: as a patch where that is less, whole if the base is unknown."""
    session.is_committing = True
    if session.signals:
        whole.body["signals"] = list(session.signals)
    patch = wire.make_patch(session.base[1], data) if session.base else None
    if session.base is None or patch is None:
        yield whole
        return
    changes = {"base": session.base[0], "length": patch.length, "ranges": patch.ranges}
    body = {**whole.body, "patch": changes}
    if whole.type is Request.FINISH:
        body["state_length"] = len(patch.data)
    tail = (whole.attachment or b"")[len(data) :]
    try:
        yield Ask(whole.type, body, patch.data + tail, whole=whole)
    except errors.Conflict:
        session.base, session.is_committing = None, True
        yield whole


def tell(session: Session, request: Request, *, value: Any = None, **body: Any) -> Op[None]:
    """Say something of the run."""
    session.check()
    yield Ask(request, body, None if value is None else _codec.encode(value, "value"))


def leave(session: Session, reason: str, *, error: str | None = None) -> Op[None]:
    """Give the run up in good order, if there is one to give up."""
    if session.is_open:
        body = {"reason": reason} if error is None else {"reason": reason, "error": error}
        yield Ask(Request.RELEASE, body, within_s=RELEASE_S)


def wait_for(session: Session, name: str, *, payload: Any) -> Op[Any]:
    """The value of a signal; raises `Parked` if it has not come."""
    session.check(session.step)
    body = {"name": name, "step": session.step, "signals": list(session.signals)}
    reply = yield Ask(Request.WAIT, body, _codec.encode(payload, "payload"))
    session.signals.append(field(reply, "signal", kind=int))
    return _codec.decode(reply.attachment)


def result_of(asking: Ask) -> ToolOp[RunResult]:
    """How a run stands, whoever owns it. Ends the connection."""
    try:
        reply = yield asking
    finally:
        yield None
    return _stands(reply, field(reply, "status", kind=str))


def call_tool(session: Session, call: Call) -> ToolOp[Any]:
    """One tool call: asked about, made or answered from its record, its outcome recorded."""
    session.check(call.step)
    if call.tool["effect"] == "read" and not call.tool.get("record"):
        return (yield Invoke(call, session, said={}))
    ask = Ask(Request.CALL, _call_body(call), _codec.encode(call.arguments(), call.name))
    data: bytes | None = None
    reply: Message | None = None
    for _ in range(STARTS_MAX):
        reply = reply or (yield ask)
        match reply.body.get("decision"):
            case "probe":
                reply = yield from _probe(session, call, reply=reply)
                continue
            case "replay":
                return _replayed(session, call, reply=reply)
            case "go":
                with suppress(TooLate):
                    data = data or (yield from _made(session, call, go=reply))
                told = outcome(reply, "result", result=data)
                if data and (yield from _told(session, call, ask=told)):
                    # The recorded form: the agent sees the same the first time and on each replay.
                    return _codec.typed(_codec.decode(data), call.function)
            case other:
                raise errors.ProtocolError(f"{call.name}: the decision is {other!r:.40}")
        reply = None
    missed = f"{call.name} missed {STARTS_MAX} windows to start in"
    raise errors.Unavailable(f"{missed}: is this process starved of CPU?")


def _call_body(call: Call) -> dict[str, Any]:
    has = call.tool.get
    body = {"step": call.step, "tool": call.name, "effect": call.tool["effect"]}
    body |= {"key": call.explicit_key(), "business": call.business, "undo": undo_name(call.tool)}
    body |= {"identity": has("identity", "content"), "level": has("durability")}
    body |= {"settle_s": has("probe_settle_s"), "key_lifetime_s": has("key_lifetime_s")}
    body |= {name: has(name) or None for name in ("repeats", "unresolved_ok", "irreversible")}
    body |= {"probe": True if has("probe") else None, "show": [*call.tool.get("show", ())] or None}
    return {key: value for key, value in body.items() if value is not None}


def _made(session: Session, call: Call, *, go: Message) -> ToolOp[bytes]:
    """Call the function; its result in the recorded form. What it raises is told, and raised."""
    number = field(go, "call", kind=int)
    session.calls[number] = CallPhase.UNSTARTED
    try:
        value = yield Invoke(call, session, said=go.body)
        return _codec.encode(value, f"the result of {call.name}")
    except BaseException as error:
        is_fault, is_known = isinstance(error, Exception), isinstance(error, errors.NotApplied)
        kind, why = ("not_applied", str(error)) if is_known else ("failed", said_of(error))
        # An agent that is being stopped says what is known, and isn't held up.
        told = outcome(go, kind, reason=why)._replace(within_s=None if is_fault else 0.0)
        with suppress(TimeoutError):
            yield from _told(session, call, ask=told)
        if is_fault and not is_known and call.tool["effect"] == "once":
            raise _doubt(session, call, number=number, why=why) from error
        raise


def _told(session: Session, call: Call, *, ask: Ask) -> ToolOp[bool]:
    """Say what became of a call; false if a sidecar that began anew no longer knows this read."""
    session.calls[ask.body["call"]] = CallPhase.DONE
    try:
        yield ask
    except errors.NotFound:
        if call.tool["effect"] != "read":
            raise
        return False
    return True


def _probe(session: Session, call: Call, *, reply: Message) -> ToolOp[Message]:
    number, probe = field(reply, "call", kind=int), call.tool.get("probe")
    if probe is None:
        raise _doubt(session, call, number=number, why="it has no probe to ask")
    try:
        value = yield Invoke(call._replace(function=probe), session, said=reply.body)
    except errors.NotApplied:
        value = None
    except Exception as error:
        why = f"its probe raised {said_of(error)}"
        raise _doubt(session, call, number=number, why=why) from error
    applied = value is not None and value is not False
    body = {"call": number, "attempt": field(reply, "attempt", kind=int), "applied": applied}
    data = _codec.encode(value, f"the probe of {call.name}") if applied else None
    answer: Message = yield Ask(Request.PROBED, body, data)
    return answer


def _replayed(session: Session, call: Call, *, reply: Message) -> Any:
    kind, number = reply.body.get("kind", "result"), reply.body.get("call")
    if kind == "unknown":
        raise _doubt(session, call, number=number, why="its effect is unknown")
    if kind != "result":
        text = f"call {number} of {call.name} took place, but its answer is {kind}"
        raise errors.Held(text, **_about(session, call, number=number))
    data = reply.attachment
    return None if data is None else _codec.typed(_codec.decode(data), call.function)


def _doubt(session: Session, call: Call, *, number: Any, why: str) -> errors.CoatcheckError:
    what = f"call {number} of {call.name} may or may not have taken place ({why})"
    mend = f"look, then say so with `coatcheck resolve {session.run} {number}`"
    return errors.InDoubt(f"{what}: {mend}", **_about(session, call, number=number))


def _about(session: Session, call: Call, *, number: Any) -> dict[str, Any]:
    return {"run": session.run, "call": number, "tool": call.name, "step": call.step}


def said_of(error: BaseException | None) -> str:
    """An exception in a line."""
    return f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
