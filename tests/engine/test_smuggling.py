"""Whatever is sent to the listener: refused, or forwarded as exactly one well-formed request."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field

import pytest

from coatcheck_sidecar.core.forward import Forward, place
from coatcheck_sidecar.core.model import Effect
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.servers.forward import ForwardProxy
from tests.engine.harness import Yard
from tests.engine.proxying import Near, near
from tests.engine.smuggling import INNER, PREFIX, Strict, corpus, say

QUIET_S = 0.4
CLIENTS = 64
STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")
SIZES = [(1, 700), pytest.param(2, 20_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]


@asynccontextmanager
async def facing(
    yard: Yard, port: int, *, has_tunnels: bool = False
) -> AsyncIterator[tuple[Near, str]]:
    """A listener with a route and the forward proxy to this port; and its agent's token."""
    tool = Tool(
        name="mail", upstream=f"http://127.0.0.1:{port}/base", private=True, effect=Effect.READ
    )
    at = await near(yard, {"mail": tool})
    agent = await at.agent()
    tunnels = (place(f"127.0.0.1:{port}"),) if has_tunnels else ()
    at.proxy.forward = ForwardProxy(
        Forward(connect=tunnels),
        tools=[tool],
        bindings=at.proxy._bindings,
        serve=at.proxy.serve,
        busy=lambda _: nullcontext(),
        observer=at.pod.notes,
    ).handle
    yield at, at.urls["r1"].rpartition("/")[2]
    assert not at.pod.notes.of("task_failed")
    await agent.drop()
    await at.die()


async def ask_all(at: Near, cases: list[bytes]) -> list[list[bytes]]:
    """The statuses that each is answered by."""
    seats = asyncio.Semaphore(CLIENTS)

    async def one(raw: bytes) -> list[bytes]:
        async with seats:
            said = STATUS.findall(await say(at.port, raw, timeout_s=QUIET_S))
            return [status for status in said if status != b"100"]

    return await asyncio.gather(*map(one, cases))


@pytest.mark.parametrize("is_absolute", [False, True])
@pytest.mark.parametrize(("seed", "count"), SIZES)
async def test_a_corpus_of_mutations(
    yard: Yard, seed: int, count: int, *, is_absolute: bool
) -> None:
    strict = Strict()
    server = await asyncio.start_server(strict.serve, "127.0.0.1", 0)
    strict.port = server.sockets[0].getsockname()[1]
    async with facing(yard, strict.port) as (at, token):
        if is_absolute:
            route, said = f"http://127.0.0.1:{strict.port}{PREFIX}", token
        else:
            route, said = f"/{token}/mail/m/", ""
        host = f"127.0.0.1:{at.port}"
        cases = list(corpus(route, host, seed=seed, count=count, token=said))
        answers = await ask_all(at, cases)
    server.close()
    judge(strict, cases, answers=answers)


def judge(strict: Strict, cases: list[bytes], *, answers: list[list[bytes]]) -> None:
    """Each case was refused, or arrived once and well formed."""
    assert strict.faults == []
    twice = {target: n for target, n in Counter(strict.targets).items() if n > 1}
    assert not twice
    assert all(target.startswith(PREFIX) for target in strict.targets)
    # A second answer is of what stands behind a request that was over: nobody's route.
    for raw, statuses in zip(cases, answers, strict=True):
        assert b"500" not in statuses, raw
        assert b"200" not in statuses[1:], raw
    passed = sum(statuses[:1] == [b"200"] for statuses in answers)
    refused = sum(statuses[:1] != [b"200"] for statuses in answers)
    print(f"{passed} forwarded, {refused} refused: {Counter(s[0] if s else b'-' for s in answers)}")
    # On a busy machine an answer may come after this client's patience; never is it a refusal.
    for number, statuses in enumerate(answers):
        is_forwarded = f"{PREFIX}{number}" in strict.bodies
        assert not statuses or (statuses[0] == b"200") is is_forwarded, cases[number]
    assert 10 < passed <= len(strict.targets)
    assert refused > len(cases) / 2


@dataclass
class Mute:
    """The far end of tunnels: notes what comes, and says nothing."""

    heard: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at = len(self.heard)
        self.heard.append(b"")
        with suppress(OSError):
            while data := await reader.read(65_536):
                self.heard[at] += data
        writer.close()


@pytest.mark.parametrize(("seed", "count"), SIZES)
async def test_a_corpus_of_tunnels(yard: Yard, seed: int, count: int) -> None:
    """A tunnel, or one refusal and nothing behind it is read as a request of this listener."""
    mute = Mute()
    server = await asyncio.start_server(mute.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with facing(yard, port, has_tunnels=True) as (at, token):
        route, host = f"127.0.0.1:{port}", f"127.0.0.1:{port}"
        cases = list(corpus(route, host, seed=seed, count=count, token=token, is_connect=True))
        answers = await ask_all(at, cases)
    server.close()
    for raw, statuses in zip(cases, answers, strict=True):
        assert len(statuses) <= 1, raw
        assert b"500" not in statuses, raw
    opened = sum(statuses == [b"200"] for statuses in answers)
    print(f"{opened} tunnels, {Counter(s[0] if s else b'-' for s in answers)}")
    assert 10 < opened <= len(mute.heard) <= count
    assert sum(1 for said in mute.heard if INNER in said)  # opaque: that is what they are for
