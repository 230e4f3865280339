"""The scaling examples ask for what is served, and their pods can be injected and are well."""

import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from coatcheck_sidecar.config import parse_address
from coatcheck_sidecar.core.doctor import examine
from coatcheck_sidecar.core.inject import inject
from coatcheck_sidecar.core.inject_choice import Choice
from coatcheck_sidecar.core.waiting import Waiting
from coatcheck_sidecar.core.workloads import workloads_of
from coatcheck_sidecar.engine.lookout import Look
from coatcheck_sidecar.servers.operations import OPERATIONS
from coatcheck_sidecar.servers.queue import looked

KEDA: Final = Path(__file__).parent.parent.parent / "deploy" / "keda"
CHOICE: Final = Choice(store="s3://example-runs/invoices", image="coatcheck:1", version="1")


def documents(name: str) -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all((KEDA / f"{name}.yaml").read_text())}


def trigger(name: str) -> dict[str, str]:
    (document,) = documents(name).values()
    (found,) = document["spec"]["triggers"]
    assert found["type"] == "metrics-api"
    metadata: dict[str, str] = found["metadata"]
    assert all(isinstance(value, str) for value in metadata.values())  # KEDA takes nothing else
    return metadata


@pytest.mark.parametrize("name", ["scaledobject", "scaledjob"])
def test_what_a_scaler_asks_for_is_served(name: str) -> None:
    asked = trigger(name)
    url = urlsplit(asked["url"])
    (operation,) = [o for o in OPERATIONS if o.id == "waitingIn"]
    assert operation.pattern.fullmatch(url.path)
    queue = url.path.rpartition("/")[2]
    told = looked(Look((Waiting(queue=queue, ready=1, owned=2, parked=4),), False), queue)
    assert told[asked["valueLocation"]] == 3
    service = documents("queue")["Service"]
    assert url.hostname == f"{service['metadata']['name']}.default.svc"
    assert url.port == service["spec"]["ports"][0]["port"]


def test_the_queue_listens_where_its_service_leads() -> None:
    found = documents("queue")
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    address = parse_address(container["args"][-1])
    assert container["args"][:2] == ["queue", "--serve"]
    assert container["ports"] == [{"name": "queue", "containerPort": address.port}]
    (port,) = found["Service"]["spec"]["ports"]
    assert port["targetPort"] == "queue"
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"].items() <= labels.items()
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    probes = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("readiness", "liveness")}
    assert probes == {"/readyz", "/livez"}


def test_the_jobs_pod_can_be_injected_and_is_well_then() -> None:
    (workload,) = workloads_of(documents("scaledjob")["ScaledJob"])
    assert [one.code for one in examine(workload.template)] == ["annotated-without-sidecar"]
    injected = inject(workload.template, CHOICE).template
    assert [one.code for one in examine(injected)] == ["needs-1.29"]


def test_plain_manifests_are_valid() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for version in ("1.29", kubernetes_validate.latest_version()):
        for document in documents("queue").values():
            kubernetes_validate.validate(document, version, strict=True)


def test_the_document_says_what_the_files_say() -> None:
    text = (KEDA.parent.parent / "docs" / "scaling.md").read_text()
    assert set(re.findall(r"deploy/keda/(\w+)\.yaml", text)) == {
        path.stem for path in KEDA.glob("*.yaml")
    }
