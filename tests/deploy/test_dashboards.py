"""The dashboards: what Grafana needs of them, and that every query finds something."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.deploy.dashboards import COLUMNS, PLACE, written
from tests.deploy.demo import Watched, empty_panels, watched_demo
from tests.deploy.panels import DASHBOARDS, Dashboard
from tests.deploy.prometheus_server import BINARY, NO_BINARY
from tests.deploy.rules import ROOT
from tests.deploy.test_prometheus_rules import METRIC, exported

PNG = ROOT / "docs" / "dashboard.png"
PNG_BYTES_MAX = 400_000
BORN_BY_EVENT = {
    "coatcheck_bypass_connections",
    "coatcheck_drains_total",
    "coatcheck_probe_failures_total",
    "coatcheck_unprotected_total",
}
"""Their labels are not known before: a panel of these shows 0 until the first. A drain may be over
before it is scraped."""
TEXT = {"type": "string", "minLength": 1}
SOURCE = {
    "type": "object",
    "required": ["type", "uid"],
    "properties": {"type": {"const": "prometheus"}, "uid": {"const": "${datasource}"}},
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["uid", "title", "tags", "schemaVersion", "time", "templating", "panels"],
    "properties": {
        "uid": {"type": "string", "pattern": "^[a-z-]{1,40}$"},
        "title": TEXT,
        "schemaVersion": {"type": "integer", "minimum": 36},
        "time": {"type": "object", "required": ["from", "to"]},
        "templating": {
            "type": "object",
            "properties": {
                "list": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["name", "type", "query"],
                        "properties": {"type": {"enum": ["datasource", "query"]}},
                    },
                }
            },
        },
        "panels": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["id", "type", "title", "description", "gridPos", "targets"],
                "properties": {
                    "id": {"type": "integer", "minimum": 1},
                    "type": {"enum": ["stat", "timeseries"]},
                    "title": TEXT,
                    "description": TEXT,
                    "datasource": SOURCE,
                    "gridPos": {
                        "type": "object",
                        "required": ["x", "y", "w", "h"],
                        "additionalProperties": {"type": "integer", "minimum": 0},
                    },
                    "targets": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["refId", "expr", "datasource"],
                            "properties": {"expr": TEXT, "datasource": SOURCE},
                        },
                    },
                },
            },
        },
    },
}


def read(board: Dashboard) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PLACE / f"{board.name}.json").read_text())
    return found


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.name)
def test_grafana_finds_what_it_needs(board: Dashboard) -> None:
    found = read(board)
    jsonschema.validate(found, SCHEMA)
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    names = {variable["name"] for variable in found["templating"]["list"]}
    assert names == {"datasource", "namespace", "pod"}
    used = set(re.findall(r"\$\{?([a-z]+)\b", json.dumps(panels)))
    assert used <= names
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_above, (one, other)


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.name)
def test_the_files_are_what_the_panels_say(board: Dashboard) -> None:
    assert (PLACE / f"{board.name}.json").read_text() == written(board)
    for panel in board.panels:
        for target in panel.targets:
            used = set(METRIC.findall(target.expr))
            assert used <= exported(), f"{panel.title}: {used - exported()}"
            assert used or "ALERTS" in target.expr


def test_their_names_differ() -> None:
    boards = [read(board) for board in DASHBOARDS]
    assert len({board["uid"] for board in boards}) == len(boards)
    assert {path.stem for path in PLACE.glob("*.json")} == {board.name for board in DASHBOARDS}


def test_the_picture_in_the_documentation_is_small() -> None:
    assert PNG.read_bytes()[:4] == b"\x89PNG"
    assert PNG.stat().st_size < PNG_BYTES_MAX


# On what a real demo leaves behind


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder: Path = tmp_path_factory.mktemp("demo")
    with watched_demo(folder, "--seed", "7", seconds=30.0) as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(BINARY is None, reason=NO_BINARY)
def test_every_query_returns_data_after_a_demo(demo: Watched) -> None:
    assert [line for board in DASHBOARDS for line in empty_panels(demo, board)] == []
    # Not by a zero that stands in for what is missing.
    names = {
        name
        for board in DASHBOARDS
        for panel in board.panels
        for target in panel.targets
        for name in METRIC.findall(target.expr)
    }
    for name in sorted(names - BORN_BY_EVENT):
        found = demo.server.over_time(
            f'count(last_over_time({{__name__="{name}"}}[5m]))',
            from_s=demo.from_s, to_s=demo.to_s, step_s=1.0,
        )  # fmt: skip
        assert found, f"no sidecar of the demo had {name}"


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(BINARY is None, reason=NO_BINARY)
def test_a_rolling_deploy_in_good_order_raises_no_alarm_about_drains(demo: Watched) -> None:
    for alert in ("CoatcheckDrainHookMissed", "CoatcheckDrainCut", "CoatcheckFault"):
        found = demo.server.over_time(
            f'ALERTS{{alertname="{alert}"}}', from_s=demo.from_s, to_s=demo.to_s, step_s=1.0
        )
        assert not found, f"{alert} in a demo that ended well"
