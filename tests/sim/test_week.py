"""A week of a run's life, in seconds."""

import os
import subprocess
import sys

import pytest

from tests.sim.__main__ import HASH_SEED
from tests.sim.test_sim import ROOT


@pytest.mark.timeout(180)
def test_a_parked_run_outlasts_three_deploys_and_a_week_but_not_its_deadline() -> None:
    paths = [str(ROOT / "client"), str(ROOT / "sidecar"), str(ROOT)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": HASH_SEED}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.sim.week", scenario, seed], env=env, cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for scenario, seed in (("parked", "1"), ("late", "3"))
    ]  # fmt: skip
    for program in running:
        told, _ = program.communicate()
        assert program.returncode == 0, told
