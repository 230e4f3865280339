"""From nothing and back: what a scaler sees of a run that waits, is signalled, runs, and ends."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import WAIT_S, Running, environ, running
from tests.servers import LOOPBACK, free_ports

pytestmark = pytest.mark.e2e
AGENT = Path(__file__).parent / "scaling_agent.py"
QUICK = {"COATCHECK_HEARTBEAT_S": "0.5", "COATCHECK_LEASE_S": "2", "COATCHECK_CLAIM_POLL_S": "0.3"}


class Scaler:
    """Asks as KEDA's metrics-api scaler does: one number at one URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def queue(self) -> dict[str, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}/v1/queues/bills", timeout=WAIT_S) as answer:
            told: dict[str, Any] = json.load(answer)
            return told

    @property
    def wanted(self) -> int:
        return int(self.queue()["wanted"])


@pytest.fixture
def scaler(tmp_path: Path) -> Iterator[Scaler]:
    """`coatcheck queue --serve` on an empty store."""
    (tmp_path / "store").mkdir()
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "coatcheck", "queue", "--serve", f"{LOOPBACK}:{port}"]
    command += ["--every-s", "0.1", "--store", store(tmp_path)]
    with subprocess.Popen(command, env=environ(), text=True, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("listening")
        yield Scaler(f"http://{LOOPBACK}:{port}")
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0


def store(folder: Path) -> str:
    return (folder / "store").as_uri()


def coatcheck(folder: Path, *args: str) -> None:
    command = [sys.executable, "-m", "coatcheck", *args, "--store", store(folder)]
    subprocess.run(command, env=environ(), check=True, capture_output=True, timeout=WAIT_S)


def until(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def pod(folder: Path, name: str) -> Any:
    """An agent with its sidecar, on a disk of its own."""
    (folder / name).mkdir()
    agent = [sys.executable, str(AGENT), "bills"]
    return running(folder / name, ("--store", store(folder)), agent, **QUICK)


def test_a_signal_at_zero_pods_wakes_an_agent(tmp_path: Path, scaler: Scaler) -> None:
    assert scaler.wanted == 0
    coatcheck(tmp_path, "submit", "r1", "--queue", "bills")
    until(lambda: scaler.wanted == 1)
    first: Running
    with pod(tmp_path, "first") as first:
        until(lambda: bool(scaler.queue()["parked"] == 1))
        assert scaler.wanted == 0
        assert first.stop() == 0  # scaled down to nothing
    assert scaler.queue()["parked"] == 1
    coatcheck(tmp_path, "signal", "r1", "approval", "--value", '"yes"')
    until(lambda: scaler.wanted == 1)
    second: Running
    with pod(tmp_path, "second") as second:
        assert second.told("r1 was told") == "yes"
        until(lambda: bool(scaler.queue()["owned"] == 1))
        assert scaler.wanted == 1  # its agent works: a scaler must not take the pod
        until(lambda: scaler.wanted == 0)
        assert second.stop() == 0


@pytest.mark.slow
def test_a_run_whose_pod_died_is_wanted_until_another_has_it(
    tmp_path: Path, scaler: Scaler
) -> None:
    coatcheck(tmp_path, "submit", "r1", "--queue", "bills")
    coatcheck(tmp_path, "signal", "r1", "approval", "--value", "1")
    first: Running
    with pod(tmp_path, "first") as first:
        first.told("r1 was told")
        until(lambda: bool(scaler.queue()["owned"] == 1))
        first.stop(signal.SIGKILL)
    assert scaler.wanted == 1
    second: Running
    with pod(tmp_path, "second") as second:
        second.told("r1 was told")
        until(lambda: scaler.wanted == 0)
        assert second.stop() == 0
