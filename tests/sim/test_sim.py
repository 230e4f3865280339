"""A slice of the simulation that fits a test run; `make sim` goes on from there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.__main__ import HASH_SEED

ROOT = Path(__file__).parents[2]
SEEDS = 40
WORKERS = 2


def simulate(*arguments: str) -> "subprocess.Popen[str]":
    paths = [str(ROOT / "client"), str(ROOT / "sidecar"), str(ROOT)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.sim", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": HASH_SEED},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.timeout(300)
def test_seeds_hold() -> None:
    share = SEEDS // WORKERS
    running = [
        simulate("--seeds", str(share), "--from", str(first)) for first in range(0, SEEDS, share)
    ]
    told = [worker.communicate()[0] for worker in running]
    for worker, text in zip(running, told, strict=True):
        assert worker.returncode == 0, text


@pytest.mark.timeout(60)
def test_a_seed_is_one_story() -> None:
    first, second = simulate("--seed", "7", "-v"), simulate("--seed", "7", "-v")
    told, again = (re.sub(r"in \d+ s;", "", each.communicate()[0]) for each in (first, second))
    assert "holds" in told
    assert told == again
