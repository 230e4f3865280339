"""What users copy from `deploy/` is what the API server, the sidecar and the kubelet take."""

import copy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import botocore.session
import botocore.validate
import kubernetes_validate
import pytest
import yaml

from coatcheck_sidecar.config import load_config
from coatcheck_sidecar.core.inject import inject
from coatcheck_sidecar.core.inject_choice import Choice
from coatcheck_sidecar.core.inject_pod import quantity
from coatcheck_sidecar.core.platforms import PLATFORMS
from tests.deploy.manifests import (
    EXAMPLES,
    OVERLAY,
    ROOT,
    WEBHOOK,
    WORKLOADS,
    Document,
    bare,
    build,
    containers,
    documents,
    environ,
    one,
    templates,
)
from tests.deploy.restricted import violations

VERSIONS: Final = ("1.29", "1.33", kubernetes_validate.latest_version())
FOREIGN: Final = ("cert-manager.io/v1",)
"""Kinds of others, whose schemas no Kubernetes release holds."""
SETS: Final[Mapping[str, Callable[[], list[Document]]]] = {
    **{name: lambda name=name: documents(EXAMPLES / f"{name}.yaml") for name in WORKLOADS},  # type: ignore[misc]
    "s3-irsa": lambda: build(OVERLAY),
    "webhook": lambda: build(WEBHOOK / "ignore"),
    "webhook-fail": lambda: build(WEBHOOK / "fail"),
}
AGENTS: Final = (*WORKLOADS, "s3-irsa")
GRACE_S_OF_AUTOSCALERS: Final = 600


def agent_template(name: str) -> Document:
    ((_, template),) = templates(SETS[name]())
    return template


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", SETS)
def test_each_document_is_valid(name: str, version: str) -> None:
    for document in SETS[name]():
        if document["apiVersion"] in FOREIGN:
            continue
        said = kubernetes_validate.validate(document, version, strict=True)
        assert said == ".".join(version.split(".")[:2])


def test_the_validator_sees_a_slip() -> None:
    document = copy.deepcopy(one(SETS["deployment"](), "Deployment"))
    document["spec"]["template"]["spec"]["initContainers"][0]["lifecycle"]["preStpo"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="preStpo"):
        kubernetes_validate.validate(document, VERSIONS[0], strict=True)


@pytest.mark.parametrize("name", SETS)
def test_the_restricted_profile_is_met(name: str) -> None:
    found = {who: violations(template) for who, template in templates(SETS[name]())}
    assert found
    assert not any(found.values()), found


def broken(change: Callable[[Document, Document], object]) -> list[str]:
    """What the rules say once the pod and its agent were changed."""
    template = copy.deepcopy(agent_template("deployment"))
    change(template["spec"], containers(template)["agent"])
    return violations(template)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("hostNetwork", lambda pod, _: pod.update(hostNetwork=True)),
        ("hostPath", lambda pod, _: pod["volumes"].append({"name": "x", "hostPath": {}})),
        ("sysctls", lambda pod, _: pod["securityContext"].update(sysctls=[{"name": "kernel.x"}])),
        ("runAsUser", lambda pod, _: pod["securityContext"].update(runAsUser=0)),
        ("seccompProfile", lambda pod, _: pod["securityContext"].pop("seccompProfile")),
        ("privileged", lambda _, agent: agent["securityContext"].update(privileged=True)),
        ("procMount", lambda _, agent: agent["securityContext"].update(procMount="Unmasked")),
        ("hostPort", lambda _, agent: agent.update(ports=[{"containerPort": 1, "hostPort": 1}])),
        (
            "host:",
            lambda _, agent: agent["lifecycle"]["preStop"]["httpGet"].update(host="10.0.0.1"),
        ),
        ("drop", lambda _, agent: agent["securityContext"]["capabilities"].update(drop=["CHOWN"])),
        ("add", lambda _, agent: agent["securityContext"]["capabilities"].update(add=["CHOWN"])),
        (
            "allowPrivilegeEscalation",
            lambda _, agent: agent["securityContext"].pop("allowPrivilegeEscalation"),
        ),
        (
            "appArmorProfile",
            lambda _, agent: agent["securityContext"].update(
                appArmorProfile={"type": "Unconfined"}
            ),
        ),
        (
            "seLinuxOptions",
            lambda _, agent: agent["securityContext"].update(seLinuxOptions={"user": "root"}),
        ),
        (
            "hostProcess",
            lambda pod, _: pod["securityContext"].update(windowsOptions={"hostProcess": True}),
        ),
    ],
)
def test_the_rules_of_the_profile_bite(
    field: str, change: Callable[[Document, Document], object]
) -> None:
    found = broken(change)
    assert found
    assert all(field in text for text in found), found


def test_it_needs_a_user_that_is_not_root() -> None:
    def change(pod: Document, agent: Document) -> None:
        del pod["securityContext"]["runAsNonRoot"], agent["securityContext"]["runAsNonRoot"]

    (text,) = broken(change)
    assert "runAsNonRoot" in text


