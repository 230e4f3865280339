"""A week of a run's life, in seconds."""

import os
import subprocess
import sys

import pytest

from tests.sim.__main__ import HASH_SEED
from tests.sim.test_sim import ROOT


def lived(scenario: str, seed: str) -> None:
    paths = [str(ROOT / "client"), str(ROOT / "sidecar"), str(ROOT)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": HASH_SEED}
    week = subprocess.run(
        [sys.executable, "-m", "tests.sim.week", scenario, seed], env=env, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert week.returncode == 0, week.stdout


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_parked_run_outlasts_three_deploys_and_a_week() -> None:
    lived("parked", "1")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_it_does_not_outlast_its_deadline() -> None:
    lived("late", "3")
