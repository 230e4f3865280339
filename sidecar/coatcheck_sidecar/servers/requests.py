"""From a message of the wire to the engine, and back: one method a request."""

from collections.abc import Callable
from typing import Any, Final

from coatcheck.wire import (
    FRAME_BYTES_MAX,
    PART_BYTES_MAX,
    PROTOCOL_VERSIONS,
    REQUESTS_MAX,
    ErrorCode,
    Message,
    Push,
    Request,
    Retry,
    WireError,
)
from coatcheck_sidecar.core.call_events import Ending
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.drain import OnDrain
from coatcheck_sidecar.core.model import Level, Status
from coatcheck_sidecar.core.patch import apply_patch
from coatcheck_sidecar.core.patch_delta import NewState
from coatcheck_sidecar.core.problem import decision_of
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.core.session import Refusal, malformed
from coatcheck_sidecar.engine.agent import Agent, LateOutcome, Wants
from coatcheck_sidecar.engine.calls import Calls
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.engine.restore import Restored
from coatcheck_sidecar.engine.shipper import fenced
from coatcheck_sidecar.engine.sidecar import Sidecar
from coatcheck_sidecar.servers.answered import Answered, answer_of, over, release
from coatcheck_sidecar.servers.fields import (
    ask_of,
    numbers_of,
    resume_of,
    said,
    undo_asked,
    versions_of,
)
from coatcheck_sidecar.servers.routes import Routes

WAIT_S_MAX: Final = 300.0
"""An open answers within this, whatever the client asked for."""
INPUT_BYTES_MAX: Final = 1_000_000
"""A run's input rides in the body of one reply; bigger values belong into a store of their own."""
ENDINGS: Final = {
    "result": Ending.FINAL,
    "not_applied": Ending.NOT_SENT,
    "failed": Ending.LOST,
}


