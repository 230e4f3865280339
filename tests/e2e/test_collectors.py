"""Collectors in other processes, stopped by SIGSTOP at any moment and long: nothing live goes."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.restore import read_head
from coatcheck_sidecar.stores.url import open_store
from tests.e2e.real_sidecar import real_sidecar
from tests.engine.test_damage import noise
from tests.servers import S3Server, ServerUnavailableError, ministack, seaweedfs

COLLECTORS: Final = 2
STEPS: Final = 60
STOPPED_S: Final = (0.05, 1.0)


@pytest.fixture(params=[ministack, seaweedfs], ids=["ministack", "seaweedfs"])
def server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    try:
        with request.param() as server:
            yield server
    except ServerUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_nothing_live_is_deleted(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.make_bucket("collected")
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    chance = random.Random(11)
    command = (sys.executable, "-m", "tests.e2e.collector", url, "r1")
    collectors = [
        await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        for _ in range(COLLECTORS)
    ]

    async def stop_and_go() -> None:
        while True:
            one = chance.choice(collectors)
            os.kill(one.pid, signal.SIGSTOP)
            await asyncio.sleep(chance.uniform(*STOPPED_S))
            os.kill(one.pid, signal.SIGCONT)
            await asyncio.sleep(chance.uniform(0.0, 0.2))

    store = open_store(url, clock=SystemClock())
    upkeep = Outside(store, SystemClock()).upkeep
    stopping = asyncio.ensure_future(stop_and_go())
    try:
        async with real_sidecar(tmp_path, {}, **server.env, COATCHECK_STORE=url) as real:
            agent, _ = await real.agent()
            for step in range(1, STEPS + 1):
                go = await agent.call(args={"invoice": step})
                await agent.outcome(go, result="z" * 5_000)
                await agent.commit(noise(step, 30_000), level="remote")
                if step % 10 == 0:
                    (verdict,) = await upkeep.verify("r1")
                    assert not verdict.faults
                if step % 20 == 0:  # another ownership, with an epoch of its own
                    await agent.release()
                    await agent.drop()
                    agent, _ = await real.agent()
                    assert agent.step == step + 1
            found = await read_head(store, "r1")
            assert found is not None
            (verdict,) = await upkeep.verify("r1")
            assert not verdict.faults
            await agent.drop()
    finally:
        stopping.cancel()
        for one in collectors:
            one.kill()
    deleted = 0
    for one in collectors:
        assert one.stdout is not None
        deleted += sum(int(line) for line in (await one.stdout.read()).split())
        await one.wait()
    await store.close()
    print(f"{deleted} objects deleted by {COLLECTORS} collectors")
    assert deleted > STEPS
