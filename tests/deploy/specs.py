"""The set of real-looking specs, and what is to become of each."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from coatcheck_sidecar.core.inject_choice import ANNOTATION, Choice
from coatcheck_sidecar.core.workloads import Workload

FOLDER: Final = Path(__file__).parent / "specs"


@dataclass(frozen=True)
class Case:
    """A spec, how it is injected, and what is said of it."""

    options: dict[str, Any] = field(default_factory=dict)
    findings: frozenset[str] = frozenset()
    refused: str = ""
    is_yaml: bool = True
    workloads: int = 1


def found(*codes: str, **options: Any) -> Case:
    return Case(options, frozenset(codes))


CASES: Final = {
    "anchored-template.yaml": Case(refused="alias", workloads=2),
    "anchors.yaml": Case(),
    "block-scalars.yaml": Case(),
    "bom.yaml": Case(),
    "by-hand.yaml": Case(refused="taken"),
    "crlf.yaml": Case(),
    "cronjob.yaml": Case(),
    "default-container.yaml": Case(),
    "deployment-indented.yaml": Case(),
    "deployment.yaml": Case(),
    "flow.yaml": found("hook-sleeps"),
    "from-cluster.yaml": Case(),
    "grace-long.yaml": found("grace-long"),
    "guaranteed.yaml": Case(),
    "helm.yaml": Case(),
    "hook-own.yaml": found("hook-kept"),
    "hook-sleeps-long.yaml": found("hook-sleeps", "sleep-long"),
    "hook-sleeps.yaml": found("hook-sleeps"),
    "host-network.yaml": Case(refused="host-network"),
    "host-pid.yaml": found("processes-shared", "grace-short"),
    "init-containers.yaml": found(config_map="tools", secret="bucket"),
    "istio-native.yaml": Case(),
    "istio.yaml": Case(),
    "job.yaml": found("grace-long", grace_s=900),
    "key-twice.yaml": Case(is_yaml=False),
    "linkerd-plain.yaml": found("mesh-stops-first"),
    "list.json": Case(findings=frozenset({"hook-sleeps"}), workloads=2),
    "list.yaml": Case(workloads=2),
    "merges.yaml": Case(),
    "no-newline.yaml": Case(),
    "own-environment.yaml": found("environment-kept"),
    "pod-resources.yaml": found("pod-resources"),
    "pod.yaml": found("plain", is_plain=True),
    "port-taken.yaml": Case(refused="taken"),
    "replicaset.yaml": Case({"hook_token": "0123456789abcdef"}),
    "restricted.yaml": Case(),
    "rollout.yaml": Case(),
    "scaled-job.yaml": Case(),
    "stack.yaml": Case(),
    "statefulset.yaml": Case({"grace_s": 300}),
    "storage-limits.yaml": Case(),
    "tabs.yaml": Case(),
    "template.yaml": Case(is_yaml=False),
    "two-agents.yaml": found("hook-sleeps", containers=("planner", "worker")),
    "windows-selector.yaml": Case(refused="windows"),
    "windows.yaml": Case(refused="windows"),
}
INJECTABLE: Final = sorted(n for n, case in CASES.items() if case.is_yaml and not case.refused)


def text_of(name: str) -> str:
    return (FOLDER / name).read_bytes().decode()


def choice(**options: Any) -> Choice:
    given = {"store": "s3://bucket/agents", "image": "coatcheck/coatcheck:1.0.0"}
    return Choice(**{**given, "version": "1.0.0", **options})


def choice_for(name: str) -> Choice:
    return choice(**CASES[name].options)


def meant(workload: Workload) -> bool:
    annotations = (workload.template.get("metadata") or {}).get("annotations") or {}
    return bool(annotations.get(ANNOTATION) != "false")
