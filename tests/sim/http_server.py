"""The world's HTTP side: a server that acts on the ledger and answers in every way servers do.

What it answers is kept as it left, so that a judge can tell a replayed answer from an invented one.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

from coatcheck_sidecar.core.model import Effect, Level
from coatcheck_sidecar.core.relay import header
from coatcheck_sidecar.core.tool import HttpProbe, HttpUndo, Tool, UpstreamKey
from coatcheck_sidecar.ports import Headers, Outgoing
from tests.sim.loop import VirtualLoop
from tests.sim.upstream import SETTLE_S, UNDO, Upstream

AUTHORITY: Final = "http://world"
REFUNDS: Final = "/refunds/"
"""The receipt of what is taken back stands behind it."""
KEY_LIFE_S: Final = 3600.0
"""Longer than any seed."""
FADING_LIFE_S: Final = 8.0
"""Of a server that forgets soon: crashes and outages last longer."""
KEY_MARGIN_S: Final = 3.0
"""In place of the real one, which is longer than that server's memory. Clocks differ by less."""
THINKS_S: Final = (0.001, 0.4)
SLOW_HEAD_S: Final = 6.0
HEAD_S: Final = 3.0
IDLE_S: Final = 1.5
PATIENCE_S: Final = 6.0
FILLER_CHARS: Final = (0, 10, 300)
"""Some answers are too big for a record of their own."""
NAME, KEY = "x-sim-name", "x-sim-key"
"""Headers by which the judge knows what a request is; the second is put on by it."""

FATES: Final = {
    "shed": (429,),
    "busy": (408, 503),
    "error": (500, 502),
    "denied": (401,),
    "rejected": (400, 422),
}
"""Answers that are none of success; of `busy` and `error` nobody knows what happened."""
UNSURE: Final = frozenset({"busy", "error"})
UNSURE_DONE: Final = 0.5


def tools(*, has_undos: bool = False) -> dict[str, Tool]:
    """The configuration of every sidecar: a tool for each class; `has_undos`: and how to undo."""
    key, fading = UpstreamKey(lifetime_s=KEY_LIFE_S), UpstreamKey(lifetime_s=FADING_LIFE_S)
    probe = HttpProbe(path="/charges/{key}", applied_when="/receipt")
    made: tuple[Tool, ...] = (
        _tool("glance", effect=Effect.READ),
        _tool("http-read", effect=Effect.READ, record=True),
        _tool("http-put", effect=Effect.IDEMPOTENT),
        _tool("http-keyed", effect=Effect.IDEMPOTENT, upstream_key=key),
        _tool(
            "http-fading",
            effect=Effect.IDEMPOTENT,
            upstream_key=fading,
            durability=Level.REMOTE,
        ),
        _tool("http-probed", effect=Effect.ONCE, probe=probe, probe_settle_s=SETTLE_S),
        _tool("http-once", effect=Effect.ONCE),
    )
    if has_undos:
        finals = (
            _tool("http-final", effect=Effect.ONCE, irreversible=True),
            _tool("http-final-put", effect=Effect.IDEMPOTENT, irreversible=True),
        )
        made = (*(_with_undo(tool) for tool in made), *finals)
    return {tool.name: tool for tool in made}


def _with_undo(tool: Tool) -> Tool:
    if tool.effect is Effect.READ:
        return tool
    probe = None if tool.probe is None else replace(tool.probe, result="")
    undo = HttpUndo(
        method="DELETE" if tool.name == "http-put" else "POST",
        path=f"{REFUNDS}{{/receipt}}",
        body=None if tool.name == "http-put" else {"of": "{key}", "receipt": "{/receipt}"},
        probe=tool.probe,
        probe_settle_s=tool.probe_settle_s,
    )
    return replace(tool, probe=probe, undo=undo)


def _tool(name: str, **more: Any) -> Tool:
    return Tool(
        name=name,
        upstream=f"{AUTHORITY}/{name}",
        head_s=HEAD_S,
        idle_s=IDLE_S,
        patience_s=PATIENCE_S,
        **more,
    )


@dataclass(slots=True)
class HttpHabits:
    """How often requests fare badly, for each way in which they can."""

    shed: float = 0.0
    busy: float = 0.0
    error: float = 0.0
    denied: float = 0.0
    rejected: float = 0.0
    refused: float = 0.0
    """No connection."""
    lost: float = 0.0
    """On its way there."""
    reset: float = 0.0
    """The connection is gone while the request goes on: it is acted upon, later."""
    cut: float = 0.0
    slow: float = 0.0
    """No head in time."""

    def improve(self) -> None:
        """Everything arrives and is answered."""
        for name in self.__slots__:
            setattr(self, name, 0.0)


@dataclass(frozen=True, slots=True)
class Said:
    """A whole answer as it left. `key` is the upstream key of the call that it answers."""

    name: str
    key: str
    status: int
    body: bytes


