"""The demo, short: what a visitor sees first must not fail."""

import subprocess
import sys

import pytest

from examples.demo.processes import ROOT, environment


@pytest.mark.timeout(120)
def test_the_demo_ends_well() -> None:
    args = ["--seconds", "12", "--pods", "2", "--runs", "3", "--seed", "7"]
    demo = subprocess.run(
        [sys.executable, "-m", "examples.demo", *args],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "Every charge was made once." in demo.stdout
    assert "2 pods" in demo.stdout
