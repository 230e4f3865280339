"""Acts over HTTP: what an agent does whose tools know nothing of us, only their URL."""

import asyncio
import json
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import coatcheck
from coatcheck.errors import Unavailable
from coatcheck_sidecar.core.relay import header
from tests.sim.http_front import Reading, fetch
from tests.sim.http_server import FATES, NAME
from tests.sim.upstream import ONCE, Trouble

if TYPE_CHECKING:
    from tests.sim.agent_plan import Act
    from tests.sim.world import Pod, World

HTTP_KINDS: Final = ("http-put", "http-keyed", "http-fading", "http-probed", "http-once")
PUTS: Final = ("http-put", "http-final-put")
PATIENCE_S: Final = (1.0, 8.0, 8.0, 25.0)
"""Of clients: the shortest hang up on an upstream that is only slow."""
TRIES_MAX: Final = 8
AGAIN_S: Final = (0.0, 1.0)
TWICE: Final = 0.2
"""The share of calls that are asked for twice at once, where that is one call."""
GLANCES: Final = 0.2
WAITS: Final = 0.3
"""The share of askings that wait for a decision if the call is held."""
MARKED: Final = frozenset({"http-keyed", "http-fading", *PUTS})
"""Tools whose SDK gives a key of its own, new in each process. Another client, that hangs up on an
answer as it comes and asks again, can't be told from one that means a second call."""
PROBLEM: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class _Asking:
    """A request, the same each time it is made."""

    tool: str
    name: str
    method: str
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)

    def again(self, count: int) -> "_Asking":
        """As the SDKs of model APIs say it."""
        told = ("x-stainless-retry-count", str(count))
        return replace(self, headers=[*self.headers, told])

    @property
    def is_joined(self) -> bool:
        """Two of it at once are one call."""
        return self.tool in ONCE or any(name == "Coatcheck-Key" for name, _ in self.headers)


class HttpActs:
    """Performs acts for one agent process."""

    def __init__(self, world: "World", pod: "Pod", random: Random) -> None:
        self._world = world
        self._pod = pod
        self._random = random
        self._judge = world.http_judge

    async def perform(self, run: coatcheck.Run, act: "Act") -> list[Any]:
        """A recorded read, and a charge of what it said. Raises `Trouble`."""
        self._judge.acts[act.name] = act
        if self._random.random() < GLANCES:
            glance = _Asking("glance", f"{act.name}!", "GET", b"", [(NAME, f"{act.name}!")])
            await self._ask(run, glance)
        name = f"{act.name}?"
        quoted = await self._call(run, _Asking("http-read", name, "POST", _body(name, 0)))
        # Below remote a lost node takes what was said, and a key made of that, with it.
        is_shaky = act.kind in ("http-keyed", *PUTS)
        amount = 0 if is_shaky else quoted.get("receipt", 0)
        method = "PUT" if act.kind in PUTS else "POST"
        headers = []
        if act.kind in ONCE | {"http-keyed"} and crc32(act.name.encode()) % 3 == 0:
            headers.append(("Coatcheck-Key", f"act/{act.name}"))
        asking = _Asking(act.kind, act.name, method, _body(act.name, amount), headers)
        told = await self._call(run, asking)
        if isinstance(told, dict) and "receipt" not in told:
            self._world.judge.excuse(run.id, act.name)
        return [act.name, quoted["serial"], told]

    async def _call(self, run: coatcheck.Run, asking: _Asking) -> Any:
        """What a final answer says."""
        headers = [*asking.headers, (NAME, asking.name)]
        if asking.tool in MARKED:
            headers.append(("Idempotency-Key", self._random.randbytes(8).hex()))
        asking = _Asking(asking.tool, asking.name, asking.method, asking.body, headers)
        level = "remote" if asking.tool == "http-fading" else "node"
        for count in range(TRIES_MAX):
            again = asking.again(count) if asking.tool == "http-read" else asking
            for reading in await self._readings(run, again):
                if reading is not None and _is_cut(reading):
                    refused = json.loads(reading.body)["upstream_status"] >= 400
                    return {"error": "refused"} if refused else {"receipt": 0}
                if reading is not None and self._is_final(asking, reading):
                    return self._judge.received(
                        run, asking.name, reading, pod=self._pod, level=level
                    )
            await asyncio.sleep(self._random.uniform(*AGAIN_S))
        raise Trouble(f"no answer from {asking.tool}")

    async def _readings(self, run: coatcheck.Run, asking: _Asking) -> list[Reading | None]:
        if not asking.is_joined or self._random.random() >= TWICE:
            return [await self._ask(run, asking)]
        first, second = await asyncio.gather(self._ask(run, asking), self._ask(run, asking))
        if first and second and _is_upstreams(first) and _is_upstreams(second):
            self._judge.compared(asking.name, first, second)
        return [first, second]

    async def _ask(self, run: coatcheck.Run, asking: _Asking) -> Reading | None:
        """One try; `None` if nothing whole came."""
        try:
            url = run.proxy_url(asking.tool)
        except Unavailable as error:
            raise Trouble(str(error)) from error
        headers = list(asking.headers)
        if self._random.random() < WAITS:
            headers.append(("Coatcheck-Wait", "4"))
        place = url.removeprefix("http://")
        host, _, path = place.partition("/")
        try:
            reading = await fetch(
                self._world.loop.sockets.get(f"/{host}/http"),
                timeout_s=self._random.choice(PATIENCE_S),
                method=asking.method,
                target=f"/{path}/do",
                headers=headers,
                body=asking.body,
            )
        except (OSError, TimeoutError) as error:
            self._world.note("http", name=asking.name, error=repr(error))
            return None
        self._world.note(
            "http", name=asking.name, status=reading.status,
            decision=header(reading.headers, "coatcheck-decision"),
            body=reading.body[:600],
        )  # fmt: skip
        if _is_problem(reading) and reading.status == 410:
            raise Trouble("the run is not here any more")
        return reading

    def _is_final(self, asking: _Asking, reading: Reading) -> bool:
        """As its SDK would judge."""
        if _is_problem(reading):
            return False
        is_error = reading.status in FATES["error"]
        is_told = reading.status < 300 or reading.status in FATES["rejected"]
        return is_told or (is_error and asking.tool in ("http-once", "http-final"))


def _body(name: str, amount: int) -> bytes:
    return json.dumps({"name": name, "amount": amount}).encode()


def _is_problem(reading: Reading) -> bool:
    return header(reading.headers, "content-type") == PROBLEM


def _is_cut(reading: Reading) -> bool:
    """Its fate is known, and its answer is not to be had: the agent goes on without."""
    return _is_problem(reading) and json.loads(reading.body).get("reason") == "response_truncated"


def _is_upstreams(reading: Reading) -> bool:
    return reading.status < 300 and not _is_problem(reading)
