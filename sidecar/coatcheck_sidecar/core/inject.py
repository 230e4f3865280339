"""How a pod gets its sidecar, and how it loses it again: from a pod template to edits of it. Pure.

What else needs a template as it will be: the command edits a text, the webhook answers with a
patch, the doctor compares.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from coatcheck_sidecar.core import inject_findings as told
from coatcheck_sidecar.core.inject_choice import (
    ADMIN_PORT,
    DATA_VOLUME,
    LOOPBACK_PORT,
    RUN_PATH,
    RUN_VOLUME,
    SIDECAR,
    USER_ID,
    Choice,
    Finding,
    Refused,
)
from coatcheck_sidecar.core.inject_edits import Edit
from coatcheck_sidecar.core.inject_hooks import (
    barrier,
    barrier_cap_s,
    described,
    is_barrier,
    slept_s,
)
from coatcheck_sidecar.core.inject_parts import agent_environment, sidecar, volumes
from coatcheck_sidecar.core.inject_pod import Pod, agents_of, check, place_of_sidecar, read_pod
from coatcheck_sidecar.core.inject_record import ANNOTATION_PATH, Noted, decode, read_record, undo

__all__ = ["Choice", "Edit", "Finding", "Injection", "Refused", "inject", "is_injected", "uninject"]

LABEL_PATH: Final = ("metadata", "labels", "coatcheck.dev/sidecar")
"""By which a NetworkPolicy finds the pods; deploy/kustomize/component has one."""
GRACE_S_MIN: Final = 2
"""A drain holds back a second of it, and a sidecar with no more than that doesn't start."""
LISTS: Final[Mapping[str, tuple[str, ...]]] = {
    "traffic.sidecar.istio.io/excludeInboundPorts": (str(ADMIN_PORT),),
    "config.linkerd.io/skip-inbound-ports": (str(ADMIN_PORT),),
    "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": (RUN_VOLUME, DATA_VOLUME),
}
"""Annotations with lists, and what must be in them: the kubelet's requests don't go through the
mesh, and the volumes keep no node from being scaled down."""


@dataclass(frozen=True, slots=True)
class Injection:
    """What to do to a template."""

    edits: tuple[Edit, ...]
    """None if it is as it should be."""
    findings: tuple[Finding, ...]
    template: dict[str, Any]
    """The template after the edits."""


def inject(template: Mapping[str, Any], choice: Choice) -> Injection:
    """Put the sidecar into a template, or bring the one in it up to date.

    Twice is once. Raises `Refused` for what can't be injected.
    """
    draft = Noted(template)
    if (before := read_record(template)) is not None:
        undo(draft, before)
    pod = read_pod(draft)
    check(pod, is_plain=choice.is_plain)
    grace_s = pod.grace_s if choice.grace_s is None else choice.grace_s
    if grace_s < GRACE_S_MIN:
        raise Refused(
            "grace",
            f"terminationGracePeriodSeconds is {grace_s}: nothing can be shipped in it. Set one of "
            "30 or more, or by --grace-s",
        )
    _refuse_taken(pod)
    agents = agents_of(pod, choice.containers)
    findings = list(told.of_pod(pod, choice, grace_s=grace_s))
    if grace_s != pod.grace_s:
        draft.put(("spec", "terminationGracePeriodSeconds"), grace_s)
    container = sidecar(choice, pod, grace_s=grace_s)
    for place in agents:
        findings += _agent(draft, place, choice=choice, grace_s=grace_s)
    if choice.is_plain:
        draft.put(("spec", "containers", len(pod.containers)), container)
    else:
        draft.put(("spec", "initContainers", place_of_sidecar(pod)), container)
    _around(draft, choice)
    draft.sign(choice.version)
    if before is not None and _is_same(draft.document, template):
        return Injection((), tuple(findings), dict(template))
    return Injection(tuple(draft.edits), tuple(findings), draft.document)


def uninject(template: Mapping[str, Any]) -> Injection:
    """Take out what `inject` put in, and put back what it replaced.

    What was changed by hand since stays, and is told. Raises `Refused` for a template into which
    nothing was injected.
    """
    record = read_record(template)
    if record is None:
        raise Refused("not-injected", "nothing was injected here by `coatcheck inject`")
    draft = Noted(template)
    findings = undo(draft, record)
    return Injection(tuple(draft.edits), tuple(findings), draft.document)


