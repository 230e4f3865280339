"""proxy: a call of 4 KiB through the tool proxy, beside a plain aiohttp reverse proxy.

Replay is asked for under one key, so that each after the first is answered from the record; other
calls ask for something else each time. A step has `CALLS_A_STEP` of them, and is committed then.
"""

import asyncio
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvloop

import coatcheck
from bench.measure import Bar, Line, Times
from bench.pod import pod
from tests.servers import free_ports

ROUNDS = 10
CALLS = 200
CALLS_A_STEP = 20
CLIENTS = 64
CALLS_OF_EACH = 10
BODY_BYTES = 4_096
READY_S = 10.0
PASS_MAX, REPLAY_MAX, RECORDED_MAX = 1.15, 1.0, 1.3
CROWDS = (("quick", "process", 0.6), ("keyed", "node", 0.45))

Call = Callable[[], Awaitable[None]]


@contextlib.contextmanager
def _program(*arguments: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "bench.relay", *arguments])
    try:
        yield
    finally:
        process.kill()
        process.wait()


class _Client(asyncio.Protocol):
    """HTTP/1.1 with as little as it takes: its own cost is not what is measured."""

    def __init__(self) -> None:
        self._seen = b""
        self._done: asyncio.Future[bytes] | None = None

    @classmethod
    async def connect(cls, port: int) -> "_Client":
        loop = asyncio.get_running_loop()
        until_s = time.monotonic() + READY_S
        while True:
            try:
                transport, client = await loop.create_connection(cls, "127.0.0.1", port)
            except OSError:
                if time.monotonic() > until_s:
                    raise
                await asyncio.sleep(0.02)
            else:
                client._transport = transport
                return client

    _transport: asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, blank, body = self._seen.partition(b"\r\n\r\n")
        if not blank or self._done is None:
            return
        low = head.lower()
        if b"content-length:" in low:
            length = int(low.split(b"content-length:")[1].split(b"\r\n")[0])
            is_whole = len(body) >= length
        else:
            is_whole = body.endswith(b"0\r\n\r\n")
        if is_whole:
            self._seen, done, self._done = b"", self._done, None
            done.set_result(head)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None:
            self._done.set_exception(exc or ConnectionError("hung up"))

    async def post(self, path: str, *, key: str = "", number: int = 0) -> None:
        body = b"%016d" % number + b"x" * (BODY_BYTES - 16)
        self._done = asyncio.get_running_loop().create_future()
        named = f"Coatcheck-Key: {key}\r\n" if key else ""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{named}Content-Type: text/plain\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        head_back = await self._done
        if b" 200 " not in head_back.split(b"\r\n")[0]:
            raise RuntimeError(head_back.decode())


async def _times(run: coatcheck.Run, call: Call, *, commits: Times) -> Times:
    times = []
    for n in range(CALLS):
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
        if n % CALLS_A_STEP == CALLS_A_STEP - 1:
            began = time.perf_counter()
            await run.commit({"n": n})
            commits.append(time.perf_counter() - began)
    return times


async def _rate(clients: list[_Client], path: str, *, numbers: Iterator[int]) -> float:
    async def one(client: _Client) -> None:
        for _ in range(CALLS_OF_EACH):
            await client.post(path, number=next(numbers))

    began = time.perf_counter()
    await asyncio.gather(*map(one, clients))
    return len(clients) * CALLS_OF_EACH / (time.perf_counter() - began)


@dataclass(frozen=True)
class Places:
    """Where clients go, and what nobody asked for yet."""

    plain_port: int
    port: int
    paths: dict[str, str]
    numbers: Iterator[int]


def _line(what: str, ours: list[Times], floors: list[Times], limit: float, note: str) -> Line:
    mine = [statistics.median(times) for times in ours[1:]]
    bare = [statistics.median(times) for times in floors[1:]]
    return Line(
        what=f"proxy, {what}, p50",
        ours=statistics.median(mine) * 1e3,
        floor=statistics.median(bare) * 1e3,
        unit="ms",
        paired_ratio=statistics.median(a / b for a, b in zip(mine, bare, strict=True)),
        limit=limit,
        bar=Bar.RATIO_MOST,
        note=note,
    )


