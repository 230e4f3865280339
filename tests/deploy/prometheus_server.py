"""A real Prometheus on loopback, that scrapes what a file names and judges our rules."""

import contextlib
import json
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from examples.demo.processes import LOOPBACK, Child, free_ports
from tests.deploy.rules import RULES

BINARY: Final = shutil.which("prometheus")
NO_BINARY: Final = "there is no prometheus: `make packages` as root on Debian installs it"
READY_S: Final = 20.0
LOOK_S: Final = 0.2
SCRAPE_S: Final = 1
"""A demo of a minute has as many points as an hour in a cluster."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart: its labels, and (time, value)."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that runs; `targets` is what it scrapes, as `file_sd_configs` has it."""

    url: str
    targets: Path

    def ask(self, path: str, **query: str | float) -> Any:
        """`data` of an answer; raises `AssertionError` with what it says instead."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - loopback
                told = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from error
        assert told["status"] == "success", told
        return told["data"]

    def now(self, expr: str) -> list[Series]:
        """An instant query."""
        return [
            Series(found["metric"], [(float(found["value"][0]), float(found["value"][1]))])
            for found in self.ask("query", query=expr)["result"]
        ]

    def over_time(self, expr: str, *, from_s: float, to_s: float, step_s: float) -> list[Series]:
        """A range query."""
        told = self.ask("query_range", query=expr, start=from_s, end=to_s, step=step_s)
        return [
            Series(found["metric"], [(float(at), float(value)) for at, value in found["values"]])
            for found in told["result"]
        ]


@contextlib.contextmanager
def prometheus(folder: Path) -> Iterator[Prometheus]:
    """Runs until the block is over; all its data lies in `folder`."""
    assert BINARY is not None
    targets = folder / "targets.json"
    targets.write_text("[]")
    every = f"{SCRAPE_S}s"
    config = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "coatcheck",
                "file_sd_configs": [{"files": [str(targets)], "refresh_interval": every}],
            }
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    argv = [
        BINARY,
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={LOOPBACK}:{port}",
        "--log.level=warn",
    ]
    child = Child(argv, env={}, log=folder / "prometheus.log")
    try:
        wait_until_ready(f"http://{LOOPBACK}:{port}", child)
        yield Prometheus(f"http://{LOOPBACK}:{port}", targets)
    finally:
        child.kill()


def wait_until_ready(url: str, child: Child) -> None:
    until_s = time.monotonic() + READY_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=5):  # noqa: S310 - loopback
                return
        except OSError as error:
            if time.monotonic() > until_s or not child.is_alive:
                raise AssertionError(child.last_words()) from error
            time.sleep(LOOK_S)
