"""What a pod's spec says, for whoever puts a sidecar into it. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from coatcheck_sidecar.core.inject_choice import CONTAINERS, GRACE_S, Refused
from coatcheck_sidecar.core.inject_edits import Draft

DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
"""kubectl's word for the container that a pod is about."""
MESH_PROXIES: Final = frozenset({"istio-proxy", "linkerd-proxy"})
MESH_INITS: Final = MESH_PROXIES | {
    "istio-init",
    "istio-validation",
    "linkerd-init",
    "linkerd-network-validator",
}
"""Init containers of Istio and Linkerd: the pod's network is as it will be after the last one."""
QUANTITY: Final = re.compile(r"([+-]?[0-9]+(?:\.[0-9]*)?|[+-]?\.[0-9]+)([eE][+-]?[0-9]+|[A-Za-z]*)")
UNITS: Final[Mapping[str, Decimal]] = {
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("num", -3)},
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}
"""Kubernetes' suffixes of quantities: n u m, k M G T P E, Ki Mi Gi Ti Pi Ei."""


@dataclass(frozen=True, slots=True)
class Pod:
    """The parts of a template that matter, checked to have the shape that they must have."""

    spec: Mapping[str, Any]
    annotations: Mapping[str, Any]
    labels: Mapping[str, Any]
    containers: list[dict[str, Any]]
    inits: list[dict[str, Any]]

    @property
    def grace_s(self) -> int:
        """Seconds from the first hook to SIGKILL."""
        told = self.spec.get("terminationGracePeriodSeconds")
        return GRACE_S if told is None else int(told)

    @property
    def is_job(self) -> bool:
        """It is meant to end by itself."""
        return self.spec.get("restartPolicy") in ("Never", "OnFailure")


def read_pod(draft: Draft) -> Pod:
    """A template's parts. Raises `Refused` for what is no pod template."""
    spec = _map(draft.at(("spec",)), "spec")
    metadata = _map(draft.at(("metadata",)), "metadata")
    pod = Pod(
        spec,
        _map(metadata.get("annotations"), "metadata.annotations"),
        _map(metadata.get("labels"), "metadata.labels"),
        _containers(spec, "containers"),
        _containers(spec, "initContainers"),
    )
    if not pod.containers:
        raise Refused("no-containers", "spec.containers has no container: is this a pod template?")
    _map(spec.get("securityContext"), "spec.securityContext")
    _maps(spec.get("volumes"), "spec.volumes")
    grace_s = spec.get("terminationGracePeriodSeconds")
    if grace_s is not None and (isinstance(grace_s, bool) or not isinstance(grace_s, int)):
        why = f"spec.terminationGracePeriodSeconds is {grace_s!r}, not whole seconds"
        raise Refused("not-a-template", why)
    return pod


