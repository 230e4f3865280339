"""`coatcheck doctor -f`, as a command; what it finds is in tests/core/test_doctor*.py."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from coatcheck_sidecar.cli.group import cli
from tests.core.doctoring import AGENT, agent, well


def deployment(template: dict[str, Any], name: str = "agents") -> dict[str, Any]:
    spec = {"selector": {}, "template": template}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ill = well()
    agent(ill).pop("volumeMounts")
    (tmp_path / "well.yaml").write_text(yaml.safe_dump(deployment(well())))
    documents = [deployment(well()), {"kind": "Service"}, deployment(ill, "ill")]
    (tmp_path / "ill.yaml").write_text(yaml.safe_dump_all(documents))
    return tmp_path


def ask(*args: str, status: int, text: str | None = None) -> Result:
    result = CliRunner().invoke(cli, ["doctor", *args], input=text)
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


def test_a_manifest_that_is_well(folder: Path) -> None:
    output = ask("-f", str(folder / "well.yaml"), status=0).stdout
    assert "deployment/agents" in output
    assert "Kubernetes 1.29" in output


def test_errors_make_the_status(folder: Path) -> None:
    output = ask("-f", str(folder / "ill.yaml"), status=1).stdout
    assert "error    container agent looks for the socket" in output
    assert "-> mount volume coatcheck-run" in output
    told = json.loads(ask("-f", str(folder / "ill.yaml"), "--json", status=1).stdout)
    assert told["errors"] == 1
    assert [p["name"].rpartition(" ")[2] for p in told["patients"]] == [
        "deployment/agents", "deployment/ill",
    ]  # fmt: skip
    (worst, _) = told["patients"][1]["findings"]
    assert (worst["severity"], worst["code"]) == ("error", "socket-not-shared")
    assert worst["why"]
    assert worst["mend"]


def test_a_pod_as_the_cluster_has_it_is_looked_at_as_it_is() -> None:
    pod = {"kind": "Pod", **copy.deepcopy(AGENT)}
    pod["metadata"]["annotations"]["coatcheck.dev/inject"] = "true"
    assert "warning" in ask("-f", "-", status=0, text=yaml.safe_dump(pod)).stdout
    pod["spec"]["nodeName"] = "node-1"
    assert "error" in ask("-f", "-", status=1, text=yaml.safe_dump(pod)).stdout


@pytest.mark.parametrize("text", ["{", "kind: Service", "- 1"])
def test_what_is_no_manifest(text: str) -> None:
    assert "Error: -:" in ask("-f", "-", status=65, text=text).stderr


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    ask("-f", str(tmp_path / "x.yaml"), status=65)


def test_the_document_has_every_code() -> None:
    root = Path(__file__).parent.parent.parent
    sources = root / "sidecar" / "coatcheck_sidecar"
    made = re.compile(r"(?:error|warning|info|found)\(\s*\"([a-z][a-z0-9.-]+)\"")
    files = [*sources.glob("core/doctor*.py"), *sources.glob("cli/doctor*.py")]
    codes = {code for path in files for code in made.findall(path.read_text())}
    assert len(codes) > 40
    named = set(re.findall(r"`([a-z][a-z0-9.-]+)`", (root / "docs" / "doctor.md").read_text()))
    assert codes <= named
