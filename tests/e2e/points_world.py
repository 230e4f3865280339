"""Calls over HTTP at chosen points, and a SIGKILL right there: every class of effect at once.

One upstream, one sidecar, and an agent of its own run for each case. When every call stands at its
point, the victims are killed; then everybody asks again. A last life of each agent asks once more.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from examples.demo.ledger import read_ledger
from examples.demo.processes import LOOPBACK, Child, free_ports, python
from examples.demo.scenario import wait_for_http

LONG_S: Final = 25.0
"""For one life of an agent beside two dozen others."""
PAUSE_MAX_S: Final = 0.5
SETTLE_S: Final = 1.5
"""After that a "no" counts: a call that was lost is sent again."""
LONG_SETTLE_S: Final = 600.0
"""No "no" counts within a test, so what is late can't be sent beside itself."""
LATE_S: Final = 0.3
"""After everybody asked again: a call in flight is joined, a probe has found nothing."""
TICK_S: Final = 0.02

WAYS: Final = {
    "read": ("POST", "quotes"),
    "put": ("PUT", "charges/{ref}"),
    "keyed": ("POST", "charges"),
    "probed": ("POST", "charges"),
    "unsettled": ("POST", "charges"),
    "once": ("POST", "charges"),
}
"""Method and path, by tool."""


def tools(upstream: str) -> dict[str, dict[str, Any]]:
    """One for each class of the table."""
    probe = {"path": "/charges?ref={business}", "applied_when": "/charges/0"}
    key = {"header": "Idempotency-Key", "lifetime_s": 86_400, "saves": ["2xx", "4xx"]}
    probed = {"effect": "once", "key": "/ref", "probe": probe | {"result": "/charges/0"}}
    found: dict[str, dict[str, Any]] = {
        "read": {"effect": "read", "record": True},
        "put": {},
        "keyed": {"effect": "idempotent", "upstream_key": key},
        "probed": probed | {"probe_settle_s": SETTLE_S},
        "unsettled": probed | {"probe_settle_s": LONG_SETTLE_S, "patience_s": 0.1},
        "once": {"effect": "once"},
    }
    return {name: {"upstream": upstream, "private": True, **tool} for name, tool in found.items()}


@dataclass(frozen=True, slots=True)
class Told:
    """What one case came to."""

    status: int
    decision: str
    body: str
    sends: int
    keys: int
    """Different upstream keys among those sends."""
    charges: int
    last: tuple[int, str, str]
    """What the next life of the agent was told."""
    sends_in_all: int


@dataclass(slots=True)
class Case:
    """One agent and its one call."""

    tool: str
    point: str
    agent: Child | None = None

    @property
    def name(self) -> str:
        return f"{self.tool}-{self.point}"


