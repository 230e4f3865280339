"""The agent's image is rolled forward and back in the middle of its runs.

`code_version` is opaque: what an agent may go on with is a question of its state's schema, or of
the version itself where a run is pinned to one.
"""

import asyncio
import json
import os
import subprocess
from typing import Any

import pytest

from coatcheck_sidecar.core.head import decode_head
from coatcheck_sidecar.core.model import Status
from examples.demo.processes import python
from tests.e2e.drain_world import CoatPod, Shape, World, world

SHAPE = Shape(grace_s=10, is_pid_1=False, work_s="0.2-0.4")
RUNS, LINES = 2, 50
LOOK_S = 0.1


async def start(stage: World, version: str, *, schema: int = 1) -> CoatPod:
    env = {"COATCHECK_CODE_VERSION": version, "DRAIN_SCHEMA": str(schema)}
    return await stage.start_pod(agent_env=env)


async def replace(stage: World, old: CoatPod, version: str, *, schema: int = 1) -> CoatPod:
    """As a rolling update: the new one is up before the old one is told to end."""
    new = await start(stage, version, schema=schema)
    old.kubelet.delete()
    await old.kubelet.wait_gone(20)
    return new


async def versions(stage: World) -> set[str]:
    """What made the newest checkpoint of each run."""
    found = set()
    for run in stage.board.rows:
        stored = await stage.store.get(f"runs/{run}/head")
        assert stored is not None
        found.add(decode_head(f"runs/{run}/head", stored.data).code_version)
    return found


async def all_made_by(stage: World, version: str) -> None:
    """Wait until each run was committed by this version, and none of them is over."""
    async with asyncio.timeout(30):
        while await versions(stage) != {version}:  # noqa: ASYNC110 - heads tell nobody
            await asyncio.sleep(LOOK_S)
    await stage.look()
    assert not any(row.is_over for row in stage.board.rows.values()), "it was over too soon"


def listed(stage: World) -> list[dict[str, Any]]:
    """What `coatcheck runs` tells whoever is on call."""
    ran = subprocess.run(
        [*python("coatcheck"), "runs", "--json", "--store", stage.wiring.store],
        env=dict(os.environ), capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    return [line["summary"] for line in json.loads(ran.stdout)]


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_an_image_is_rolled_forward_and_back_and_nothing_is_lost() -> None:
    async with world(SHAPE, runs=RUNS, lines=LINES) as stage:
        pod = await start(stage, "A")
        await all_made_by(stage, "A")
        pod = await replace(stage, pod, "B")
        await all_made_by(stage, "B")
        await replace(stage, pod, "A")
        await all_made_by(stage, "A")
        await stage.until(lambda: stage.is_over, within_s=60)
        verdict = stage.verdict()
        assert not verdict.faults, stage.story()
        assert (verdict.again, verdict.charges) == (0, RUNS * LINES), stage.story()
        assert not stage.doubted


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_schema_that_no_agent_takes_waits_and_says_why() -> None:
    async with world(SHAPE, runs=RUNS, lines=LINES) as stage:
        first = await start(stage, "A")
        await all_made_by(stage, "A")
        second = await replace(stage, first, "B", schema=2)
        await stage.until(lambda: second.count("not_accepted") == RUNS, within_s=20)
        at = {run: row.step for run, row in stage.board.rows.items()}
        assert {row.status for row in stage.board.rows.values()} == {Status.READY}
        for note in second.noted("not_accepted"):
            assert note["level"] == "warning"
            assert "has schema 1, this agent takes 2" in note["reason"]
        lines = {line["run"]: line for line in listed(stage)}
        assert {
            (line["status"], line["schema"], line["code_version"]) for line in lines.values()
        } == {("ready", 1, "A")}
        await replace(stage, second, "A")
        await stage.until(lambda: stage.is_over, within_s=60)
        verdict = stage.verdict()
        assert not verdict.faults, stage.story()
        assert (verdict.again, verdict.charges) == (0, RUNS * LINES), stage.story()
        assert all(row.step > at[run] for run, row in stage.board.rows.items())
