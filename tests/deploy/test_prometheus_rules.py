"""What deploy/prometheus/ holds: well formed, and each alert shown to fire and to be quiet."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from coatcheck_sidecar.events import TABLE, Events, Figures, Spread
from tests.deploy.rules import CASES, OPERATED, PLACE, ROOT, RULES, operated, rules

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="there is no promtool: `make packages` as root on Debian installs it"
)
ALERTS = sorted(rules("alert"))
UP = "up"
"""What Prometheus itself says of a target."""
METRIC = re.compile(r"\b(?:coatcheck|process)_[a-z_]+\b|\bup\b(?={)")
SUFFIX = re.compile(r"_(?:bucket|count|sum)$")


def promtool(*args: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    argv = [PROMTOOL, *map(str, args)]
    return subprocess.run(argv, input=text, capture_output=True, text=True, check=False)


def cases() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(CASES.read_text())["tests"]
    return found


def metrics_of(expression: str) -> set[str]:
    """What an expression needs: the sidecar's metrics, those behind recorded ones too, and `up`."""
    behind = " ".join(rule["expr"] for name, rule in rules("record").items() if name in expression)
    return set(METRIC.findall(f"{expression} {behind}"))


def exported() -> set[str]:
    """Every series of a target that is a sidecar, by the name that an expression calls it."""
    events = Events()
    metrics = events.metrics()
    metrics.watch(Figures)
    names = {sample.name for family in metrics.registry.collect() for sample in family.samples} | {
        f"{family.name}" for family in metrics.registry.collect()
    }
    for line in TABLE.values():
        for instrument in line.instruments:
            ends = ("_bucket", "_count", "_sum") if isinstance(instrument, Spread) else ("_total",)
            names |= {f"coatcheck_{instrument.name}{end}" for end in ends}
    return names | {UP}


# Alerts


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_and_is_quiet_in_a_case_of_its_own(alert: str) -> None:
    needed = metrics_of(rules("alert")[alert]["expr"])
    for what, is_firing in (("fires", True), ("is quiet", False)):
        found = [case for case in cases() if case["name"].startswith(f"{alert} {what}")]
        assert found, f"{alert}: no case in which it {what}"
        for case in found:
            fed = {series["series"].partition("{")[0] for series in case["input_series"]}
            assert fed & needed, f"{case['name']}: feeds nothing that {alert} looks at"
            (told,) = case["promql_expr_test"]
            assert bool(told["exp_samples"]) == is_firing, case["name"]


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_to_do(alert: str) -> None:
    rule = rules("alert")[alert]
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert (page, anchor) == ("docs/operations.md", alert.lower())
    runbook = ROOT / page
    if runbook.exists():
        headings = re.findall(r"^#+ +(.+)$", runbook.read_text(), flags=re.MULTILINE)
        assert alert.lower() in {re.sub(r"[^\w -]", "", head).lower() for head in headings}


@pytest.mark.parametrize("name", [*ALERTS, *sorted(rules("record"))])
def test_a_rule_asks_for_what_a_sidecar_has(name: str) -> None:
    rule = (rules("alert") | rules("record"))[name]
    assert metrics_of(rule["expr"])
    assert metrics_of(rule["expr"]) <= exported()


@needs_promtool
def test_promtool_finds_no_fault_with_the_rules(tmp_path: Path) -> None:
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert checked.returncode == 0, checked.stderr + checked.stdout
    config = yaml.safe_load((PLACE / "prometheus.yaml").read_text())
    (job,) = config["scrape_configs"]
    # Debian builds it without Kubernetes; all the rest of the file is looked at.
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "rules.yaml").write_text(RULES.read_text())
    checked = promtool("check", "config", tmp_path / "prometheus.yaml")
    assert checked.returncode == 0, checked.stderr


@needs_promtool
def test_the_cases_hold() -> None:
    told = promtool("test", "rules", CASES)
    assert told.returncode == 0, told.stderr


@needs_promtool
@pytest.mark.slow
@pytest.mark.parametrize("expression", ["vector(1) > 2", "vector(1)"], ids=["mute", "shrill"])
@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_that_is_broken_is_noticed(alert: str, expression: str, tmp_path: Path) -> None:
    broken = yaml.safe_load(RULES.read_text())
    for group in broken["groups"]:
        for rule in group["rules"]:
            if rule.get("alert") == alert:
                rule["expr"] = expression
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(broken))
    suite = yaml.safe_load(CASES.read_text())
    suite["rule_files"] = ["rules.yaml"]
    suite["tests"] = [case for case in suite["tests"] if case["name"].split()[0] == alert]
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(suite))
    assert promtool("test", "rules", tmp_path / "cases.yaml").returncode != 0


# Everything else


def test_the_operator_gets_the_same_rules() -> None:
    assert OPERATED.read_text() == operated()
    told = yaml.safe_load(OPERATED.read_text())
    assert told["kind"] == "PrometheusRule"
    assert told["spec"] == yaml.safe_load(RULES.read_text())


def test_pods_are_scraped_where_the_sidecar_listens() -> None:
    monitor = yaml.safe_load((PLACE / "podmonitor.yaml").read_text())
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("coatcheck", "/metrics")
    patch = yaml.safe_load((PLACE / "annotations.yaml").read_text())
    assert patch["spec"]["template"]["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "7071",
        "prometheus.io/path": "/metrics",
    }


@needs_promtool
def test_promtool_finds_no_fault_with_the_metrics() -> None:
    events = Events()
    metrics = events.metrics()
    metrics.watch(lambda: Figures(runs={"owned": 1}, waiting={("ready", "q"): (1, 2.0)}))
    for line in TABLE.values():
        for instrument in line.instruments:
            event = next(name for name, found in TABLE.items() if found is line)
            figures: dict[str, object] = {instrument.amount: 1} if instrument.amount else {}
            events.note(event, **figures, **dict.fromkeys(instrument.labels, "x"))
    checked = promtool("check", "metrics", text=metrics.render("")[0].decode())
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
