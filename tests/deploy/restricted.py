"""The restricted profile of the Pod Security Standards, as rules over a pod template.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/ ("Baseline" and
"Restricted", as of Kubernetes 1.36, Linux pods). What it says of a field is said here by the same
name and in the same order, so that the two can be held side by side.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

Template = Mapping[str, Any]

CAPABILITIES: Final = {"NET_BIND_SERVICE"}
"""What may be added under the restricted profile."""
SECCOMP: Final = {"RuntimeDefault", "Localhost"}
APPARMOR: Final = {"RuntimeDefault", "Localhost"}
SELINUX: Final = {
    "container_engine_t", "container_init_t", "container_kvm_t", "container_t",
}  # fmt: skip
SYSCTLS: Final = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
}  # fmt: skip
VOLUMES: Final = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral",
    "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
LIFELINES: Final = ("startupProbe", "livenessProbe", "readinessProbe")
KINDS: Final = ("initContainers", "containers", "ephemeralContainers")


def violations(template: Template) -> list[str]:
    """Each as `field: what is wrong`; none if the profile is met."""
    spec: Mapping[str, Any] = template["spec"]
    found = list(_of_pod(spec))
    for kind in KINDS:
        for container in spec.get(kind) or ():
            where = f"{kind}[{container['name']}]"
            found += [f"{where}.{text}" for text in _baseline(container)]
            found += [f"{where}.{text}" for text in _restricted(container, spec)]
    return found


def _of_pod(spec: Mapping[str, Any]) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name}: must not be set"
    for volume in spec.get("volumes") or ():
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            yield f"volumes[{volume['name']}]: {sorted(kinds - VOLUMES)} is not allowed"
    context = spec.get("securityContext") or {}
    for sysctl in context.get("sysctls") or ():
        if sysctl["name"] not in SYSCTLS:
            yield f"securityContext.sysctls: {sysctl['name']} is not allowed"
    yield from (f"securityContext.{text}" for text in _labels(context))
    if context.get("runAsUser") == 0:
        yield "securityContext.runAsUser: must not be 0"


def _labels(context: Mapping[str, Any]) -> Iterator[str]:
    """What a pod and a container say alike."""
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "container_t") not in SELINUX or {"user", "role"} & set(selinux):
        yield "seLinuxOptions: a type of containers, and neither user nor role"
    if (context.get("appArmorProfile") or {}).get("type", "RuntimeDefault") not in APPARMOR:
        yield "appArmorProfile.type: must not be Unconfined"
    if (context.get("seccompProfile") or {}).get("type", "RuntimeDefault") not in SECCOMP:
        yield "seccompProfile.type: must not be Unconfined"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield "windowsOptions.hostProcess: must not be set"


def _baseline(container: Mapping[str, Any]) -> Iterator[str]:
    context = container.get("securityContext") or {}
    if context.get("privileged"):
        yield "securityContext.privileged: must not be set"
    if context.get("procMount", "Default") != "Default":
        yield "securityContext.procMount: must be Default"
    for port in container.get("ports") or ():
        if port.get("hostPort"):
            yield f"ports: hostPort {port['hostPort']}"
    for probe in LIFELINES:
        yield from _hosts(container.get(probe) or {}, probe)
    for name, hook in (container.get("lifecycle") or {}).items():
        if isinstance(hook, dict):
            yield from _hosts(hook, f"lifecycle.{name}")
    yield from (f"securityContext.{text}" for text in _labels(context))


def _hosts(handler: Mapping[str, Any], where: str) -> Iterator[str]:
    for way in ("httpGet", "tcpSocket"):
        if (handler.get(way) or {}).get("host"):
            yield f"{where}.{way}.host: must not be set"


def _restricted(container: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    context = container.get("securityContext") or {}
    pod = spec.get("securityContext") or {}
    capabilities = context.get("capabilities") or {}
    if context.get("allowPrivilegeEscalation") is not False:
        yield "securityContext.allowPrivilegeEscalation: must be false"
    if context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "securityContext.runAsNonRoot: must be true, here or of the pod"
    if context.get("runAsUser") == 0:
        yield "securityContext.runAsUser: must not be 0"
    if not (context.get("seccompProfile") or pod.get("seccompProfile")):
        yield "securityContext.seccompProfile: must be said, here or of the pod"
    if "ALL" not in (capabilities.get("drop") or ()):
        yield "securityContext.capabilities.drop: must hold ALL"
    if not set(capabilities.get("add") or ()) <= CAPABILITIES:
        yield "securityContext.capabilities.add: NET_BIND_SERVICE at most"