async def _one_client(run: coatcheck.Run, places: Places, *, rounds: int) -> list[Line]:
    numbers, paths = places.numbers, places.paths
    plain, ours = await _Client.connect(places.plain_port), await _Client.connect(places.port)
    asked = await _Client.connect(places.port)

    async def replay() -> None:
        await ours.post(paths["model"], key=f"step{run.step_number}")

    ways: dict[str, Call] = {
        "plain": lambda: plain.post("/x", number=next(numbers)),
        "pass": lambda: ours.post(paths["pass"], number=next(numbers)),
        "replay": replay,
        "record": lambda: asked.post(paths["model"], number=next(numbers)),
    }
    times: dict[str, list[Times]] = {name: [] for name in ways}
    commits: Times = []
    for _ in range(rounds + 1):
        for name, call in ways.items():
            times[name].append(await _times(run, call, commits=commits))
    floors = times["plain"]
    commit_s = statistics.median(commits)
    recorded = [[max(0.0, t - commit_s) for t in round_] for round_ in times["record"]]
    note = f"less a commit by the SDK in the same run, {commit_s * 1e3:.2f} ms"
    return [
        _line("pass-through", times["pass"], floors, PASS_MAX, ""),
        _line("replay", times["replay"], floors, REPLAY_MAX, "no upstream in it"),
        _line("recorded read", recorded, floors, RECORDED_MAX, note),
    ]


async def _crowd(run: coatcheck.Run, places: Places, *, rounds: int) -> list[Line]:
    numbers = places.numbers
    crowd = [await _Client.connect(places.port) for _ in range(CLIENTS)]
    plain_crowd = [await _Client.connect(places.plain_port) for _ in range(CLIENTS)]
    lines = []
    for tool, level, least in CROWDS:
        rates, floor_rates = [], []
        for _ in range(max(3, rounds // 2)):
            floor_rates.append(await _rate(plain_crowd, "/x", numbers=numbers))
            rates.append(await _rate(crowd, places.paths[tool], numbers=numbers))
            await run.commit({"n": next(numbers)})
        shares = [a / b for a, b in zip(rates, floor_rates, strict=True)]
        lines.append(
            Line(
                what=f"proxy, {CLIENTS} clients, idempotent calls at `{level}`",
                ours=statistics.median(rates[1:]),
                floor=statistics.median(floor_rates[1:]),
                unit="calls/s",
                paired_ratio=statistics.median(shares[1:]),
                limit=least,
                bar=Bar.RATIO_LEAST,
            )
        )
    return lines


async def _measure(plain_port: int, *, rounds: int) -> list[Line]:
    run = await coatcheck.open_run("proxy", schema=1).__aenter__()
    urls = {tool: urlsplit(run.proxy_url(tool)) for tool in ("pass", "model", "keyed", "quick")}
    port = urls["pass"].port or 80
    paths = {tool: f"{url.path}/x" for tool, url in urls.items()}
    places = Places(plain_port, port, paths, itertools.count())
    lines = await _one_client(run, places, rounds=rounds)
    return lines + await _crowd(run, places, rounds=rounds)


def _settings(upstream: str) -> dict[str, str]:
    tools = {
        "PASS": {"EFFECT": "read"},
        "MODEL": {"EFFECT": "read", "RECORD": "true"},
        "KEYED": {"EFFECT": "idempotent", "DURABILITY": "node"},
        "QUICK": {"EFFECT": "idempotent", "DURABILITY": "process"},
    }
    common = {"UPSTREAM": upstream, "PRIVATE": "true"}
    (port,) = free_ports(1)
    return {
        "COATCHECK_LISTEN": f"127.0.0.1:{port}",
        **{
            f"COATCHECK_TOOLS__{tool}__{key}": value
            for tool, settings in tools.items()
            for key, value in (settings | common).items()
        },
    }


def run(*, is_quick: bool) -> list[Line]:
    """Lines of the table."""
    upstream_port, plain_port = free_ports(2)
    upstream = f"http://127.0.0.1:{upstream_port}"
    os.environ.pop("HTTP_PROXY", None)
    with (
        _program(str(upstream_port)),
        _program(str(plain_port), upstream),
        pod(_settings(upstream)),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_measure(plain_port, rounds=ROUNDS // 3 if is_quick else ROUNDS))
