"""Runs that last: stuck, late, or parked over deploys; with real processes."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coatcheck_sidecar.core.head import Head, decode_head
from coatcheck_sidecar.core.model import Status
from examples.demo.processes import LOOPBACK, Child, environment
from tests.e2e.real_sidecar import Real, real_sidecar
from tests.engine.harness import RefusedError, Wire, until

QUICK = {
    "COATCHECK_HEARTBEAT_S": "0.2",
    "COATCHECK_LEASE_S": "1.5",
    "COATCHECK_PAUSE_MAX_S": "0.3",
    "COATCHECK_CLAIM_POLL_S": "0.1",
    "COATCHECK_GRACE_S": "5",
}
WAIT_S = 15.0
APPROVAL = """
import asyncio, coatcheck

async def main():
    async for run in coatcheck.claim_runs("bills", schema=1):
        async with run:
            state = run.state or {"asked": 0}
            async for step in run.steps():
                if not state["asked"]:
                    await step.commit({"asked": 1})
                    state = {"asked": 1}
                    continue
                value = await run.wait_for("approval", {"amount": 4711})
                await run.finish(value)

asyncio.run(main())
"""


async def cli(store: Path, *args: str, status: int = 0) -> str:
    """What a command says; `coatcheck` needs nothing but the store."""
    command = [sys.executable, "-m", "coatcheck", *args, "--store", store.as_uri()]
    ran = await asyncio.to_thread(
        subprocess.run, command, env=environment(), capture_output=True, text=True,
        timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert ran.returncode == status, ran.stderr
    return ran.stdout


async def shown(store: Path, run: str = "r1") -> dict[str, Any]:
    told: dict[str, Any] = json.loads(await cli(store, "show", run, "--json"))
    return told


@asynccontextmanager
async def pod(folder: Path, name: str) -> AsyncIterator[Real]:
    """A sidecar with a folder of its own, on the store that all share."""
    store = folder / "store"
    store.mkdir(exist_ok=True)
    async with real_sidecar(folder / name, {}, **QUICK, COATCHECK_STORE=store.as_uri()) as made:
        yield made


@asynccontextmanager
async def greeted(real: Real) -> AsyncIterator[Wire]:
    wire = await Wire.connect(real.folder / "agent.sock")
    try:
        await wire.hello()
        yield wire
    finally:
        await wire.drop()


def head_of(store: Path, run: str = "r1") -> Head:
    """As it stands in the store; quicker than a command."""
    return decode_head(run, (store / "runs" / run / "head").read_bytes())


async def stands(store: Path, status: Status) -> None:
    """Wait until it does."""

    await until(lambda: head_of(store).status is status, timeout_s=WAIT_S)


async def test_a_stuck_step_is_seen_by_metric_log_and_in_the_listing(tmp_path: Path) -> None:
    async with pod(tmp_path, "a") as real, greeted(real) as agent:
        await agent.open(step_timeout_s=0.3)
        await agent.commit(b"one")

        async def is_listed() -> bool:
            return "STUCK" in await cli(tmp_path / "store", "runs")

        await until(is_listed, timeout_s=WAIT_S)
        await until(lambda: "step_stuck" in real.said, timeout_s=WAIT_S)
        metrics = real.metrics().decode()
        assert re.search(r"^coatcheck_runs_stuck 1\.0$", metrics, re.MULTILINE)
        (total,) = re.findall(r"^coatcheck_steps_stuck_total (\d+)", metrics, re.MULTILINE)
        lines = [json.loads(line) for line in real.said.splitlines() if "step_stuck" in line]
        assert len(lines) == int(total)
        assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
        assert (lines[-1]["run"], lines[-1]["step"], lines[-1]["level"]) == ("r1", 2, "warning")
        await agent.finish()
        metrics = real.metrics().decode()
        assert re.search(r"^coatcheck_runs_stuck 0\.0$", metrics, re.MULTILINE)


async def test_a_deadline_outlives_the_pod_that_had_the_run(tmp_path: Path) -> None:
    async with pod(tmp_path, "a") as first, greeted(first) as agent:
        await agent.open(deadline_s=5.0)
        await agent.commit(b"one", level="remote")
        go = await agent.call()
        assert "DEADLINE" in await cli(tmp_path / "store", "runs")
        first.child.kill()
    async with pod(tmp_path, "b") as second, greeted(second) as agent:
        await stands(tmp_path / "store", Status.FAILED)
        told = await shown(tmp_path / "store")
        assert told["reason"].startswith("deadline_exceeded: its deadline was 20")
        assert told["reason"].endswith(f"in doubt: call {go.body['call']} (charge)")
        assert "charge" in await cli(tmp_path / "store", "doubts", "--all")
        assert "coatcheck_runs_expired_total 1.0" in second.metrics().decode()
        with pytest.raises(RefusedError, match="nothing is ready"):
            await agent.open(None, create=False)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["command", "api"])
async def test_a_parked_run_goes_on_after_three_deploys(tmp_path: Path, way: str) -> None:
    store = tmp_path / "store"
    script = tmp_path / "agent.py"
    script.write_text(APPROVAL)
    store.mkdir()
    await cli(store, "submit", "r1", "--queue", "bills")
    for deploy in range(4):
        async with pod(tmp_path, f"pod{deploy}") as real:
            env = {"COATCHECK_SOCKET": str(real.folder / "agent.sock")}
            log = real.folder / "agent.log"
            agent = Child([sys.executable, str(script)], env=env, log=log)
            try:
                await _parked(store)
                if deploy == 3:
                    await _approve(store, real, way=way)
                    await stands(store, Status.FINISHED)
                await _deploy_over(real, agent)
            finally:
                agent.kill()
    told = await shown(store)
    assert (told["status"], told["step"]) == ("finished", 1)
    assert told["result"] == {"by": "ann", "yes": True}
    assert told["epoch"] == 3  # claimed for the first steps and for the last, and signalled


async def _parked(store: Path) -> None:
    await stands(store, Status.PARKED)
    told = await shown(store)
    assert (told["waits_for"], told["payload"]) == ("approval", {"amount": 4711})
    assert "4711" in await cli(store, "show", "r1")

    async def is_nobodys() -> bool:
        (line,) = json.loads(await cli(store, "runs", "--json"))
        return bool(line["owner"] == "" and line["summary"]["status"] == "parked")

    await until(is_nobodys, timeout_s=WAIT_S)


async def _approve(store: Path, real: Real, *, way: str) -> None:
    value = {"by": "ann", "yes": True}
    if way == "command":
        said = await cli(store, "signal", "r1", "approval", "--value", json.dumps(value))
        assert "it is ready" in said
        return
    body = {"name": "approval", "value": value, "by": "ann"}
    request = urllib.request.Request(
        f"http://{LOOPBACK}:{real.port}/v1/runs/r1/signal", json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    answer = await asyncio.to_thread(urllib.request.urlopen, request, timeout=WAIT_S)  # noqa: S310
    assert answer.status == 200


async def _deploy_over(real: Real, agent: Child) -> None:
    """The pod is told to go, and goes at once: no process is held for the sake of the run."""
    agent.send(signal.SIGTERM)
    real.child.send(signal.SIGTERM)
    assert await asyncio.to_thread(real.child.wait, WAIT_S) == 0
    assert '"run_cut"' not in real.said
