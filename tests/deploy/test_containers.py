"""The rolling deploy with the real image: two containers a pod, real signals, real volumes."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.deploy.podman import Podman
from tests.deploy.pods import runtime
from tests.e2e.rolling import Roll, rolled, summary
from tests.servers import S3Server, ministack

SMALL = Roll(agents=4, pods=2, rounds=1, lines=24, grace_s=8, work_s="0.1-1")
BIG = Roll(agents=16, pods=4, rounds=2, lines=60, grace_s=12, work_s="0.2-4")
STUCK = replace(BIG, rounds=1, grace_s=6, work_s="0.5-2", is_stuck=True)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with ministack() as server:
        yield server


@pytest.mark.timeout(600)  # the image is built first, if no other test came before
async def test_two_pods_of_containers_are_rolled(engine: Podman, s3: S3Server) -> None:
    await _roll(SMALL, engine, s3, bucket="small")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("roll", [BIG, STUCK], ids=["big", "stuck"])
async def test_many_containers_are_rolled(roll: Roll, engine: Podman, s3: S3Server) -> None:
    await _roll(roll, engine, s3, bucket="stuck" if roll.is_stuck else "big")


async def _roll(roll: Roll, engine: Podman, s3: S3Server, *, bucket: str) -> None:
    store = await asyncio.to_thread(s3.make_bucket, bucket)
    result = await rolled(roll, store=store, env=s3.env, runtime=runtime(engine), tell=print)
    print(summary(roll, result))
    assert not result.faults(roll), summary(roll, result)
    assert len(result.drains_s) == roll.pods * roll.rounds
    if not roll.is_stuck:
        assert not result.killed