def _containers(spec: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    found = _maps(spec.get(kind), f"spec.{kind}")
    for place, container in enumerate(found):
        where = f"spec.{kind}[{place}]"
        if not isinstance(container.get("name"), str):
            raise Refused("not-a-template", f"{where} has no name")
        for part in ("env", "volumeMounts", "ports"):
            _maps(container.get(part), f"{where}.{part}")
        lifecycle = _map(container.get("lifecycle"), f"{where}.lifecycle")
        _map(lifecycle.get("preStop"), f"{where}.lifecycle.preStop")
        resources = _map(container.get("resources"), f"{where}.resources")
        for part in ("requests", "limits"):
            _map(resources.get(part), f"{where}.resources.{part}")
    return found


def _map(value: object, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused("not-a-template", f"{where} is {value!r:.40}, not a map")
    return value


def _maps(value: object, where: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Refused("not-a-template", f"{where} is {value!r:.40}, not a list of maps")
    return value


def agents_of(pod: Pod, chosen: Iterable[str]) -> list[int]:
    """Which containers are agents, as indices. Raises `Refused` if that can't be told."""
    names = [container["name"] for container in pod.containers]
    wanted = list(chosen) or _names(pod.annotations.get(CONTAINERS))
    if not wanted and pod.annotations.get(DEFAULT_CONTAINER) in names:
        wanted = [pod.annotations[DEFAULT_CONTAINER]]
    if not wanted:
        wanted = [name for name in names if name not in MESH_PROXIES]
        if len(wanted) != 1:
            raise Refused(
                "which-container",
                f"which of {', '.join(wanted)} is the agent? Name each agent by --container, or in "
                f"the template's annotation {CONTAINERS}",
            )
    if missing := [name for name in wanted if name not in names]:
        raise Refused(
            "which-container",
            f"there is no container {', '.join(missing)}; there is {', '.join(names)}",
        )
    return [place for place, name in enumerate(names) if name in wanted]


def _names(annotation: object) -> list[str]:
    return [name.strip() for name in str(annotation or "").split(",") if name.strip()]


def check(pod: Pod, *, is_plain: bool) -> None:
    """Raises `Refused` for a pod in which the sidecar can't work."""
    if _is_windows(pod):
        raise Refused("windows", "it is for Windows nodes, and coatcheck runs on Linux alone")
    if pod.spec.get("hostNetwork"):
        raise Refused(
            "host-network",
            "hostNetwork: 127.0.0.1:7070 would be the node's, open to every process on it without "
            "a password, and 7071 could be had by one pod a node. Take hostNetwork off the agent",
        )
    if is_plain and pod.is_job:
        raise Refused(
            "plain-job",
            f"restartPolicy {pod.spec['restartPolicy']}: a plain second container that goes on "
            "keeps such a pod from completing. It takes a native sidecar (Kubernetes 1.29)",
        )


def _is_windows(pod: Pod) -> bool:
    spec = pod.spec
    system = _map(spec.get("os"), "spec.os").get("name")
    selector = _map(spec.get("nodeSelector"), "spec.nodeSelector")
    labels = ("kubernetes.io/os", "beta.kubernetes.io/os")
    context = _map(spec.get("securityContext"), "spec.securityContext")
    if system is not None:
        return bool(system == "windows")
    return "windowsOptions" in context or any(selector.get(label) == "windows" for label in labels)


def quantity(value: object) -> Decimal | None:
    """A Kubernetes quantity as a number; `None` if it is none."""
    found = QUANTITY.fullmatch(str(value).strip())
    if found is None:
        return None
    number, suffix = found.groups()
    if suffix[:1] in ("e", "E") and len(suffix) > 1:
        return Decimal(number + suffix)
    return Decimal(number) * UNITS[suffix] if suffix in UNITS else None


def is_guaranteed(pod: Pod) -> bool:
    """QoS class Guaranteed: each container's requests are its limits, of CPU and memory."""
    return all(
        _same(container.get("resources") or {}, resource)
        for container in [*pod.containers, *pod.inits]
        for resource in ("cpu", "memory")
    )


def _same(resources: Mapping[str, Any], resource: str) -> bool:
    limit = quantity((resources.get("limits") or {}).get(resource))
    request = (resources.get("requests") or {}).get(resource)
    if limit is None or not limit:
        return False
    return request is None or quantity(request) == limit


def limits_storage(pod: Pod) -> bool:
    """A limit of ephemeral storage on any container counts for the whole pod's emptyDirs."""
    return any(
        "ephemeral-storage" in ((container.get("resources") or {}).get("limits") or {})
        for container in [*pod.containers, *pod.inits]
    )


def place_of_sidecar(pod: Pod) -> int:
    """Its index among the init containers: first, but after what makes the mesh's network.

    Sidecars are stopped in the reverse order: the mesh's proxy then outlives ours, which ships
    through it.
    """
    places = [place for place, one in enumerate(pod.inits) if one["name"] in MESH_INITS]
    return max(places, default=-1) + 1


def plain_proxies(pod: Pod) -> Iterator[str]:
    """Proxies of a mesh that are ordinary containers: they stop when the agent does."""
    yield from (one["name"] for one in pod.containers if one["name"] in MESH_PROXIES)