class Line:
    """What the server sends on one connection, as it arrives."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._events: deque[tuple[Any, ...]] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def push(self, *event: Any) -> None:
        self._events.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> tuple[Any, ...]:
        """The next event: `head status headers`, `piece data`, `end`, or `reset`."""
        while not self._events:
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._events.popleft()


class HttpServer:
    """One server for all tools over HTTP."""

    def __init__(
        self, loop: VirtualLoop, random: Random, ledger: Upstream, *, token: Callable[[], int]
    ) -> None:
        self.habits = HttpHabits()
        self.kinds: tuple[str, ...] = ("plain", "chunked", "events")
        """Of whole answers, as often as they stand here."""
        self.said: dict[int, Said] = {}
        """By serial number, which stands in the answer's body."""
        self._loop = loop
        self._random = random
        self._ledger = ledger
        self._token = token
        self._nobody = Context()
        self._saved: dict[str, tuple[int, dict[str, Any]]] = {}
        """By key: what is answered again."""
        self._busy: set[str] = set()

    def arrive(self, request: Outgoing, line: Line) -> None:
        """Act, and answer."""
        path = request.url.removeprefix(AUTHORITY)
        tool = path.split("/")[1]
        if path.startswith(f"/{tool}/charges/"):
            return self._look(path.rpartition("/")[2], line)
        name = header(request.headers, NAME) or self.undone_by(request)
        key = header(request.headers, "idempotency-key")
        has_key = tool in ("http-keyed", "http-fading")
        if has_key and key in self._busy:
            return self._answer(line, name=name, key=key, status=409, told={"error": "in flight"})
        if has_key and key in self._saved:
            status, told = self._saved[key]
        else:
            status, told = self._act(tool, name, key=key)
            if has_key and (status < 300 or status in FATES["rejected"]):
                self._saved[key] = status, told
                if tool == "http-fading":
                    self._loop.call_later(FADING_LIFE_S, self._forget, name, key)
        if has_key:
            self._busy.add(key)
        self._answer(line, name=name, key=header(request.headers, KEY), status=status, told=told)
        return None

    def undone_by(self, request: Outgoing) -> str:
        """What a request takes back, as a charge of its own; empty if it does not."""
        _, _, receipt = request.url.partition(REFUNDS)
        return UNDO + self._ledger.names[int(receipt)] if receipt else ""

    def _forget(self, name: str, key: str) -> None:
        self._saved.pop(key, None)
        charge = self._ledger.charges.get(name)
        if charge is not None:
            charge.keys.discard(key)

    def _act(self, tool: str, name: str, *, key: str) -> tuple[int, dict[str, Any]]:
        fate = self._fate()
        if tool == "http-put" and name.startswith(UNDO) and self._ledger.receipt(name):
            return 404, {"error": "there is none"}
        if fate in FATES:
            if fate in UNSURE and self._random.random() < UNSURE_DONE:
                self._deed(tool, name, key=key)
            return self._random.choice(FATES[fate]), {"error": fate}
        return 200, {"name": name, "receipt": self._deed(tool, name, key=key)}

    def _deed(self, tool: str, name: str, *, key: str) -> int:
        if tool in ("glance", "http-read"):
            return self._token()
        if name.startswith(UNDO):
            tool = f"undo-{tool}"
        return self._ledger.charge(tool, name, key=key)

    def _fate(self) -> str:
        chance = self._random.random()
        for fate in FATES:
            share = getattr(self.habits, fate)
            if chance < share:
                return fate
            chance -= share
        return "done"

    def _look(self, key: str, line: Line) -> None:
        """A probe's question."""
        receipt = self._ledger.receipt_of(key)
        status, told = (404, {}) if receipt is None else (200, {"receipt": receipt})
        self._send(line, status, json.dumps(told).encode(), kind="plain", key="")

    def _answer(
        self, line: Line, *, name: str, key: str, status: int, told: dict[str, Any]
    ) -> None:
        serial = self._token()
        filler = "z" * self._random.choice(FILLER_CHARS)
        data = json.dumps({**told, "serial": serial, "filler": filler}).encode()
        kind = self._random.choice(self.kinds) if status < 300 else "plain"
        if kind == "events":
            data = b"data: " + data + b'\n\ndata: {"more": 1}\n\ndata: [DONE]\n\n'
        self.said[serial] = Said(name, key, status, data)
        self._send(line, status, data, kind=kind, key=key)

    def _send(self, line: Line, status: int, data: bytes, *, kind: str, key: str) -> None:
        random, habits = self._random, self.habits
        at_s = self._loop.now_s + random.uniform(*THINKS_S)
        if random.random() < habits.slow:
            at_s += SLOW_HEAD_S
        cuts = sorted(random.randint(0, len(data)) for _ in range(random.randint(0, 3)))
        pieces = [data[a:b] for a, b in zip((0, *cuts), (*cuts, len(data)), strict=True)]
        is_cut = random.random() < habits.cut
        if is_cut:
            pieces = pieces[: random.randint(0, len(pieces) - 1)]
        for event in (
            ("head", status, _headers(kind, len(data), status)),
            *(("piece", piece) for piece in pieces if piece),
            ("reset",) if is_cut else ("end",),
        ):
            self._loop.call_at(at_s, line.push, *event, context=self._nobody)
            at_s += random.uniform(0.0, 0.1)
        self._loop.call_at(at_s, self._busy.discard, key, context=self._nobody)


def _headers(kind: str, length: int, status: int) -> Headers:
    types = {"events": "text/event-stream"}
    made = [("Content-Type", types.get(kind, "application/json"))]
    if kind == "plain":
        made.append(("Content-Length", str(length)))
    if status == 429:
        made.append(("Retry-After", "1"))
    return tuple(made)
