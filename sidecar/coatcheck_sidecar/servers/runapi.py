"""The run API: durable runs as HTTP on loopback, for any language that has `fetch` or curl.

Everything here is the control socket in other words: the same `Session` and `Requests` decide. The
raw path is matched as it came, nothing in it is decoded or made shorter, and there is one method
for each route, so that no two readers of a request can differ on what it asks for.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.restore import Damaged
from coatcheck_sidecar.engine.sidecar import Sidecar
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.ports import StoreError
from coatcheck_sidecar.servers.admin import foreign
from coatcheck_sidecar.servers.agents import REQUESTS_MAX, Agents, HttpAgent
from coatcheck_sidecar.servers.asking import Asking, Told
from coatcheck_sidecar.servers.checks import check
from coatcheck_sidecar.servers.operations import OPERATIONS, Operation
from coatcheck_sidecar.servers.operators import Operators, Report
from coatcheck_sidecar.servers.problems import Problem, problem_of
from coatcheck_sidecar.servers.routes import Routes
from coatcheck_sidecar.servers.values import read_json, with_values

if TYPE_CHECKING:
    from aiohttp import web

PREFIX: Final = "/v1/"
BODY_S: Final = 60.0
"""For all of a body: loopback brings 64 MiB in well under a second."""
PLAIN_BYTES_MAX: Final = 65_536
"""A body without a value of the agent's own."""
VALUE_BYTES_MAX: Final = 16 * 2**20
"""Arguments, results, inputs and signals; what is bigger belongs into a state or a store."""
STATE_SHARE: Final = 1.5
"""JSON is longer than msgpack: base64 by a third, plain text by about a tenth."""
BIG_BYTES: Final = 262_144
"""JSON of more takes over a millisecond: it is read and written beside the loop."""
LOOK_S: Final = 1.0
"""How often a request that waits is held against its connection."""
JSON: Final = "application/json"
NO_STORE: Final = {"Cache-Control": "no-store"}


class RunApi:
    """Answers requests below `/v1/`. Runs `sweep` from `start` to `close`."""

    def __init__(
        self,
        sidecar: Sidecar,
        *,
        outside: Outside,
        version: str,
        routes: Routes | None = None,
        report: Report | None = None,
        is_for_agents: bool = True,
    ) -> None:
        """`routes` hand out URLs of the proxy, `report` is what `/v1/observe` gives.

        `is_for_agents` is false where the control socket asks for the peer's uid: a port of
        loopback has none, and is no way around.
        """
        self._sidecar = sidecar
        self._is_for_agents = is_for_agents
        self._tasks = TaskSet(self._failed)
        self.agents = Agents(sidecar, routes=routes)
        self._asking = Asking(sidecar, self.agents)
        self._operators = Operators(sidecar, outside, version=version, report=report)

    def _failed(self, name: str, error: BaseException) -> None:
        self._sidecar.doors.observer.note("task_failed", name=name, error=repr(error))

    def start(self) -> None:
        """Begin to look for agents that fell silent."""
        self._tasks.start(self.agents.sweep(), name="sweep agents")

    async def close(self) -> None:
        """Hang up on everybody."""
        self.agents.close()
        await self._tasks.close()

    async def handle(self, request: "web.BaseRequest") -> "web.StreamResponse":
        """Answer one request; nothing is raised but cancellation."""
        try:
            operation, names = self._admitted(request)
            body = await self._body(request, operation)
            work = self._answer(request, operation, names=names, body=body)
            told = await self._while_there(request, self._tasks.start(work, name=operation.id))
            return await _response(told)
        except Problem as problem:
            return problem.response()

    def _admitted(self, request: "web.BaseRequest") -> tuple[Operation, dict[str, str]]:
        headers = request.headers
        why = foreign(headers.getall("Host", []), origins=headers.getall("Origin", []))
        if why is not None:
            raise Problem(403, "forbidden", detail=why)
        operation, names = _route(request)
        if not self._is_for_agents and operation.method != "GET":
            why = "this sidecar has allowed_uids, which a port can't check: use its socket"
            raise Problem(403, "forbidden", detail=why)
        return operation, names

    async def _body(self, request: "web.BaseRequest", operation: Operation) -> dict[str, Any]:
        if operation.takes is None:
            if request.can_read_body:
                raise Problem(400, "protocol_error", detail="a GET with a body", close=True)
            return {}
        data = await _read(request, bytes_max=self._bytes_max(operation))
        if not data:
            data = b"{}"
        elif request.content_type != JSON:
            # A page's form can't say this without asking first, and is never let in.
            raise Problem(415, "protocol_error", detail=f"send a body as {JSON}")
        try:
            body = await asyncio.to_thread(read_json, data) if _is_big(data) else read_json(data)
            check(body, operation.takes, where=operation.id)
        except ValueError as error:
            why = f"{operation.id}: the body is not JSON as this API takes it: {error}"
            raise Problem(400, "protocol_error", detail=why) from error
        except Refusal as error:
            raise problem_of(error) from error
        checked: dict[str, Any] = body
        return checked

    def _bytes_max(self, operation: Operation) -> int:
        if "state" in operation.fields:
            return int(self._sidecar.settings.state_bytes_max * STATE_SHARE) + VALUE_BYTES_MAX
        has_value = any(name.endswith("_base64") for name in operation.fields)
        return VALUE_BYTES_MAX if has_value else PLAIN_BYTES_MAX

    async def _answer(
        self,
        request: "web.BaseRequest",
        operation: Operation,
        *,
        names: dict[str, str],
        body: dict[str, Any],
    ) -> "Told | Problem":
        """What to tell; a task of its own, that ends when the agent does."""
        try:
            if operation.id in ("open", "openNext"):
                agent, told = await self._asking.open(operation, names, body=body)
                if _is_gone(request):
                    self.agents.left(agent)
                return told
            if not operation.is_agents:
                return await self._operators.do(operation, names, body=body)
            agent = self._agent(request, names["run"])
            return await self._ask(agent, operation, names=names, body=body)
        except Problem as problem:
            return problem
        except (Refusal, StoreError, Damaged) as error:
            return problem_of(error)

    async def _ask(
        self, agent: HttpAgent, operation: Operation, *, names: dict[str, str], body: dict[str, Any]
    ) -> Told:
        task = asyncio.current_task()
        if task is None or len(agent.under_way) >= REQUESTS_MAX:
            why = f"{REQUESTS_MAX} requests of this agent are under way"
            raise Refusal(ErrorCode.UNAVAILABLE, why, retry=Retry.LATER)
        agent.under_way.add(task)
        try:
            return await self._asking.ask(agent, operation, names=names, body=body)
        finally:
            agent.under_way.discard(task)
            self.agents.hear(agent)

    def _agent(self, request: "web.BaseRequest", run: str) -> HttpAgent:
        tokens = set(request.headers.getall("Coatcheck-Token", []))
        for said in request.headers.getall("Authorization", []):
            scheme, _, token = said.partition(" ")
            tokens.add(token.strip() if scheme.lower() == "bearer" else "")
        agent = self.agents.find(tokens.pop(), run) if len(tokens) == 1 else None
        if agent is None:
            why = f"no token of an agent that has run {run}: open it, with `resume` if you had it"
            headers = {"WWW-Authenticate": "Bearer"}
            raise Problem(401, "unknown_token", detail=why, headers=headers, run=run)
        return agent

    async def _while_there(
        self, request: "web.BaseRequest", work: "asyncio.Task[Told | Problem]"
    ) -> Told:
        """The answer; as on the socket, what is asked ends with the one who asked."""
        try:
            while not work.done():
                await asyncio.wait([work], timeout=LOOK_S)
                if _is_gone(request):
                    work.cancel()
        finally:
            work.cancel()
        if work.cancelled():
            why = "this agent was silent for too long, or another process took its place"
            raise Problem(410, ErrorCode.FENCED.value, detail=why)
        if work.exception() is not None:
            why = "a fault of the sidecar's own; its log has more"
            raise Problem(500, ErrorCode.UNAVAILABLE.value, detail=why, retry=Retry.LATER)
        told = work.result()
        if isinstance(told, Problem):
            raise told
        return told


