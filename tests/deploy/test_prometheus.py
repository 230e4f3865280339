"""A real Prometheus scrapes a real sidecar, and our rules are judged on what it has."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.demo.processes import LOOPBACK
from tests.deploy.prometheus_server import BINARY, NO_BINARY, Prometheus, prometheus
from tests.e2e.real_sidecar import Real, real_sidecar

pytestmark = [
    pytest.mark.skipif(BINARY is None, reason=NO_BINARY),
    pytest.mark.timeout(90),
]
WITHIN_S = 30.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Prometheus]:
    folder = tmp_path / "prometheus"
    folder.mkdir()
    with prometheus(folder) as found:
        yield found


def scrape(server: Prometheus, real: Real) -> None:
    target = f"{LOOPBACK}:{real.admin_port}"
    labels = {"namespace": "a", "pod": "p"}
    server.targets.write_text(json.dumps([{"targets": [target], "labels": labels}]))


async def value(server: Prometheus, expr: str, *, wanted: float) -> None:
    """Until a query says so."""
    found: list[float] = []
    for _ in range(int(WITHIN_S / 0.5)):
        found = [
            point for series in await asyncio.to_thread(server.now, expr)
            for _, point in series.points
        ]  # fmt: skip
        if found == [wanted]:
            return
        await asyncio.sleep(0.5)
    raise AssertionError(f"{expr}: {found}")


async def test_a_sidecar_is_scraped_and_its_state_told(server: Prometheus, tmp_path: Path) -> None:
    async with real_sidecar(tmp_path / "pod", {}) as real:
        scrape(server, real)
        wire, _ = await real.agent("r1")
        held, _ = await real.agent("r2")
        await wire.commit(b"state")
        await held.ask("release", {"reason": "held", "error": "look"})
        await value(server, "up", wanted=1)
        await value(server, 'coatcheck_runs{status="owned", pod="p"}', wanted=1)
        await value(server, 'sum(coatcheck_commit_seconds_count{level="node"})', wanted=1)
        await value(server, 'coatcheck_runs_held_total{why="held"}', wanted=1)
        await value(server, 'coatcheck:waiting_runs:max{status="held"}', wanted=1)
        await value(server, 'count(coatcheck:waiting_runs:max{namespace="a"}) > bool 3', wanted=1)
        rules = await asyncio.to_thread(server.ask, "rules")
        told = [rule for group in rules["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in told} == {"ok"}
        waits = 'ALERTS{alertname="CoatcheckRunsHeld", alertstate="pending"}'
        await value(server, waits, wanted=1)
        await wire.drop()
        await held.drop()


async def test_prometheus_is_content_with_all_that_it_is_told(
    server: Prometheus, tmp_path: Path
) -> None:
    async with real_sidecar(tmp_path / "pod", {}) as real:
        scrape(server, real)
        await value(server, "up", wanted=1)
        (target,) = (await asyncio.to_thread(server.ask, "targets"))["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        await value(server, "coatcheck_store_reachable", wanted=1)
        await asyncio.to_thread(server.ask, "metadata")
        series = await asyncio.to_thread(server.now, 'count({pod="p", __name__=~"coatcheck_.+"})')
        assert series[0].points[0][1] < 500  # an idle sidecar's share of the scraper's memory