class Points:
    """The processes of one victim's cases."""

    def __init__(self, folder: Path, cases: Iterable[tuple[str, str]]) -> None:
        self.folder = folder
        self.cases = [Case(*case) for case in cases]
        upstream, listen, self._admin = free_ports(3)
        self._upstream = f"http://{LOOPBACK}:{upstream}"
        self._api = f"http://{LOOPBACK}:{listen}"
        self._go = folder / "go"
        self.ledger = folder / "ledger.jsonl"
        (folder / "store").mkdir()
        # JSON is YAML.
        (folder / "config.yaml").write_text(json.dumps({"tools": tools(self._upstream)}))
        self._env = {
            "COATCHECK_CONFIG": str(folder / "config.yaml"),
            "COATCHECK_DATA": str(folder / "data"),
            "COATCHECK_SOCKET": str(folder / "agent.sock"),
            "COATCHECK_STORE": (folder / "store").as_uri(),
            "COATCHECK_LISTEN": f"{LOOPBACK}:{listen}",
            "COATCHECK_ADMIN_LISTEN": f"{LOOPBACK}:{self._admin}",
            "COATCHECK_PAUSE_MAX_S": str(PAUSE_MAX_S),
        }
        argv = python(
            "tests.e2e.points_upstream", "--port", str(upstream), "--ledger", str(self.ledger)
        )
        self.children = [Child(argv, env={}, log=folder / "upstream.log")]
        self.sidecar = self._start_sidecar()

    def _start_sidecar(self) -> Child:
        child = Child(python("coatcheck", "sidecar"), env=self._env, log=self.folder / "side.log")
        self.children.append(child)
        return child

    def close(self) -> None:
        for child in self.children:
            child.kill()

    def _start(self, case: Case, *, life: int) -> None:
        method, path = WAYS[case.tool]
        argv = python("tests.e2e.points_agent", "--api", self._api, "--run", case.name)
        argv += ["--tool", case.tool, "--method", method, "--path", path.format(ref=case.name)]
        argv += ["--ref", case.name, "--point", case.point]
        if case.point == "unread":
            argv += ["--unread", str(self._go)]
        case.agent = Child(argv, env={}, log=self.folder / f"{case.name}-{life}.log")
        self.children.append(case.agent)

    # What happens

    async def play(self, victim: str) -> dict[tuple[str, str], Told]:
        """Kill `sidecar`, `agent` or `both` with every call at its point."""
        await wait_for_http(f"{self._upstream}/seen")
        await wait_for_http(f"http://{LOOPBACK}:{self._admin}/readyz")
        for case in self.cases:
            self._start(case, life=1)
        await self._until(self._all_at_their_points)
        if victim != "agent":
            self.sidecar.kill()
        if victim != "sidecar":
            for case in self.cases:
                assert case.agent is not None
                case.agent.kill()
        self._go.touch()
        if victim != "agent":
            self.sidecar = self._start_sidecar()
        if victim != "sidecar":
            for case in self.cases:
                self._start(case, life=2)
        times = 2 if victim == "sidecar" else 1
        await self._until(lambda: self._all_asked(times))
        await asyncio.sleep(LATE_S)
        await self._let_go()
        first = await self._answers()
        before = await self._arrivals()
        for case in self.cases:
            self._start(case, life=3)
        last = await self._answers()
        after = await self._arrivals()
        charges = Counter(charge.ref for charge in read_ledger(self.ledger))
        return {
            (case.tool, case.point): Told(
                *first[case.name],
                sends=len(before[case.name]),
                keys=len(set(before[case.name])),
                charges=charges[case.name],
                last=last[case.name],
                sends_in_all=len(after[case.name]),
            )
            for case in self.cases
        }

    async def _until(self, found: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(LONG_S):
            while not await found():  # noqa: ASYNC110 - processes have no event to wait for
                await asyncio.sleep(TICK_S)

    async def _all_at_their_points(self) -> bool:
        held = set((await self._seen())["held"])
        return all(
            "unread" in _said(case) if case.point == "unread" else case.name in held
            for case in self.cases
        )

    async def _all_asked(self, times: int) -> bool:
        return all(_said(case).count("asking") >= times for case in self.cases)

    async def _answers(self) -> dict[str, tuple[int, str, str]]:
        """What each agent was told, when all are over."""
        told: dict[str, tuple[int, str, str]] = {}
        for case in self.cases:
            assert case.agent is not None
            status = await asyncio.to_thread(case.agent.wait, LONG_S)
            assert status == 0, f"{case.name}: {_said(case)}"
            code, decision, body = json.loads(_said(case).rpartition("got ")[2])
            told[case.name] = (code, decision, body)
        return told

    # The upstream

    async def _seen(self) -> Any:
        async with aiohttp.ClientSession() as http, http.get(f"{self._upstream}/seen") as answer:
            return await answer.json()

    async def _arrivals(self) -> dict[str, list[str]]:
        return dict((await self._seen())["arrivals"])

    async def _let_go(self) -> None:
        held = (await self._seen())["held"]
        async with aiohttp.ClientSession(self._upstream) as http:
            for ref in held:
                async with http.post("/let-go", params={"ref": ref}) as answer:
                    assert answer.status == 200


def _said(case: Case) -> str:
    assert case.agent is not None
    return case.agent.last_words(100_000)


def play(
    folder: Path, victim: str, cases: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Told]:
    """All cases of one victim, with processes of their own."""
    points = Points(folder, cases)
    try:
        return asyncio.run(points.play(victim))
    finally:
        points.close()
