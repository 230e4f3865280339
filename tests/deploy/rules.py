"""The rules as the Prometheus Operator takes them: `python -m tests.deploy.rules` writes them."""

from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parent.parent.parent
PLACE: Final = ROOT / "deploy" / "prometheus"
RULES: Final = PLACE / "rules.yaml"
OPERATED: Final = PLACE / "prometheusrule.yaml"
CASES: Final = Path(__file__).parent / "prometheus" / "rules_test.yaml"
HEAD: Final = """\
# rules.yaml for the Prometheus Operator; written by `python -m tests.deploy.rules`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: coatcheck
  labels:
    app.kubernetes.io/name: coatcheck
spec:
"""


def groups() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return found


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """By name; `kind` is `alert` or `record`."""
    return {rule[kind]: rule for group in groups() for rule in group["rules"] if kind in rule}


def operated() -> str:
    """What `OPERATED` should hold."""
    _, mark, body = RULES.read_text().partition("groups:\n")
    return HEAD + "".join(
        f"  {line}" if line.strip() else line for line in (mark + body).splitlines(True)
    )


if __name__ == "__main__":
    OPERATED.write_text(operated())
