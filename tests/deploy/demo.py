"""The demo under a real Prometheus, and every panel's query on what it scraped.

`python -m tests.deploy.demo --png docs/dashboard.png` draws them all into one picture.
"""

import argparse
import contextlib
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from examples.demo.processes import ROOT, end_in_order, environment
from tests.deploy.panels import DASHBOARDS, Dashboard, Panel, Target
from tests.deploy.prometheus_server import Prometheus, Series, prometheus

RATE_S: Final = 10
"""For `$__rate_interval`: ten scrapes."""
STEP_S: Final = 1.0
EXTRA_S: Final = 300.0
"""A demo ends by itself; on a machine that is busy it takes longer."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A demo that is over, and the Prometheus that watched it."""

    server: Prometheus
    from_s: float
    to_s: float

    def ask(self, target: Target) -> list[Series]:
        """What the panel draws; points that are no number are left out, and so are empty lines."""
        seconds = math.ceil(self.to_s - self.from_s)
        expr = target.expr
        for name, text in (
            ("$__rate_interval", f"{RATE_S}s"),
            ("$__range", f"{seconds}s"),
            ("$namespace", ".*"),
            ("$pod", ".*"),
        ):
            expr = expr.replace(name, text)
        found = self.server.over_time(expr, from_s=self.from_s, to_s=self.to_s, step_s=STEP_S)
        kept = [
            Series(series.labels, [(at, v) for at, v in series.points if math.isfinite(v)])
            for series in found
        ]
        return [series for series in kept if series.points]

    def panel(self, panel: Panel) -> list[tuple[Target, list[Series]]]:
        """Each target's lines."""
        return [(target, self.ask(target)) for target in panel.targets]


@contextlib.contextmanager
def watched_demo(folder: Path, *args: str, seconds: float) -> Iterator[Watched]:
    """Runs the demo to its end. Raises `AssertionError` with what it said, if it fails."""
    with prometheus(folder) as server:
        from_s = time.time()
        demo = subprocess.run(
            [
                *(sys.executable, "-m", "examples.demo", "--seconds", str(seconds), *args),
                *("--scrape-targets", str(server.targets)),
            ],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a terminal may stop what is in the background
            capture_output=True,
            text=True,
            timeout=seconds * 4 + EXTRA_S,
            check=False,
        )
        assert demo.returncode == 0, demo.stdout + demo.stderr
        to_s = time.time()
        seen = server.over_time("up == 1", from_s=from_s, to_s=to_s, step_s=STEP_S)
        yield Watched(server, min(series.points[0][0] for series in seen), to_s)


def empty_panels(watched: Watched, dashboard: Dashboard) -> list[str]:
    """Panels of which a query returned nothing."""
    return [
        f"{dashboard.name}: {panel.title}: {target.expr}"
        for panel in dashboard.panels
        for target, found in watched.panel(panel)
        if not found
    ]


def main() -> int:
    parser = argparse.ArgumentParser("tests.deploy.demo", description=__doc__)
    parser.add_argument("--png", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", default="7")
    options = parser.parse_args()
    from tests.deploy.charts import draw

    end_in_order()
    with (
        tempfile.TemporaryDirectory(prefix="coatcheck-") as folder,
        watched_demo(Path(folder), "--seed", options.seed, seconds=options.seconds) as watched,
    ):
        empty = [line for board in DASHBOARDS for line in empty_panels(watched, board)]
        draw(watched, options.png)
    print(f"{options.png}: {options.png.stat().st_size // 1024} KiB")
    for line in empty:
        print(f"no data: {line}")
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