def _route(request: "web.BaseRequest") -> tuple[Operation, dict[str, str]]:
    path = request.raw_path
    allowed: list[str] = []
    for operation in OPERATIONS:
        found = operation.pattern.fullmatch(path)
        if found is not None and operation.method == request.method:
            return operation, found.groupdict()
        if found is not None:
            allowed.append(operation.method)
    if allowed:
        headers = {"Allow": ", ".join(allowed)}
        why = f"{request.method:.20} is not how to ask for this"
        raise Problem(405, "protocol_error", detail=why, headers=headers)
    raise Problem(404, "not_found", detail="no such path here; see /v1/openapi.json")


async def _read(request: "web.BaseRequest", *, bytes_max: int) -> bytes:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem(415, "protocol_error", detail="send bodies as they are, not compressed")
    if (request.content_length or 0) > bytes_max:
        raise _too_large(bytes_max)
    pieces: list[bytes] = []
    left = bytes_max
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.content.iter_any():
                pieces.append(piece)
                left -= len(piece)
                if left < 0:
                    break
    except TimeoutError as error:
        why = f"the body did not come within {BODY_S:g} s"
        raise Problem(408, "protocol_error", detail=why, close=True) from error
    except Exception as error:  # what a body that is cut or malformed raises has many names
        why = f"the body can't be read: {error!r:.100}"
        raise Problem(400, "protocol_error", detail=why, close=True) from error
    if left < 0:
        raise _too_large(bytes_max)
    return b"".join(pieces)


def _too_large(bytes_max: int) -> Problem:
    why = f"the body is larger than the {bytes_max} bytes that are allowed here"
    return Problem(413, ErrorCode.TOO_LARGE.value, detail=why, close=True, limit=bytes_max)


def _is_big(data: bytes | None) -> bool:
    return data is not None and len(data) > BIG_BYTES


def _is_gone(request: "web.BaseRequest") -> bool:
    return request.transport is None or request.transport.is_closing()


async def _response(told: Told) -> "web.Response":
    from aiohttp import web

    if any(map(_is_big, told.values.values())):
        body = await asyncio.to_thread(with_values, told.body, told.values)
    else:
        body = with_values(told.body, told.values)
    return web.Response(body=body, content_type=JSON, headers=NO_STORE)