class Requests:
    """The requests of one connection."""

    def __init__(
        self,
        sidecar: Sidecar,
        push: Callable[[Push, dict[str, Any]], None],
        *,
        routes: Routes | None = None,
    ) -> None:
        """`push` reaches this connection's client. Without `routes` there is no proxy."""
        self._sidecar = sidecar
        self._routes = routes
        self._push = push
        self._incarnation = b""
        self._agent: Agent | None = None
        self._keeper: Keeper | None = None
        self._over: Restored | None = None
        """The run that this connection opened, when it was over already."""
        self._calls: Calls | None = None
        self._handlers = {
            Request.HELLO: self._hello,
            Request.OPEN: self._open,
            Request.COMMIT: self._commit,
            Request.CALL: self._call,
            Request.ETA: self._eta,
            Request.OUTCOME: self._outcome,
            Request.PROBED: self._probed,
            Request.UNDO: self._undo,
            Request.RESOLVE: self._resolve,
            Request.WAIT: self._wait,
            Request.FINISH: self._finish,
            Request.FAIL: self._fail,
            Request.RELEASE: self._release,
            Request.RESULT: self._result,
        }

    async def answer(self, request: Request, message: Message) -> Answered:
        """Do what is asked; raises `Refusal`, `StoreError`, `Damaged`."""
        if request is not Request.RESULT:
            self.check_in_time()
        return await self._handlers[request](message)

    @property
    def is_over(self) -> bool:
        """The run that this connection had is no longer its."""
        if self._keeper is None:
            return self._over is not None
        return self._keeper.is_over and not self._keeper.is_expired  # that is told each time

    def check_in_time(self) -> None:
        """Raises `Refusal` if the deadline of its run is over."""
        if self._keeper is not None:
            self._keeper.check_in_time()

    def lost(self) -> None:
        """The connection ended."""
        if self._keeper is not None and self._agent is not None and not self._keeper.is_over:
            self._sidecar.detach(self._keeper, self._agent)

    async def _hello(self, message: Message) -> Answered:
        lowest, highest = versions_of(message.body["protocol"])
        if not lowest <= PROTOCOL_VERSIONS[1] or not highest >= PROTOCOL_VERSIONS[0]:
            raise malformed(
                f"hello: this sidecar speaks protocol {PROTOCOL_VERSIONS[0]} to "
                f"{PROTOCOL_VERSIONS[1]}, the client {lowest} to {highest}: upgrade the older one"
            )
        self._incarnation = message.body["incarnation"]
        limits = {
            "frame_bytes": FRAME_BYTES_MAX,
            "part_bytes": PART_BYTES_MAX,
            "state_bytes": self._sidecar.settings.state_bytes_max,
            "requests": REQUESTS_MAX,
        }
        body = {
            "protocol": min(highest, PROTOCOL_VERSIONS[1]),
            "sidecar": release(),
            "mode": self._sidecar.mode,
            "limits": limits,
        }
        if self._routes is not None and self._sidecar.mode == "off":
            body["env"] = self._routes.upstreams
        return Answered(body)

    async def _open(self, message: Message) -> Answered:
        body = message.body
        if message.attachment is not None and len(message.attachment) > INPUT_BYTES_MAX:
            size = len(message.attachment)
            raise Refusal(
                ErrorCode.TOO_LARGE,
                f"open: an input of {size} bytes, {INPUT_BYTES_MAX} are allowed",
                limit=INPUT_BYTES_MAX,
            )
        resume = resume_of(body.get("resume"))
        wants = Wants(
            run=body.get("run"),
            queue=body["queue"],
            schema=body["schema"],
            schema_from=body.get("schema_from"),
            code_version=body.get("code_version") or "",
            pinned=bool(body.get("pinned")),
            can_create=body["create"],
            wait_s=min(float(body["wait_s"]), WAIT_S_MAX),
            address=body.get("address") or "",
            deadline_s=body.get("deadline_s"),
            input=message.attachment,
            incarnation=self._incarnation,
            resume_epoch=resume.epoch,
            resume_answered=resume.answered,
        )
        agent = Agent(
            self._incarnation, self._push, code_version=wants.code_version, schema=wants.schema
        )
        opened = await self._sidecar.open(wants, agent, lives=resume.lives)
        if opened.keeper is None or opened.calls is None:
            self._over = opened.over
            return over(opened.over)
        self._agent, self._keeper, self._calls = agent, opened.keeper, opened.calls
        opened.keeper.step_timeout_s = body.get("step_timeout_s")
        opened.keeper.on_drain = OnDrain(body.get("on_drain") or OnDrain.AUTO)
        return self._opened(opened.keeper, opened.calls)

    def _opened(self, keeper: Keeper, calls: Calls) -> Answered:
        state = keeper.log.state
        given = state.created.input
        body: dict[str, Any] = {
            "run": keeper.run,
            "status": Status.OWNED.value,
            "epoch": state.epoch,
            "step": state.step + 1,
            "seq": state.checkpoint_seq,
            "has_state": state.step > 0,
            "schema": state.checkpoint.schema,
            "draining": keeper.is_stopping,
        }
        if given is not None:
            body["input"] = given.data
        if state.compensating is not None:
            body["undoing"] = True
        if self._routes is not None:
            body["proxy"] = self._routes.open(keeper, calls, incarnation=self._incarnation)
            body["env"] = self._routes.environ(body["proxy"])
        return Answered(body, keeper.log.checkpoint_bytes if state.step > 0 else None)

    def _owned(self) -> tuple[Keeper, Calls]:
        if self._keeper is None or self._calls is None:
            raise malformed("there is no open run on this connection")
        return self._keeper, self._calls

    async def _commit(self, message: Message) -> Answered:
        keeper, _ = self._owned()
        body = message.body
        seq = await keeper.commit(
            step=body["step"],
            level=Level(body["level"]),
            schema=body["schema"],
            state=self._state(body, message.attachment),
            signals=numbers_of(body.get("signals")),
        )
        step = keeper.log.state.step + 1
        return Answered({"seq": seq, "step": step, "draining": keeper.is_stopping})

    def _state(self, body: dict[str, Any], attachment: bytes | None) -> NewState:
        keeper, _ = self._owned()
        if attachment is None:
            raise malformed("the state is missing: send it as parts before the request")
        bytes_max = self._sidecar.settings.state_bytes_max
        patch = body.get("patch")
        length = len(attachment) if patch is None else patch.get("length")
        if not isinstance(length, int) or length > bytes_max:
            raise Refusal(
                ErrorCode.TOO_LARGE,
                f"a state of {length} bytes, {bytes_max} are allowed",
                limit=bytes_max,
            )
        at = keeper.log.state
        if patch is None or body["step"] == at.step:
            return NewState(attachment)
        if patch.get("base") != at.checkpoint_seq:
            raise Refusal(
                ErrorCode.CONFLICT,
                f"the patch is for the state of seq {patch.get('base')}, this sidecar holds that "
                f"of {at.checkpoint_seq}: send the whole state",
                retry=Retry.SAME_KEY,
            )
        old = keeper.log.checkpoint_bytes
        try:
            ranges = [(offset, size) for offset, size in patch.get("ranges", ())]
            state = apply_patch(old, length, ranges, attachment, length_max=bytes_max)
        except (WireError, TypeError, ValueError) as error:
            raise malformed(f"patch: {error}") from error
        return NewState(state, old, ranges)

    async def _call(self, message: Message) -> Answered:
        keeper, calls = self._owned()
        body = message.body
        if body["step"] != keeper.log.state.step + 1:
            raise Refusal(
                ErrorCode.CONFLICT,
                f"a call of step {body['step']}: the step to do is {keeper.log.state.step + 1}",
            )
        ask = ask_of(keeper.run, body, arguments=message.attachment or b"\x80")
        if keeper.log.state.compensating is not None:
            ask = undo_asked(keeper.log.state, ask)
        try:
            answer = await calls.ask(ask, level=Level(body.get("level") or Level.NODE))
        except Refusal as error:
            said: dict[str, Any] = {"decision": decision_of(error)}
            if said["decision"] == "held":
                said |= {"held": 1, "reason": error.details.get("reason", error.code.value)}
            keeper.doors.observer.note("call", run=keeper.run, tool=ask.tool, **said)
            raise
        return answer_of(answer)

    async def _resolve(self, message: Message) -> Answered:
        """As an operator does; raises `Refusal` with why not."""
        keeper, _ = self._owned()
        body, call = message.body, keeper.log.state.calls.get(message.body["call"])
        command = Command(
            id=f"{self._incarnation.hex()}.{message.id}",  # of one that was sent again too
            run=keeper.run,
            what="resolve",
            by="its agent",
            why=said(body, "why"),
            call=body["call"],
            verdict=body["verdict"],
            force=bool(body.get("force")),
            value=message.attachment,
            attempt=call.attempt if call else 0,
            at_ms=keeper.now_ms(),
        )
        if refused := await self._sidecar.heart.obey(keeper, command):
            raise Refusal(ErrorCode.CONFLICT, refused, run=keeper.run)
        return Answered({})

    async def _undo(self, _message: Message) -> Answered:
        """The next function that takes a call back; without one the run is over."""
        keeper, _ = self._owned()
        todo = await self._sidecar.undoing.ask(keeper)
        if todo is None:
            return Answered({"status": keeper.log.state.status.value})
        undo = todo.undo
        said = {"undo": undo.handler, "tool": undo.tool, "key": undo.key, "call": undo.call}
        return Answered(said, undo.body.data)

    async def _eta(self, message: Message) -> Answered:
        keeper, _ = self._owned()
        keeper.expect(message.body["seconds"])
        self._sidecar.drain.poke()
        return Answered({"draining": keeper.is_stopping})

    async def _outcome(self, message: Message) -> Answered:
        keeper, calls = self._owned()
        body = message.body
        ending = ENDINGS[body["kind"]]
        try:
            seq = await calls.ended(
                body["call"],
                body["attempt"],
                ending=ending,
                body=message.attachment,
                reason=said(body, "reason"),
            )
        except Refusal:
            if keeper.is_over and ending is Ending.FINAL:
                told = LateOutcome(body["call"], body["attempt"], message.attachment)
                self._sidecar.on_late_outcome(keeper, told)
            raise
        return Answered({"seq": seq, "draining": keeper.is_stopping})

    async def _probed(self, message: Message) -> Answered:
        _, calls = self._owned()
        body = message.body
        answer = await calls.probed(
            body["call"], body["attempt"], applied=body["applied"], body=message.attachment
        )
        return answer_of(answer)

    async def _wait(self, message: Message) -> Answered:
        keeper, _ = self._owned()
        name = message.body["name"]
        found = keeper.receive(name, numbers_of(message.body.get("signals")))
        if found is not None:
            seq, value = found
            return Answered({"signal": seq, "draining": keeper.is_stopping}, value.data or b"\xc0")
        await keeper.park(name, message.attachment)
        raise Refusal(
            ErrorCode.PARKED,
            f"run {keeper.run} is parked until it is signalled {name!r}",
            retry=Retry.LATER,
            run=keeper.run,
        )

    async def _finish(self, message: Message) -> Answered:
        if self._over is not None:
            return self._ended(self._over.log.state, Status.FINISHED)
        keeper, _ = self._owned()
        body, data = message.body, message.attachment or b"\xc0"
        length = body.get("state_length")
        if length is None:
            state, result = None, data
        elif 0 <= length <= len(data):
            state, result = self._state(body, data[:length]), data[length:]
        else:
            raise malformed(f"finish: state_length {length} of {len(data)} bytes")
        seq = await keeper.finish(
            step=body["step"],
            schema=body.get("schema") or 1,
            state=state,
            result=result,
            signals=numbers_of(body.get("signals")),
        )
        return Answered({"seq": seq})

    def _ended(self, state: RunState, status: Status) -> Answered:
        """An end said again: the answer to the first was lost, and the run is over by it."""
        is_ours = state.claimed.incarnation == self._incarnation
        if state.status is not status or not is_ours:
            raise fenced(state.run, state.epoch)
        return Answered({"seq": state.seq})

    async def _fail(self, message: Message) -> Answered:
        if self._over is not None:
            return self._ended(self._over.log.state, Status.FAILED)
        keeper, _ = self._owned()
        return Answered({"seq": await keeper.fail(said(message.body, "error"))})

    async def _release(self, message: Message) -> Answered:
        keeper, _ = self._owned()
        body = message.body
        return Answered({"seq": await keeper.release(body["reason"], said(body, "error"))})

    async def _result(self, message: Message) -> Answered:
        run = message.body["run"]
        found = await self._sidecar.look_up(run)
        if found is None:
            raise Refusal(ErrorCode.NOT_FOUND, f"there is no run {run}", run=run)
        return over(found)