@pytest.mark.parametrize("name", AGENTS)
def test_the_sidecar_starts_with_these_settings_and_the_grace_is_said_twice_alike(
    name: str,
) -> None:
    template = agent_template(name)
    sidecar = containers(template)["coatcheck"]
    said = environ(sidecar)
    for reference in sidecar.get("envFrom", []):
        (data,) = [
            each["data"]
            for each in SETS[name]()
            if each["kind"] == "ConfigMap"
            and each["metadata"]["name"] == reference["configMapRef"]["name"]
        ]
        said = {**data, **said}
    config = load_config({}, environ=said)
    grace_s = template["spec"]["terminationGracePeriodSeconds"]
    assert config.grace_s == grace_s <= GRACE_S_OF_AUTOSCALERS
    assert config.store.startswith("s3://")
    volumes = {each["name"]: each["emptyDir"] for each in template["spec"]["volumes"]}
    assert config.data_bytes_max == quantity(volumes["coatcheck-data"]["sizeLimit"])
    assert not any("medium" in each for each in volumes.values())  # `node` would be a lie in memory
    assert str(config.admin_listen) == "10.1.2.3:7071"
    assert config.pod_uid == "uid-1"
    mounts = {each["name"]: each["mountPath"] for each in sidecar["volumeMounts"]}
    assert mounts["coatcheck-run"] == str(config.socket.parent)
    assert mounts["coatcheck-data"] == str(config.data)


