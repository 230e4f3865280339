"""Agents that speak HTTP: which run each has, and whether it lives.

A unix socket ends with its process; a request over HTTP says nothing of the process behind it. So
an agent proves that it lives by asking: after `agent_silence_s` without a request it counts as
gone, as on the socket after a lost connection.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

from coatcheck.wire import PROTOCOL_VERSIONS, ErrorCode, Message, Push, Request, Retry
from coatcheck_sidecar.core.session import Refusal, Session
from coatcheck_sidecar.engine.sidecar import Sidecar
from coatcheck_sidecar.servers.requests import Answered, Requests
from coatcheck_sidecar.servers.routes import Routes

AGENTS_MAX: Final = 4_096
"""Runs of one pod, and then some."""
REQUESTS_MAX: Final = 256
"""Of one agent at once: each holds a body and a connection."""
SWEEPS_PER_SILENCE: Final = 10
INCARNATION_BYTES: Final = 16
TOKEN_BYTES: Final = 16


class HttpAgent:
    """One life of an agent, as one connection of the control socket would be."""

    def __init__(self, sidecar: Sidecar, incarnation: bytes, *, routes: Routes | None) -> None:
        """It has no run yet. Without `routes` there is no proxy."""
        self.incarnation = incarnation
        self.token = ""
        self.run = ""
        self.epoch = 0
        self.step = 1
        """The step to do."""
        self.schema = 1
        self.is_draining = False
        self.is_fresh = True
        """Nothing was asked since it was opened."""
        self.heard_s = 0.0
        self.under_way: set[asyncio.Task[Any]] = set()
        self.tool_calls = 0
        """Under way through the proxy."""
        self._session = Session()
        self._requests = Requests(sidecar, self._pushed, routes=routes)

    def _pushed(self, push: Push, _body: dict[str, Any]) -> None:
        """Nothing can be pushed over HTTP: that the pod drains rides on each answer."""
        self.is_draining = self.is_draining or push is Push.DRAIN

    @property
    def is_over(self) -> bool:
        """Its run is no longer its."""
        return self._requests.is_over

    def check_in_time(self) -> None:
        """Raises `Refusal` if the deadline of its run is over."""
        self._requests.check_in_time()

    async def ask(
        self, request: Request, body: dict[str, Any], *, attachment: bytes | None = None
    ) -> Answered:
        """As a message of the socket; raises what `Requests.answer` does."""
        kind = self._session.receive(request.value, body)
        is_open = False
        try:
            answered = await self._requests.answer(
                kind, Message(request.value, 0, body, attachment)
            )
            is_open = answered.is_open
        finally:
            if request is Request.OPEN:
                self._session.opened(is_open=is_open)
            if self._requests.is_over:
                self._session.closed()
        self.step = answered.body.get("step", self.step)
        return answered

    def lost(self) -> None:
        """It is gone, or another takes its place."""
        for task in self.under_way:
            task.cancel()
        self._requests.lost()


class Agents:
    """All of them, by token."""

    def __init__(self, sidecar: Sidecar, *, routes: Routes | None) -> None:
        """`sweep` is to be run beside."""
        self._sidecar = sidecar
        self._routes = routes
        self._clock = sidecar.doors.clock
        self._by_token: dict[str, HttpAgent] = {}

    def find(self, token: str, run: str) -> HttpAgent | None:
        """The agent of a token, if that is of this run; it lives."""
        agent = self._by_token.get(token)
        if agent is None or agent.run != run:
            return None
        self.hear(agent)
        return agent

    def hear(self, agent: HttpAgent) -> None:
        """It lives."""
        agent.heard_s = self._clock.monotonic()

    def busy(self, token: str) -> AbstractContextManager[object]:
        """A tool call through the proxy is a sign of life, for as long as it takes."""
        agent = self._by_token.get(token)
        # One with a socket says by that whether it lives.
        return nullcontext() if agent is None else self._while_calling(agent)

    @contextmanager
    def _while_calling(self, agent: HttpAgent) -> Iterator[None]:
        agent.tool_calls += 1
        try:
            yield
        finally:
            agent.tool_calls -= 1
            self.hear(agent)

    async def open(
        self, body: dict[str, Any], given: bytes | None, *, incarnation: bytes | None, replace: bool
    ) -> tuple[HttpAgent, Answered]:
        """Give an agent its run; raises what `Requests.answer` does.

        `replace`: the process that had the run is known to be dead, whatever its silence says.
        """
        if len(self._by_token) >= AGENTS_MAX and not self._forget_the_done():
            raise Refusal(ErrorCode.UNAVAILABLE, "too many agents over HTTP", retry=Retry.LATER)
        agent = HttpAgent(
            self._sidecar,
            incarnation or self._clock.random_bytes(INCARNATION_BYTES),
            routes=self._routes,
        )
        greeting = {
            "protocol": list(PROTOCOL_VERSIONS),
            "client": "http",
            "incarnation": agent.incarnation,
        }
        await agent.ask(Request.HELLO, greeting)
        former = self._former(body.get("run"))
        if former is not None and (replace or former.incarnation == incarnation):
            if former.is_fresh and former.incarnation == incarnation and "resume" not in body:
                # Only the answer to its opening was lost.
                body = {**body, "resume": {"epoch": former.epoch, "calls": {}}}
            self._drop(former)
        answered = await agent.ask(Request.OPEN, body, attachment=given)
        self._keep(agent, answered.body, schema=body["schema"])
        return agent, answered

    def _forget_the_done(self) -> bool:
        """Those that are over stay a while, to be told once more; but not in another's place."""
        done = [agent for agent in self._by_token.values() if agent.is_over]
        for agent in done:
            self._drop(agent)
        return bool(done)

    def _former(self, run: str | None) -> HttpAgent | None:
        return next(
            (a for a in self._by_token.values() if a.run == run and not a.is_over),
            None,
        )

    def _keep(self, agent: HttpAgent, body: dict[str, Any], *, schema: int) -> None:
        agent.run, agent.epoch = body["run"], body["epoch"]
        agent.is_draining = body["draining"]
        agent.schema = schema
        agent.heard_s = self._clock.monotonic()
        # One token serves both ways in: who calls tools through the proxy lives.
        of_proxy = str(body.get("proxy", "")).rpartition("/")[2]
        agent.token = of_proxy or self._clock.random_bytes(TOKEN_BYTES).hex()
        self._by_token[agent.token] = agent

    def _drop(self, agent: HttpAgent) -> None:
        if self._by_token.get(agent.token) is agent:
            del self._by_token[agent.token]
        agent.lost()

    def left(self, agent: HttpAgent) -> None:
        """It went away before it heard that it has a run."""
        self._drop(agent)

    async def sweep(self) -> None:
        """Let go of the silent, for ever."""
        silence_s = self._sidecar.settings.agent_silence_s
        while True:
            await self._clock.sleep(silence_s / SWEEPS_PER_SILENCE)
            now_s = self._clock.monotonic()
            for agent in list(self._by_token.values()):
                is_busy = agent.under_way or agent.tool_calls
                if not is_busy and now_s - agent.heard_s > silence_s:
                    self._drop(agent)

    def close(self) -> None:
        """Hang up on everybody."""
        for agent in list(self._by_token.values()):
            self._drop(agent)
