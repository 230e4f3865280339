from typing import Any

import pytest

from coatcheck_sidecar.core.workloads import TEMPLATES, templates_of, workloads_of


def manifest(kind: str) -> dict[str, Any]:
    inner: dict[str, Any] = {"spec": {"containers": []}}
    for step in reversed(TEMPLATES[kind]):
        inner = {str(step): inner}
    return {"kind": kind, "metadata": {"name": "x"}, **inner}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_each_kind_has_its_template(kind: str) -> None:
    (found,) = workloads_of(manifest(kind))
    assert found.template["spec"] == {"containers": []}
    assert (found.path, str(found)) == (TEMPLATES[kind], f"{kind.lower()}/x")


@pytest.mark.parametrize(
    "document",
    [
        None, [], "x", {}, {"kind": "Service", "spec": {"template": {}}}, {"kind": "Deployment"},
        {"kind": "Deployment", "spec": None}, {"kind": "Job", "spec": {"template": []}},
        {"kind": "List", "items": None}, {"kind": "List", "items": [None, 1]}, {"kind": 3},
    ],
)  # fmt: skip
def test_what_has_none(document: object) -> None:
    assert templates_of(document) == []


def test_lists() -> None:
    job = manifest("Job")
    inner = {"kind": "List", "items": [job, {"kind": "Service"}]}
    found = templates_of({"kind": "List", "items": [inner, manifest("Pod")]})
    assert [path for path, _ in found] == [
        ("items", 0, "items", 0, "spec", "template"),
        ("items", 1),
    ]


def test_a_list_of_one_kind_names_it_once() -> None:
    deployment = manifest("Deployment")
    del deployment["kind"]
    (found,) = workloads_of({"kind": "DeploymentList", "items": [deployment]})
    assert str(found) == "deployment/x"


def test_lists_without_an_end() -> None:
    document = manifest("Pod")
    for _ in range(50):
        document = {"kind": "List", "items": [document]}
    assert templates_of(document) == []


def test_a_workload_without_a_name() -> None:
    cases: tuple[Any, ...] = (None, [], {}, {"generateName": "x-"})
    for metadata in cases:
        (found,) = workloads_of({"kind": "Pod", "metadata": metadata})
        assert str(found) == "pod/(no name)"
