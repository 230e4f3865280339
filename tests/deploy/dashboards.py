"""The panels as Grafana takes them: `python -m tests.deploy.dashboards` writes deploy/grafana/."""

import json
from typing import Any, Final

from tests.deploy.panels import DASHBOARDS, FIRING, Dashboard, Panel
from tests.deploy.rules import ROOT

PLACE: Final = ROOT / "deploy" / "grafana"
SCHEMA_VERSION: Final = 39
"""Grafana 11's; newer ones lift it by themselves."""
COLUMNS: Final = 24
HEIGHTS: Final = {"stat": 4, "timeseries": 8}
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
LETTERS: Final = "ABCDEFGH"


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(panel: Panel, *, id: int, x: int, y: int) -> dict[str, Any]:
    is_stat = panel.kind == "stat"
    custom = {
        "fillOpacity": 25 if panel.is_stacked else 8,
        "showPoints": "never",
        "stacking": {"mode": "normal" if panel.is_stacked else "none"},
    }
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    options: dict[str, Any] = {
        "legend": {"displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    if is_stat:
        options = {"graphMode": "area", "reduceOptions": {"calcs": ["lastNotNull"]}}
    else:
        defaults["custom"] = custom
    return {
        "id": id,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.what,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": HEIGHTS[panel.kind]},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": LETTERS[at],
                "datasource": SOURCE,
                "expr": target.expr,
                "legendFormat": target.legend or "__auto",
                "range": True,
            }
            for at, target in enumerate(panel.targets)
        ],
    }


def _placed(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    """In rows from left to right; a row is as high as its first panel."""
    placed, x, y, height = [], 0, 0, 0
    for id, panel in enumerate(panels, start=1):
        if x + panel.width > COLUMNS or (x and HEIGHTS[panel.kind] != height):
            x, y = 0, y + height
        height = HEIGHTS[panel.kind]
        placed.append(_panel(panel, id=id, x=x, y=y))
        x += panel.width
    return placed


def drawn(dashboard: Dashboard) -> dict[str, Any]:
    """Its JSON."""
    others = {
        "asDropdown": False, "icon": "external link", "includeVars": True, "keepTime": True,
        "tags": ["coatcheck"], "title": "", "type": "dashboards",
    }  # fmt: skip
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource",
              "query": "prometheus", "current": {}}  # fmt: skip
    pods = 'label_values(coatcheck_build_info{namespace=~"$namespace"}, pod)'
    alerts = {
        "name": "alerts", "enable": True, "iconColor": "red", "datasource": SOURCE,
        "expr": FIRING,
        "titleFormat": "{{alertname}}", "tagKeys": "pod,queue",
    }  # fmt: skip
    return {
        "uid": f"coatcheck-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["coatcheck"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "links": [others],
        "annotations": {"list": [alerts]},
        "templating": {
            "list": [
                source,
                _variable(
                    "namespace", "Namespace", "label_values(coatcheck_build_info, namespace)"
                ),
                _variable("pod", "Pod", pods),
            ]
        },
        "panels": _placed(dashboard.panels),
    }


def written(dashboard: Dashboard) -> str:
    """The file."""
    return json.dumps(drawn(dashboard), indent=2) + "\n"


if __name__ == "__main__":
    PLACE.mkdir(exist_ok=True)
    for each in DASHBOARDS:
        (PLACE / f"{each.name}.json").write_text(written(each))
