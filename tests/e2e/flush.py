"""A pod on a slow link is told to stop: `python -m tests.e2e.flush --rounds 50`.

Real sidecar, real agent, a link of 2 Mbit/s to the store. The agent commits at level `node` what
it can't be sure to get off the pod. At a random moment the sidecar's hook is called; a grace later,
to the moment, sidecar, agent and link are gone, and the data folder. What was acknowledged is then
looked for in the store.
"""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import msgpack
from prometheus_client.parser import text_string_to_metric_families

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.engine.restore import read_run
from coatcheck_sidecar.stores.url import open_store
from examples.demo.processes import LOOPBACK, Child, end_in_order, python
from tests.e2e.flush_agent import digest_of
from tests.e2e.real_sidecar import Real, real_sidecar
from tests.e2e.throttle import FREE, SLOW, Shape, throttled
from tests.engine.harness import until
from tests.servers import S3Server, ministack

BUCKET: Final = "flush"
BEGIN_S: Final = 20.0
"""Until something was acknowledged."""
AT_ONCE: Final = 5
"""Rounds that mostly wait, on two cores."""
STATE_BYTES_MAX: Final = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What an agent is asked for."""

    runs: int
    state_bytes: int
    every_s: float
    """From one commit of the pod to the next."""
    adds_bytes: int = 0
    """0: each state is new, and can't be compressed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A pod, its link and its end."""

    load: Load
    shape: Shape
    grace_s: float
    flush_budget: str = "enforce"
    after_s: tuple[float, float]
    """From the first acknowledgement to the trigger: at random between these."""


ONE: Final = Load(runs=1, state_bytes=1_000_000, every_s=2.0)
FOUR: Final = Load(runs=4, state_bytes=1_000_000, every_s=2.0)
SMALL: Final = Load(runs=4, state_bytes=200_000, every_s=0.02, adds_bytes=1_000)
TRIALS: Final = {
    "enforce": Trial(load=ONE, shape=SLOW, grace_s=10.0, after_s=(0.0, 16.0)),
    "enforce-four": Trial(load=FOUR, shape=SLOW, grace_s=10.0, after_s=(0.0, 16.0)),
    "warn": Trial(load=FOUR, shape=SLOW, grace_s=10.0, flush_budget="warn", after_s=(8.0, 16.0)),
    "eviction": Trial(load=SMALL, shape=FREE, grace_s=3.0, after_s=(0.5, 4.0)),
}


@dataclass(frozen=True, slots=True)
class Found:
    """What one round came to."""

    acknowledged: int
    lost: tuple[str, ...]
    metrics: dict[str, float]
    """As they were right before the trigger."""

    def value(self, name: str) -> float:
        """A metric of the flush budget."""
        return self.metrics[f"coatcheck_{name}"]

    def __str__(self) -> str:
        return (
            f"{self.acknowledged} acknowledged, {len(self.lost)} lost, "
            f"{self.value('flush_budget_wait_seconds_count'):.0f} waited, "
            f"{self.value('flush_budget_warnings_total'):.0f} warnings, at the trigger "
            f"{self.value('flush_budget_used_bytes') / 1e6:.2f} of "
            f"{self.value('flush_budget_bytes') / 1e6:.2f} MB, link "
            f"{self.value('link_bytes_per_second') / 1e3:.0f} KB/s "
            f"{self.value('link_latency_seconds'):.2f} s"
        )


async def run_round(trial: Trial, server: S3Server, folder: Path, *, seed: int) -> Found:
    """One pod, from its start to what is left of it."""
    chance = random.Random(seed)
    store_url = f"{server.make_bucket(BUCKET)}/{folder.name}"
    witness = folder / "witness"
    async with throttled(server.endpoint, trial.shape) as link:
        env = {**server.env, "AWS_ENDPOINT_URL": link.url, "COATCHECK_STORE": store_url}
        env["COATCHECK_GRACE_S"] = str(trial.grace_s)
        env["COATCHECK_FLUSH_BUDGET"] = trial.flush_budget
        async with real_sidecar(folder / "pod", {}, **env) as sidecar:
            agent = Child(
                python("tests.e2e.flush_agent", json.dumps(asdict(trial.load)), str(witness)),
                env={"COATCHECK_SOCKET": str(sidecar.folder / "agent.sock")},
                log=folder / "agent.log",
            )
            try:
                await until(lambda: _has_begun(witness), timeout_s=BEGIN_S)
                await asyncio.sleep(chance.uniform(*trial.after_s))
                metrics = await asyncio.to_thread(_metrics, sidecar)
                end_s = asyncio.get_running_loop().time() + trial.grace_s
                await asyncio.to_thread(_hook, sidecar)
                await asyncio.sleep(end_s - asyncio.get_running_loop().time())
            finally:
                link.cut()
                sidecar.child.kill()
                agent.kill()
                shutil.rmtree(sidecar.folder / "data")
    return await _compared(store_url, server, witness.read_text(), metrics)


def _has_begun(witness: Path) -> bool:
    return witness.exists() and witness.stat().st_size > 0


def _hook(sidecar: Real) -> None:
    with urllib.request.urlopen(f"http://{LOOPBACK}:{sidecar.admin_port}/drain", timeout=5):
        pass


def _metrics(sidecar: Real) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(sidecar.metrics().decode())
        for sample in family.samples
    }


async def _compared(
    store_url: str, server: S3Server, said: str, metrics: dict[str, float]
) -> Found:
    """The newest of each run that was acknowledged must be there, and what it was."""
    lines = [line.split() for line in said.splitlines()]
    newest = {run: (int(step), digest) for run, step, digest in lines}
    store = open_store(store_url, clock=SystemClock(), environ=server.env)
    lost = []
    try:
        for run, (step, digest) in newest.items():
            found = await read_run(store, run, bytes_max=STATE_BYTES_MAX)
            state: dict[str, Any] = {"step": 0, "data": b""}
            if found is not None and found.log.state.step:
                state = msgpack.unpackb(found.log.checkpoint_bytes)
            is_it = state["step"] > step or digest_of(state["data"]) == digest
            if state["step"] < step or not is_it:
                lost.append(f"{run}: step {step} was acknowledged, {state['step']} is there")
    finally:
        await store.close()
    return Found(len(lines), tuple(lost), metrics)


async def campaign(name: str, server: S3Server, *, rounds: int, seed: int) -> list[Found]:
    """Rounds of one trial, some at once."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> Found:
        async with places:
            await asyncio.sleep(number % AT_ONCE / AT_ONCE)  # starts cost time of the processor
            with tempfile.TemporaryDirectory(prefix="cck-") as folder:
                found = await run_round(TRIALS[name], server, Path(folder), seed=number)
            print(f"{name} {number}: {found}", *found.lost, sep="\n  ", flush=True)
            return found

    return list(await asyncio.gather(*(one(seed + number) for number in range(rounds))))


def main() -> int:
    parser = argparse.ArgumentParser("tests.e2e.flush", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=tuple(TRIALS), action="append")
    options = parser.parse_args()
    end_in_order()
    is_kept = True
    with ministack() as server:
        for name in options.only or TRIALS:
            rounds = asyncio.run(campaign(name, server, rounds=options.rounds, seed=options.seed))
            bad = sum(bool(found.lost) for found in rounds)
            told = sum(found.value("flush_budget_warnings_total") > 0 for found in rounds)
            print(f"{name}: {len(rounds) - bad} of {len(rounds)} lost nothing, {told} were warned")
            is_kept &= (bad == told == len(rounds)) if name == "warn" else not bad
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
