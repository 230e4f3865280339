from decimal import Decimal
from typing import Any

import pytest

from coatcheck_sidecar.core.inject_choice import Refused
from coatcheck_sidecar.core.inject_edits import Draft
from coatcheck_sidecar.core.inject_pod import (
    Pod,
    agents_of,
    check,
    is_guaranteed,
    limits_storage,
    place_of_sidecar,
    plain_proxies,
    quantity,
    read_pod,
)


def pod(*names: str, annotations: Any = None, **spec: Any) -> Pod:
    containers = [{"name": name} for name in names or ("agent",)]
    given = {"containers": containers, **spec}
    return read_pod(Draft({"metadata": {"annotations": annotations}, "spec": given}))


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ({}, "no container"),
        ({"spec": None}, "no container"),
        ({"spec": {"containers": []}}, "no container"),
        ({"spec": []}, "spec is"),
        ({"spec": {"containers": {}}}, "spec.containers is {}, not a list"),
        ({"spec": {"containers": ["agent"]}}, "not a list of maps"),
        ({"spec": {"containers": [{"image": "x"}]}}, r"containers\[0\] has no name"),
        ({"spec": {"containers": [{"name": "a", "env": {"A": 1}}]}}, r"\[0\].env is"),
        ({"spec": {"containers": [{"name": "a", "lifecycle": []}]}}, "lifecycle is"),
        ({"spec": {"containers": [{"name": "a", "lifecycle": {"preStop": 1}}]}}, "preStop is 1"),
        ({"spec": {"containers": [{"name": "a", "resources": {"limits": 1}}]}}, "limits is 1"),
        ({"spec": {"containers": [{"name": "a"}], "initContainers": 1}}, "initContainers is 1"),
        ({"spec": {"containers": [{"name": "a"}], "volumes": "x"}}, "volumes is 'x'"),
        ({"spec": {"containers": [{"name": "a"}], "securityContext": 1}}, "securityContext is 1"),
        ({"spec": {"containers": [{"name": "a"}]}, "metadata": 1}, "metadata is 1"),
        ({"spec": {"containers": [{"name": "a"}], "terminationGracePeriodSeconds": "30"}}, "whole"),
        ({"spec": {"containers": [{"name": "a"}], "terminationGracePeriodSeconds": True}}, "whole"),
    ],
)
def test_what_is_no_template(template: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused, match=why):
        read_pod(Draft(template))


def test_the_grace() -> None:
    assert pod().grace_s == 30
    assert pod(terminationGracePeriodSeconds=None).grace_s == 30
    assert pod(terminationGracePeriodSeconds=0).grace_s == 0


@pytest.mark.parametrize(
    ("chosen", "annotations", "agents"),
    [
        ((), None, ["only"]),
        (("b", "a"), {"coatcheck.dev/containers": "c"}, ["a", "b"]),
        ((), {"coatcheck.dev/containers": " c, a "}, ["a", "c"]),
        ((), {"kubectl.kubernetes.io/default-container": "b"}, ["b"]),
        ((), {"kubectl.kubernetes.io/default-container": "gone"}, "which of a, b, c"),
        ((), None, "which of a, b, c"),
        (("d",), None, "no container d; there is a, b, c"),
    ],
)
def test_who_is_an_agent(chosen: tuple[str, ...], annotations: Any, agents: Any) -> None:
    names = ("only", "istio-proxy") if agents == ["only"] else ("a", "b", "c")
    found = pod(*names, annotations=annotations)
    if isinstance(agents, str):
        with pytest.raises(Refused, match=agents):
            agents_of(found, chosen)
    else:
        assert [names[place] for place in agents_of(found, chosen)] == agents


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"os": {"name": "windows"}}, "windows"),
        ({"nodeSelector": {"kubernetes.io/os": "windows"}}, "windows"),
        ({"nodeSelector": {"beta.kubernetes.io/os": "windows"}}, "windows"),
        ({"securityContext": {"windowsOptions": {}}}, "windows"),
        ({"os": {"name": "linux"}}, ""),
        ({"nodeSelector": {"kubernetes.io/os": "linux"}}, ""),
        ({"hostNetwork": True}, "host-network"),
        ({"hostNetwork": False}, ""),
        ({"restartPolicy": "Never"}, "plain-job"),
        ({"restartPolicy": "OnFailure"}, "plain-job"),
        ({"restartPolicy": "Always"}, ""),
    ],
)
def test_where_it_cannot_work(spec: dict[str, Any], code: str) -> None:
    if not code:
        check(pod(**spec), is_plain=True)
        return
    with pytest.raises(Refused) as caught:
        check(pod(**spec), is_plain=True)
    assert caught.value.code == code
    if code == "plain-job":
        check(pod(**spec), is_plain=False)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1), (2, 2), (0.5, "0.5"), ("250m", "0.25"), ("1Gi", 2**30), ("1G", 10**9),
        ("1e3", 1000), ("1E", 10**18), ("1.5Ki", 1536), (".5", "0.5"), ("100n", "1e-7"),
        ("1u", "1e-6"), ("1Pi", 2**50), ("1e", None), ("x", None), ("", None), ("1KB", None),
        (None, None), (" 3 ", 3),
    ],
)  # fmt: skip
def test_quantities(text: Any, number: Any) -> None:
    assert quantity(text) == (None if number is None else Decimal(number))


def resources(**given: Any) -> list[dict[str, Any]]:
    return [{"name": "a", "resources": given}]


@pytest.mark.parametrize(
    ("containers", "is_so"),
    [
        (resources(limits={"cpu": 1, "memory": "1Gi"}), True),
        (resources(limits={"cpu": 1, "memory": "1Gi"}, requests={"cpu": "1000m"}), True),
        (resources(limits={"cpu": 1, "memory": "1Gi"}, requests={"cpu": "500m"}), False),
        (resources(limits={"cpu": 1}), False),
        (resources(limits={"cpu": 0, "memory": 0}), False),
        (resources(requests={"cpu": 1, "memory": "1Gi"}), False),
        ([{"name": "a"}], False),
        ([{"name": "a", "resources": None}], False),
    ],
)
def test_quality_of_service(containers: list[dict[str, Any]], is_so: bool) -> None:
    assert is_guaranteed(pod(containers=containers)) is is_so
    inits = [{"name": "i"}]
    assert not is_guaranteed(pod(containers=containers, initContainers=inits))


def test_limits_of_storage() -> None:
    assert limits_storage(pod(containers=resources(limits={"ephemeral-storage": "1Gi"})))
    assert not limits_storage(pod(containers=resources(requests={"ephemeral-storage": "1Gi"})))


def test_it_is_first_but_for_what_makes_the_network() -> None:
    def place(*names: str) -> int:
        return place_of_sidecar(pod(initContainers=[{"name": name} for name in names]))

    assert place() == 0
    assert place("migrate") == 0
    assert place("istio-init", "istio-proxy", "migrate") == 2
    assert place("migrate", "linkerd-proxy", "other") == 2


def test_proxies_that_stop_when_the_agent_does() -> None:
    assert list(plain_proxies(pod("agent", "linkerd-proxy"))) == ["linkerd-proxy"]
    assert list(plain_proxies(pod(initContainers=[{"name": "istio-proxy"}]))) == []