def is_injected(template: Mapping[str, Any]) -> bool:
    """It has a sidecar by `inject`. Raises `Refused` if its annotation is damaged."""
    return read_record(template) is not None


def _is_same(document: Mapping[str, Any], template: Mapping[str, Any]) -> bool:
    """But for how the text was before, which no template knows."""
    new, old = Noted(document), Noted(template)
    for one in (new, old):
        one.replace(ANNOTATION_PATH, decode(one.at(ANNOTATION_PATH)).without_text())
    return new.document == old.document


def _refuse_taken(pod: Pod) -> None:
    everyone = [*pod.inits, *pod.containers]
    if any(one["name"] == SIDECAR for one in everyone):
        raise Refused(
            "taken",
            f"there is a container {SIDECAR} already, and not by `coatcheck inject`: take it out, "
            "with its volumes",
        )
    for volume in pod.spec.get("volumes") or []:
        if str(volume.get("name")).startswith(f"{SIDECAR}-"):
            raise Refused("taken", f"there is a volume {volume['name']} already: rename it")
    for one in everyone:
        for port in one.get("ports") or []:
            if port.get("containerPort") in (ADMIN_PORT, LOOPBACK_PORT):
                raise Refused(
                    "taken",
                    f"container {one['name']} has port {port['containerPort']}, which is the "
                    "sidecar's: give it another",
                )
    for one in everyone:
        for mount in one.get("volumeMounts") or []:
            if str(mount.get("mountPath")).rstrip("/") == RUN_PATH:
                raise Refused("taken", f"container {one['name']} has a mount at {RUN_PATH} already")


def _agent(draft: Noted, place: int, *, choice: Choice, grace_s: int) -> list[Finding]:
    """Socket, environment and barrier of one container."""
    at = ("spec", "containers", place)
    container = draft.at(at)
    name = container["name"]
    findings = []
    there = {one.get("name"): one.get("value") for one in container.get("env") or []}
    for variable, value in agent_environment(choice).items():
        if variable not in there:
            item = {"name": variable, "value": value}
            draft.put((*at, "env", len(container.get("env") or [])), item)
        elif there[variable] != value:
            findings.append(told.environment_kept(name, variable, value=there[variable]))
    mount = {"name": RUN_VOLUME, "mountPath": RUN_PATH}
    draft.put((*at, "volumeMounts", len(container.get("volumeMounts") or [])), mount)
    return findings + _barrier(draft, (*at, "lifecycle", "preStop"), choice=choice, grace_s=grace_s)


def _barrier(
    draft: Noted, path: tuple[str | int, ...], *, choice: Choice, grace_s: int
) -> list[Finding]:
    before = draft.at(path)
    name = draft.at(path[:3])["name"]
    if not before:
        draft.put(path, barrier(token=choice.hook_token))
        return []
    if is_barrier(before):
        return []
    seconds = slept_s(before)
    if seconds is None:
        return [told.hook_kept(name, described(before))]
    draft.swap(path, barrier(token=choice.hook_token, min_s=seconds))
    findings = [told.hook_slept(name, seconds)]
    if seconds > barrier_cap_s(grace_s):
        findings.append(told.sleep_long(name, seconds, grace_s=grace_s))
    return findings


def _around(draft: Noted, choice: Choice) -> None:
    """What the pod has for all: volumes, the socket's group, a label, annotations."""
    for volume in volumes(choice):
        draft.put(("spec", "volumes", len(draft.at(("spec", "volumes")) or [])), volume)
    groups: tuple[str, ...] = ("spec", "securityContext", "supplementalGroups")
    others = draft.at(groups) or []
    if USER_ID not in others:
        draft.put((*groups, len(others)), USER_ID)
    if draft.at(LABEL_PATH) != "true":
        draft.put(LABEL_PATH, "true")
    for annotation, needed in LISTS.items():
        path = ("metadata", "annotations", annotation)
        said = str(draft.at(path) or "")
        items = [item.strip() for item in said.split(",") if item.strip()]
        missing = [item for item in needed if not _covers(items, item)]
        if not missing:
            continue
        draft.put(path, ",".join([*items, *missing]))


def _covers(items: list[str], item: str) -> bool:
    """It is in the list, by itself or, a port, in a range."""
    for one in items:
        first, _, last = one.partition("-")
        is_range = all(end.isdecimal() for end in (first, last, item))
        if one == item or (is_range and int(first) <= int(item) <= int(last)):
            return True
    return False