@pytest.mark.parametrize("name", AGENTS)
def test_hooks_probes_and_the_socket_of_both_sides(name: str) -> None:
    template = agent_template(name)
    parts = containers(template)
    sidecar, agent = parts["coatcheck"], parts["agent"]
    assert sidecar["restartPolicy"] == "Always"
    assert template["spec"]["initContainers"][0] is sidecar
    assert sidecar["lifecycle"]["preStop"]["httpGet"] == {"path": "/drain", "port": 7071}
    # A port's name is looked up among the container's own: the agent's hook needs the number.
    assert agent["lifecycle"]["preStop"]["httpGet"] == {"path": "/drain/barrier", "port": 7071}
    assert sidecar["ports"] == [{"name": "coatcheck", "containerPort": 7071}]
    probes = ("startupProbe", "livenessProbe", "readinessProbe")
    assert [sidecar[each]["httpGet"]["path"] for each in probes] == [
        "/startupz",
        "/livez",
        "/readyz",
    ]
    mounts = {each["name"]: each["mountPath"] for each in agent["volumeMounts"]}
    assert mounts["coatcheck-run"] == "/run/coatcheck"
    assert "coatcheck-data" not in mounts
    assert environ(agent)["COATCHECK_SOCKET"] == "/run/coatcheck/agent.sock"
    assert template["spec"]["securityContext"]["supplementalGroups"] == [65532]
    assert "fsGroup" not in template["spec"]["securityContext"]
    users = {each["securityContext"]["runAsUser"] for each in parts.values()}
    assert users == {65532, 10001}
    assert template["spec"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", WORKLOADS)
def test_an_example_is_what_inject_makes_of_its_agent(name: str) -> None:
    example = agent_template(name)
    sidecar = containers(example)["coatcheck"]
    said = environ(sidecar)
    choice = Choice(store=said["COATCHECK_STORE"], image=sidecar["image"], version="0.1.0")
    made = inject(bare(example), choice)
    assert not made.findings
    theirs = containers(made.template)["coatcheck"]
    made_config = load_config({}, environ=environ(theirs))
    config = load_config({}, environ=said)
    assert replace(config, address="") == made_config
    ours = {part: sidecar[part] for part in sidecar if part != "env"}
    assert ours == {part: theirs[part] for part in theirs if part != "env"}
    assert example["spec"]["volumes"] == made.template["spec"]["volumes"]
    assert example["spec"]["securityContext"] == made.template["spec"]["securityContext"]
    agent, theirs = containers(example)["agent"], containers(made.template)["agent"]
    for part in ("lifecycle", "volumeMounts"):
        assert agent[part] == theirs[part]
    annotations = made.template["metadata"]["annotations"]
    told = dict(example["metadata"]["annotations"])
    assert told.pop("eks.amazonaws.com/skip-containers") == "agent"  # of their cloud, not of inject
    assert told.items() <= annotations.items()


@pytest.mark.parametrize("name", AGENTS)
def test_the_admin_port_is_for_the_scraper_and_the_pods_are_the_policys(name: str) -> None:
    policy = one(SETS[name](), "NetworkPolicy")["spec"]
    labels = agent_template(name)["metadata"]["labels"].items()
    assert policy["podSelector"]["matchLabels"].items() <= labels
    assert policy["policyTypes"] == ["Ingress"]
    first, *others = policy["ingress"]
    assert first["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    ]
    assert first["ports"] == [{"protocol": "TCP", "port": 7071}]
    open_to_all = [port for rule in others for port in rule["ports"] if port["protocol"] == "TCP"]
    for port in open_to_all:
        assert not port["port"] <= 7071 <= port.get("endPort", port["port"])


@pytest.mark.parametrize("name", [name for name in AGENTS if name != "job"])
def test_one_pod_at_a_time_is_disrupted(name: str) -> None:
    budget = one(SETS[name](), "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    labels = agent_template(name)["metadata"]["labels"].items()
    assert budget["selector"]["matchLabels"].items() <= labels


@pytest.mark.parametrize("name", SETS)
def test_nothing_may_ask_the_api_server(name: str) -> None:
    for document in SETS[name]():
        assert "Role" not in document["kind"]
        if document["kind"] == "ServiceAccount":
            assert document["automountServiceAccountToken"] is False


def test_the_role_of_the_bucket_is_kept_from_the_agent() -> None:
    template = agent_template("s3-irsa")
    assert template["metadata"]["annotations"]["eks.amazonaws.com/skip-containers"] == "agent"
    account = one(SETS["s3-irsa"](), "ServiceAccount")
    assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]
    assert account["metadata"]["name"] == template["spec"]["serviceAccountName"]


def test_compose_is_the_same_pod_on_one_machine() -> None:
    services = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())["services"]
    sidecar, agent = services["coatcheck"], services["agent"]
    said = {
        name: re.sub(r"\$\{.*\}", "s3://b", text) for name, text in sidecar["environment"].items()
    }
    config = load_config({}, environ=said)
    assert f"{config.grace_s:g}s" == sidecar["stop_grace_period"] == agent["stop_grace_period"]
    assert sidecar["user"] == "65532:65532"
    assert agent["group_add"] == ["65532"]
    assert agent["network_mode"] == "service:coatcheck"
    assert agent["depends_on"] == {"coatcheck": {"condition": "service_healthy"}}
    assert agent["environment"]["COATCHECK_SOCKET"] == str(config.socket)
    assert (
        f"run:{config.socket.parent}"
        in sidecar["volumes"]
        == [
            "run:/run/coatcheck",
            f"data:{config.data}",
        ]
    )
    assert agent["volumes"] == ["run:/run/coatcheck"]


def test_agentcore_takes_the_request_and_the_image_answers_its_ping() -> None:
    request = json.loads((EXAMPLES / "agentcore" / "runtime.json").read_text())
    service = botocore.session.get_session().get_service_model("bedrock-agentcore-control")
    shape = service.operation_model("CreateAgentRuntime").input_shape
    report: Any = botocore.validate.ParamValidator().validate(request, shape)
    assert not report.has_errors(), report.generate_report()
    load_config({}, environ=request["environmentVariables"])
    dockerfile = (EXAMPLES / "agentcore" / "Dockerfile").read_text()
    words = json.loads(dockerfile.rpartition("ENTRYPOINT ")[2])
    assert words[words.index("--platform") + 1] in PLATFORMS
    assert {"--ping", "--"} <= set(words)


def test_the_readme_of_the_component_names_settings_that_exist() -> None:
    text = (ROOT / "deploy" / "kustomize" / "README.md").read_text()
    for url in ("file:///var/lib/coatcheck-store", "az://container/prefix", "gs://bucket/prefix"):
        assert url in text
        load_config({}, environ={"COATCHECK_STORE": url})


@pytest.mark.parametrize(
    ("name", "policy", "refused"),
    [("webhook", "Ignore", "allow"), ("webhook-fail", "Fail", "deny")],
)
def test_the_webhook_fails_as_its_variant_says(name: str, policy: str, refused: str) -> None:
    found = SETS[name]()
    (webhook,) = one(found, "MutatingWebhookConfiguration")["webhooks"]
    assert webhook["failurePolicy"] == policy
    ((_, template),) = templates(found)
    container = template["spec"]["containers"][0]
    assert f"--refused={refused}" in container["args"]
    assert webhook["matchConditions"]
    assert webhook["sideEffects"] == "None"
    assert [rule["operations"] for rule in webhook["rules"]] == [["CREATE"]]


def test_the_webhooks_service_certificate_and_server_fit() -> None:
    found = SETS["webhook"]()
    service, deployment = one(found, "Service"), one(found, "Deployment")
    (webhook,) = one(found, "MutatingWebhookConfiguration")["webhooks"]
    asked = webhook["clientConfig"]["service"]
    assert (asked["name"], asked["namespace"]) == (
        service["metadata"]["name"],
        service["metadata"]["namespace"],
    )
    assert asked["port"] == service["spec"]["ports"][0]["port"]
    template = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    container = template["spec"]["containers"][0]
    assert container["ports"] == [{"name": "https", "containerPort": 8443}]
    certificate = one(found, "Certificate")["spec"]
    assert f"{asked['name']}.{asked['namespace']}.svc" in certificate["dnsNames"]
    (volume,) = template["spec"]["volumes"]
    assert volume["secret"]["secretName"] == certificate["secretName"]
    assert volume["secret"]["defaultMode"] == 0o440
    made = one(found, "MutatingWebhookConfiguration")["metadata"]["annotations"]
    whose = f"{deployment['metadata']['namespace']}/{one(found, 'Certificate')['metadata']['name']}"
    assert made["cert-manager.io/inject-ca-from"] == whose
