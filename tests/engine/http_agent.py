"""An agent in some language that has HTTP, and holds every answer against the document."""

import io
import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
from openapi_schema_validator import OAS31Validator

from coatcheck_sidecar.core.forward import Forward
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.accounts import Accounts
from coatcheck_sidecar.engine.bindings import Bindings
from coatcheck_sidecar.engine.exchange import Exchange
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.servers.bodies import Bodies
from coatcheck_sidecar.servers.forward import ForwardProxy
from coatcheck_sidecar.servers.openapi import document
from coatcheck_sidecar.servers.operations import OPERATIONS
from coatcheck_sidecar.servers.operators import Report
from coatcheck_sidecar.servers.proxy import Listener, Proxy
from coatcheck_sidecar.servers.routes import Routes, reserve
from coatcheck_sidecar.servers.runapi import RunApi
from coatcheck_sidecar.upstreams.http import HttpUpstreams
from tests.engine.harness import Pod, Yard

DOCUMENT = document("1")


def strict(schema: Any) -> Any:
    """Nothing may be there that the document does not name."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("$ref") == "#/components/schemas/Problem":
        return strict(DOCUMENT["components"]["schemas"]["Problem"])
    made = {name: strict(item) for name, item in schema.items()}
    return {"additionalProperties": False, **made} if "properties" in made else made


class ProblemError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, body: dict[str, Any], headers: Any) -> None:
        super().__init__(f"{status} {body['code']}: {body['detail']}")
        self.status, self.body, self.headers = status, body, headers
        self.code: str = body["code"]
        self.detail: str = body["detail"]


def hold_against_the_document(
    method: str, path: str, *, status: int, content_type: str, body: Any
) -> None:
    fits = [o for o in OPERATIONS if o.pattern.fullmatch(path)]
    if not fits:
        assert (status, content_type) == (404, "application/problem+json")
        return
    operation = next((o for o in fits if o.method == method), fits[0])
    described = DOCUMENT["paths"][operation.path][operation.method.lower()]
    schema = described["responses"][str(status)]["content"][content_type]["schema"]
    OAS31Validator(strict(schema)).validate(body)


@dataclass
class Http:
    """Asks, and checks what comes."""

    session: aiohttp.ClientSession
    url: str

    async def ask(
        self, method: str, path: str, body: Any = None, *, headers: Any = None, data: Any = None
    ) -> Any:
        headers = dict(headers or {})
        if data is None and body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        if isinstance(data, bytes):
            data = io.BytesIO(data)  # aiohttp warns of big bytes
        async with self.session.request(method, path, headers=headers, data=data) as answer:
            told = await answer.json(content_type=None)
            hold_against_the_document(
                method, path, status=answer.status, content_type=answer.content_type, body=told
            )
            if answer.status != 200:
                raise ProblemError(answer.status, told, answer.headers)
            assert answer.headers["Cache-Control"] == "no-store"
            return told

    async def get(self, path: str) -> Any:
        return await self.ask("GET", path)

    async def post(self, path: str, body: Any = None, **more: Any) -> Any:
        return await self.ask("POST", path, body, **more)


class Agent:
    """One life of an agent; `opened` is what it got."""

    def __init__(self, http: Http, opened: dict[str, Any]) -> None:
        self.http, self.opened = http, opened
        self.run, self.token = opened["run"], opened["token"]
        self.step = opened["step"]

    @classmethod
    async def open(cls, http: Http, run: str = "r1", **more: Any) -> Self:
        more = {"incarnation": os.urandom(16).hex(), **more}
        return cls(http, await http.post(f"/v1/runs/{run}/open", more))

    async def ask(self, what: str, **body: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"}
        told = await self.http.post(f"/v1/runs/{self.run}/{what}", body, headers=headers)
        self.step = told.get("step", self.step)
        return told

    async def commit(self, state: Any, **more: Any) -> Any:
        return await self.ask("commit", step=self.step, state=state, **more)

    async def call(self, tool: str = "charge", effect: str = "once", **more: Any) -> Any:
        return await self.ask("calls", tool=tool, effect=effect, **more)

    async def outcome(self, go: Any, **more: Any) -> Any:
        return await self.ask(f"calls/{go['call']}/outcome", attempt=go["attempt"], **more)


@asynccontextmanager
async def serving(
    pod: Pod,
    yard: Yard,
    *,
    report: Report | None = None,
    is_for_agents: bool = True,
    tools: Iterable[Tool] = (),
    forward: Forward | None = None,
) -> AsyncIterator[Http]:
    """A pod's port of loopback, with all that is behind it."""
    async with AsyncExitStack() as stack:
        clock = pod.sidecar.doors.clock
        reserved = reserve("127.0.0.1", 0)
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        bindings = Bindings(b"s" * 32)
        pod.sidecar.on_let_go = bindings.unbind
        upstreams = HttpUpstreams(clock)
        stack.push_async_callback(upstreams.close)
        exchange = Exchange(
            upstreams.of, clock=clock, observer=pod.notes, accounts=Accounts(pod.notes, {})
        )
        stack.push_async_callback(exchange.close)
        bodies = Bodies(yard.folder / "bodies", clock=clock)
        bodies.clear()
        api = RunApi(
            pod.sidecar,
            outside=Outside(yard.store, clock, settings=pod.sidecar.settings),
            version="1",
            routes=Routes(bindings, url),
            report=report,
            is_for_agents=is_for_agents,
        )
        api.start()
        stack.push_async_callback(api.close)
        by_name = {tool.name: tool for tool in tools}
        proxy = Proxy(
            by_name, bindings=bindings, exchange=exchange, bodies=bodies, local=api.handle
        )
        proxy.busy = api.agents.busy
        proxy.forward = ForwardProxy(
            forward,
            tools=by_name.values(),
            bindings=bindings,
            serve=proxy.serve,
            busy=api.agents.busy,
            observer=pod.notes,
        ).handle
        listener = Listener(proxy, reserved)
        stack.push_async_callback(listener.close)
        await listener.start()
        session = await stack.enter_async_context(aiohttp.ClientSession(url))
        yield Http(session, url)
