"""Whatever is sent to the listener: refused, or forwarded as exactly one well-formed request."""

import asyncio
import re
from collections import Counter

import pytest

from coatcheck_sidecar.core.model import Effect
from coatcheck_sidecar.core.tool import Tool
from tests.engine.harness import Yard
from tests.engine.proxying import near
from tests.engine.smuggling import PREFIX, Strict, corpus, say

QUIET_S = 0.4
CLIENTS = 64
STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")


@pytest.mark.parametrize(
    ("seed", "count"),
    [(1, 700), pytest.param(2, 20_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
)
async def test_a_corpus_of_mutations(yard: Yard, seed: int, count: int) -> None:
    strict = Strict()
    server = await asyncio.start_server(strict.serve, "127.0.0.1", 0)
    strict.port = server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{strict.port}/base"
    at = await near(
        yard, {"mail": Tool(name="mail", upstream=url, private=True, effect=Effect.READ)}
    )
    agent = await at.agent()
    token = at.urls["r1"].rpartition("/")[2]
    seats = asyncio.Semaphore(CLIENTS)

    async def one(raw: bytes) -> list[bytes]:
        async with seats:
            said = STATUS.findall(await say(at.port, raw, timeout_s=QUIET_S))
            return [status for status in said if status != b"100"]

    cases = list(corpus(f"/{token}/mail/m/", f"127.0.0.1:{at.port}", seed=seed, count=count))
    answers = await asyncio.gather(*map(one, cases))
    assert strict.faults == []
    twice = {target: n for target, n in Counter(strict.targets).items() if n > 1}
    assert not twice
    assert all(target.startswith(PREFIX) for target in strict.targets)
    # A second answer is of what stands behind a request that was over: nobody's route.
    for raw, statuses in zip(cases, answers, strict=True):
        assert b"500" not in statuses, raw
        assert statuses[1:].count(b"200") == 0, raw
    passed = sum(statuses[:1] == [b"200"] for statuses in answers)
    refused = sum(statuses[:1] != [b"200"] for statuses in answers)
    print(f"{passed} forwarded, {refused} refused: {Counter(s[0] if s else b'-' for s in answers)}")
    assert passed == len(strict.targets) > 10
    assert refused > count / 2
    assert not at.pod.notes.of("task_failed")
    await agent.drop()
    await at.die()
    server.close()
