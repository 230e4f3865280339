"""crash: `kill -9` in the middle of step 5 of 10, of the agent and of the whole pod.

The floor is the same program that posts at once, without us: the interpreter's start and the
imports that any such agent needs.
"""

import asyncio
import contextlib
import os
import statistics
import sys
import time
from asyncio.subprocess import Process

from bench.measure import Bar, Line
from bench.pod import Pod, pod

ROUNDS = 3
KILL_STEP = 5
STEPS = 10
POST_S = 1.0
AFTER_MAX_S = 0.3
DONE_S = 60.0


class CountingServer:
    """Answers each POST after a second; knows when each came."""

    def __init__(self) -> None:
        self.arrivals: list[tuple[int, float]] = []
        self._came = asyncio.Condition()
        self._handlers: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            step = int(head.split(b" ")[1].lstrip(b"/"))
            async with self._came:
                self.arrivals.append((step, time.perf_counter()))
                self._came.notify_all()
            await asyncio.sleep(POST_S if step else 0)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            await writer.drain()
        writer.close()

    async def nth(self, count: int) -> float:
        """When effect number `count` came."""
        async with self._came, asyncio.timeout(DONE_S):
            await self._came.wait_for(lambda: len(self.arrivals) >= count)
        return self.arrivals[count - 1][1]

    def close(self) -> None:
        self._server.close()


async def _agent(kind: str, url: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.agent", kind, url, env=dict(os.environ)
    )


async def _kill(agent: Process) -> None:
    agent.kill()
    await agent.wait()


async def _bare() -> float:
    server = CountingServer()
    url = await server.start()
    began = time.perf_counter()
    agent = await _agent("bare", url)
    took_s = await server.nth(1) - began
    await agent.wait()
    server.close()
    return took_s


async def _once(made: Pod, *, is_whole_pod: bool) -> tuple[float, int, int]:
    """Seconds to the next effect, effects, and steps that took effect more than once."""
    server = CountingServer()
    url = await server.start()
    agent = await _agent("agent", url)
    await server.nth(KILL_STEP)
    await asyncio.sleep(POST_S / 2)
    if is_whole_pod:
        made.end()
    await _kill(agent)
    began = time.perf_counter()
    if is_whole_pod:
        made.start()
    agent = await _agent("agent", url)
    next_s = await server.nth(KILL_STEP + 1) - began
    async with asyncio.timeout(DONE_S):
        status = await agent.wait()
    if status:
        raise RuntimeError(f"the agent ended with {status}")
    server.close()
    steps = [step for step, _ in server.arrivals]
    return next_s, len(steps), len(steps) - len(set(steps))


def _lines(whose: str, *, is_whole_pod: bool, rounds: int) -> list[Line]:
    floors: list[float] = []
    ours: list[tuple[float, int, int]] = []
    with pod():
        asyncio.run(_bare())  # the first start compiles
    for _ in range(rounds):
        floors.append(asyncio.run(_bare()))
        with pod() as made:
            ours.append(asyncio.run(_once(made, is_whole_pod=is_whole_pod)))
    limit = None if is_whole_pod else AFTER_MAX_S
    return [
        Line(
            what=f"crash of {whose}, start to next effect",
            ours=statistics.median(next_s for next_s, _, _ in ours),
            floor=statistics.median(floors),
            unit="s",
            limit=limit,
            bar=Bar.OVER_FLOOR_MOST,
            note="with the sidecar's start" if is_whole_pod else "",
        ),
        Line(
            what=f"crash of {whose}, effects of {STEPS}",
            ours=max(effects for _, effects, _ in ours),
            unit="",
            floor=STEPS,
            limit=STEPS,
            note=f"{max(twice for _, _, twice in ours)} twice; the one in flight is in doubt",
        ),
    ]


def run(*, is_quick: bool) -> list[Line]:
    """Lines of the table."""
    rounds = 1 if is_quick else ROUNDS
    return [
        *_lines("the agent", is_whole_pod=False, rounds=rounds),
        *_lines("the whole pod", is_whole_pod=True, rounds=rounds),
    ]
