"""The page for operators names what there is: metrics, settings, commands, files, alerts."""

import re
from pathlib import Path
from typing import Final

import pytest
import yaml

from coatcheck_sidecar.cli.group import COMMANDS
from coatcheck_sidecar.config import SETTINGS
from coatcheck_sidecar.events import TABLE, Count
from coatcheck_sidecar.metrics import GAUGES
from tests.deploy.manifests import DEPLOY, ROOT, Document

PAGE: Final = ROOT / "docs" / "operations.md"
TEXT: Final = PAGE.read_text()
RULES: Final = DEPLOY / "prometheus"
HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
UNITS: Final = re.compile(r"`([a-z]+(?:_[a-z]+)*_(?:s|bytes_max))`")
OTHER_NAMES: Final = {
    "step_timeout_s", "wait_s", "patience_s", "deadline_s",
}  # fmt: skip
"""Not settings of the sidecar: an agent's, or a tool's."""


def metrics() -> set[str]:
    made = {f"coatcheck_{name}" for name, _, _ in GAUGES}
    for line in TABLE.values():
        for each in line.instruments:
            made.add(f"coatcheck_{each.name}" + ("_total" if isinstance(each, Count) else ""))
    told_by_hand = ("runs", "bypass_connections", "waiting_runs", "waiting_oldest_seconds")
    return made | {f"coatcheck_{name}" for name in told_by_hand}


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def alerts() -> set[str]:
    found = set()
    for path in sorted(RULES.rglob("*.y*ml")):
        for document in yaml.safe_load_all(path.read_text()):
            whole: Document = document or {}
            groups = whole.get("spec", whole).get("groups") or []
            found |= {
                rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule
            }
    return found


def test_metrics_exist() -> None:
    named = set(re.findall(r"`(coatcheck_\w+)`", TEXT))
    assert named
    assert named <= metrics(), named - metrics()


def test_settings_exist() -> None:
    named = set(UNITS.findall(TEXT)) - OTHER_NAMES
    assert {"lease_s", "heartbeat_s", "journal_bytes_max"} <= named
    assert named <= set(SETTINGS), named - set(SETTINGS)


def test_events_exist() -> None:
    named = set(re.findall(r"event `(\w+)`|log line `(\w+)`", TEXT))
    assert named
    assert {one or other for one, other in named} <= set(TABLE)


def test_commands_exist() -> None:
    named = set(re.findall(r"`coatcheck ([a-z]+)", TEXT))
    assert {"doubts", "resolve", "map"} <= named
    assert named <= set(COMMANDS), named - set(COMMANDS)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, fragment = target.partition("#")
        page = (PAGE.parent / path).resolve() if path else PAGE
        assert page.exists(), target
        if fragment:
            anchors = {anchor(heading) for heading in HEADING.findall(page.read_text())}
            assert fragment in anchors, target


@pytest.mark.skipif(not RULES.exists(), reason="there are no rules in this tree")
def test_each_alert_has_its_page_and_each_page_its_alert() -> None:
    headings = {each for each in HEADING.findall(TEXT) if each.startswith("Coatcheck")}
    assert alerts() == headings
    for path in sorted(RULES.rglob("*.y*ml")):
        for fragment in re.findall(r"operations\.md#(\S+?)[\"'\s]", path.read_text()):
            assert fragment in {anchor(heading) for heading in headings}


def test_other_pages_lead_to_sections_of_this_one() -> None:
    anchors = {anchor(heading) for heading in HEADING.findall(TEXT)}
    pages: list[Path] = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *DEPLOY.rglob("*.md")]
    for page in pages:
        for fragment in re.findall(r"operations\.md#([\w-]+)", page.read_text()):
            assert fragment in anchors, f"{page}: {fragment}"
