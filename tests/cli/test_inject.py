import io
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from coatcheck_sidecar.cli.group import cli

PODS = """\
kind: Deployment   # of the agents
metadata: {name: agents}
spec:
  template:
    spec:
      containers:
      - name: agent
        image: example/agent:1
        lifecycle: {preStop: {exec: {command: [bye]}}}
---
kind: StatefulSet
metadata: {name: redis}
spec: {template: {metadata: {annotations: {coatcheck.dev/inject: "false"}}, spec: {containers: []}}}
"""
STORE = ("--store", "s3://bucket/agents")


def run(*words: str, text: str | bytes = PODS) -> Result:
    given = text.encode() if isinstance(text, str) else text
    return CliRunner().invoke(cli, words, input=io.BytesIO(given), catch_exceptions=False)


def test_through_a_pipe_and_back() -> None:
    done = run("inject", "-f", "-", *STORE)
    assert done.exit_code == 0
    assert "warning: deployment/agents: container agent keeps its own preStop" in done.stderr
    assert "[hook-kept]" in done.stderr
    agents, redis = yaml.safe_load_all(done.stdout)
    assert agents["spec"]["template"]["spec"]["initContainers"][0]["name"] == "coatcheck"
    assert "coatcheck" not in str(redis["spec"]["template"]["spec"])
    assert run("inject", "-f", "-", *STORE, text=done.stdout).stdout == done.stdout
    back = run("uninject", "-f", "-", text=done.stdout)
    assert (back.exit_code, back.stdout, back.stderr) == (0, PODS, "")


def test_line_ends_go_through_a_real_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pods.yaml"
    path.write_bytes(PODS.replace("\n", "\r\n").encode())
    command = [sys.executable, "-m", "coatcheck"]
    put = [*command, "inject", "-f", str(path), *STORE]
    done = subprocess.run(put, capture_output=True, check=True)
    assert done.stdout.count(b"\n") == done.stdout.count(b"\r\n")
    out = [*command, "uninject", "-f", "-"]
    back = subprocess.run(out, input=done.stdout, capture_output=True, check=True)
    assert back.stdout == path.read_bytes()


def test_the_difference(tmp_path: Path) -> None:
    path = tmp_path / "pods.yaml"
    path.write_text(PODS.rstrip("\n"))
    done = run("inject", "-f", str(path), *STORE, "--diff", "--only", "Deployment/agents")
    assert done.stdout.startswith(f"--- {path}\n+++ {path}\n@@ ")
    assert "+      initContainers:\n" in done.stdout
    removed = [line for line in done.stdout.splitlines() if line.startswith("-")]
    assert removed == [f"--- {path}"]
    again = run(
        "inject", "-f", "-", *STORE, "--diff", text="kind: Pod\nspec: {containers: [{name: a}]}"
    )
    assert "\n\\ No newline at end of file\n" in again.stdout
    assert again.stdout.startswith("--- stdin\n")


def test_what_is_chosen_arrives() -> None:
    words = ("--image", "mine:2", "--grace-s", "90", "--mode", "observe", "--config", "tools",
             "--secret", "bucket", "--hook-token", "t" * 16, "--container", "agent",
             "--plain")  # fmt: skip
    done = run("inject", "-f", "-", *STORE, *words)
    spec = next(yaml.safe_load_all(done.stdout))["spec"]["template"]["spec"]
    agent, sidecar = spec["containers"]
    env = {one["name"]: one.get("value") for one in sidecar["env"]}
    assert (sidecar["image"], spec["terminationGracePeriodSeconds"]) == ("mine:2", 90)
    assert (env["COATCHECK_MODE"], env["COATCHECK_GRACE_S"]) == ("observe", "90")
    assert env["COATCHECK_HOOK_TOKEN"] == "t" * 16
    assert sidecar["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    assert [one["name"] for one in spec["volumes"]][-1] == "coatcheck-config"
    assert {"name": "COATCHECK_MODE", "value": "observe"} in agent["env"]


def test_a_refusal_writes_nothing() -> None:
    text = PODS.replace(
        "spec:\n      containers", "spec:\n      hostNetwork: true\n      containers"
    )
    done = run("inject", "-f", "-", *STORE, text=text)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "Error: deployment/agents: hostNetwork" in done.stderr
    assert "[host-network]" in done.stderr


@pytest.mark.parametrize(
    ("words", "text", "status", "why"),
    [
        (("inject", *STORE), "kind: Service\n", 1, "no workload to inject into"),
        (("inject", *STORE, "--only", "job/x"), PODS, 1, "no workload to inject into"),
        (("uninject",), PODS, 1, "nothing was injected here"),
        (("inject", *STORE), "a: [\n", 65, "is not YAML"),
        (("inject", *STORE), "a: {{ .Values.x }}\n", 65, "helm template"),
        (("uninject",), b"a: \xff\n", 65, "is not UTF-8"),
        (("inject", "--store", "bucket"), PODS, 64, "must be a URL"),
        (("inject", *STORE, "--hook-token", "short"), PODS, 64, "hook-token"),
        (("inject", *STORE, "--grace-s", "1"), PODS, 2, "grace-s"),
        (("inject",), PODS, 2, "--store"),
    ],
)
def test_what_goes_wrong(words: tuple[str, ...], text: str, status: int, why: str) -> None:
    done = run(*words, "-f", "-", text=text)
    assert (done.exit_code, done.stdout) == (status, "")
    assert why in done.stderr


def test_a_file_that_is_not_there() -> None:
    done = run("inject", "-f", "/nowhere/pods.yaml", *STORE)
    assert (done.exit_code, done.stderr) == (
        66,
        "Error: /nowhere/pods.yaml: No such file or directory\n",
    )


@pytest.mark.parametrize("command", ["inject", "uninject"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: coatcheck {command} -f" in run(command, "--help").stdout
