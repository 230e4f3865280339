"""Do the kubelet's hooks reach the sidecar, and does SIGTERM reach the agent? Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from coatcheck_sidecar.core.doctor_pod import (
    Container,
    Subject,
    error,
    info,
    variables,
    warning,
    words_of,
)
from coatcheck_sidecar.core.inject_choice import ADMIN_PORT, Finding
from coatcheck_sidecar.core.inject_findings import hook_kept
from coatcheck_sidecar.core.inject_hooks import (
    BARRIER,
    DRAIN,
    SHELLS,
    TOKEN_HEADER,
    described,
    is_barrier,
)
from coatcheck_sidecar.core.inject_pod import MESH_INITS, Pod

ISTIO: Final = "traffic.sidecar.istio.io/excludeInboundPorts"
LINKERD: Final = "config.linkerd.io/skip-inbound-ports"
ISTIO_INCLUDES: Final = "traffic.sidecar.istio.io/includeInboundPorts"
LOOPBACK: Final = re.compile(r"127\.[0-9.]+|localhost|\[?::1\]?")
QUOTED: Final = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.")


def of_hooks(subject: Subject) -> Iterator[Finding]:
    """Both sides' preStop, and the port that they go to."""
    listen = subject.told("ADMIN_LISTEN", f"0.0.0.0:{ADMIN_PORT}")
    host, _, said = (listen or "").rpartition(":")
    port = int(said) if said.isdecimal() else ADMIN_PORT
    if LOOPBACK.fullmatch(host):
        yield error(
            "admin-on-loopback",
            what=f"COATCHECK_ADMIN_LISTEN is {listen}",
            why="hooks, probes and scrapes come to the pod's IP: none of them arrives",
            mend=f"set it to $(POD_IP):{ADMIN_PORT}, with POD_IP from status.podIP",
        )
    pre_stop = _pre_stop(subject.sidecar)
    if not _is_drain(pre_stop):
        yield error(
            "drain-hook-missing",
            what=f"container {subject.sidecar['name']} has no preStop hook for {DRAIN}"
            + (f", but {described(pre_stop)}" if pre_stop else ""),
            why="a native sidecar gets its SIGTERM after the agents have gone, perhaps with 2 s "
            "left: the drain begins when all is over",
            mend=f"lifecycle.preStop.httpGet: {{path: {DRAIN}, port: {port}}}",
        )
    else:
        yield from _request(subject, subject.sidecar, port=port)
    for agent in subject.agents:
        pre_stop = _pre_stop(agent)
        if is_barrier(pre_stop):
            yield from _request(subject, agent, port=port)
        elif pre_stop and BARRIER not in str(pre_stop):
            yield hook_kept(str(agent["name"]), described(pre_stop))
        elif not pre_stop:
            yield warning(
                "barrier-missing",
                what=f"container {agent['name']} has no preStop hook for {BARRIER}",
                why="its SIGTERM comes at once: an agent that handles no signals is stopped in the "
                "middle of a step, and what it calls then is in doubt",
                mend=f"lifecycle.preStop.httpGet: {{path: {BARRIER}, port: {port}}}",
            )


def _pre_stop(container: Container) -> Mapping[str, Any]:
    return (container.get("lifecycle") or {}).get("preStop") or {}


def _is_drain(pre_stop: Mapping[str, Any]) -> bool:
    """By the kubelet, or by our own command in the container."""
    request = pre_stop.get("httpGet") or {}
    command = [str(word) for word in (pre_stop.get("exec") or {}).get("command") or []]
    path = str(request.get("path") or "").partition("?")[0]
    return path == DRAIN or ("coatcheck" in " ".join(command) and "drain" in " ".join(command))


def _request(subject: Subject, container: Container, *, port: int) -> Iterator[Finding]:
    """Where it goes, and whether it says the token."""
    request = _pre_stop(container).get("httpGet")
    if not isinstance(request, Mapping):
        return
    name, told = container["name"], request.get("port")
    ports = {one.get("name"): one.get("containerPort") for one in container.get("ports") or []}
    goes_to = ports.get(told) if not str(told).isdecimal() else int(str(told))
    if goes_to != port:
        unknown = "" if goes_to is not None else ", which is none of its own ports"
        yield error(
            "hook-port",
            what=f"the preStop hook of container {name} goes to port {told}{unknown}; the sidecar "
            f"listens on {port}",
            why="a hook that fails only makes an event: the pod stops as if there were none",
            mend=f"port: {port} (a port's name is looked up in the hook's own container)",
        )
    if request.get("host") or str(request.get("scheme", "HTTP")).upper() != "HTTP":
        yield error(
            "hook-elsewhere",
            what=f"the preStop hook of container {name} has a host or a scheme of its own",
            why="the kubelet asks from the node, and the sidecar speaks plain HTTP on the pod's IP",
            mend="take `host` and `scheme` off the hook",
        )
    token = subject.told("HOOK_TOKEN")
    said = {
        str(one.get("name")).lower(): one.get("value") for one in request.get("httpHeaders") or []
    }
    if token and said.get(TOKEN_HEADER.lower()) != token:
        yield error(
            "hook-token",
            what=f"the preStop hook of container {name} does not say the COATCHECK_HOOK_TOKEN",
            why="the sidecar refuses it (403), and the pod stops as if there were no hook",
            mend=f"httpHeaders: [{{name: {TOKEN_HEADER}, value: <the token>}}]",
        )


def of_mesh(subject: Subject) -> Iterator[Finding]:
    """A proxy that takes over inbound traffic refuses what has no certificate, as a kubelet's."""
    pod = subject.pod
    names = {one["name"] for one in [*pod.containers, *pod.inits]} & MESH_INITS
    istio = _says(pod, "sidecar.istio.io/inject", words=("true",))
    linkerd = _says(pod, "linkerd.io/inject", words=("enabled", "ingress"))
    istio = istio or any(name.startswith("istio") for name in names)
    linkerd = linkerd or any(name.startswith("linkerd") for name in names)
    for mesh, is_on, annotation in (("Istio", istio, ISTIO), ("Linkerd", linkerd, LINKERD)):
        if not is_on or _covers(str(pod.annotations.get(annotation) or ""), ADMIN_PORT):
            continue
        if annotation == ISTIO and pod.annotations.get(ISTIO_INCLUDES) == "":
            continue
        yield error(
            "mesh-takes-hooks",
            what=f"{mesh} redirects the pod's inbound traffic, port {ADMIN_PORT} too",
            why="the kubelet's hooks have no certificate of the mesh, and while the pod stops its "
            "proxy may be gone: the drain begins late or never",
            mend=f'annotation {annotation}: "{ADMIN_PORT}"',
        )


def _says(pod: Pod, key: str, *, words: tuple[str, ...]) -> bool:
    return any(str(found.get(key)).lower() in words for found in (pod.annotations, pod.labels))


def _covers(told: str, port: int) -> bool:
    for part in told.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and int(first) <= port <= int(last if last.isdecimal() else first):
            return True
    return False


def of_agents(subject: Subject) -> Iterator[Finding]:
    """Its PID 1, and its word on the mode."""
    mode = subject.told("MODE", "enforce")
    for agent in subject.agents:
        name = agent["name"]
        theirs = variables(agent).get("COATCHECK_MODE", "enforce")
        if None not in (mode, theirs) and (mode == "off") != (theirs == "off"):
            yield warning(
                "mode-disagrees",
                what=f"COATCHECK_MODE is {mode} in the sidecar, {theirs} in container {name}",
                why="the one is out of the way, and the other counts on it",
                mend="set both to the same",
            )
        is_first = not subject.pod.spec.get("shareProcessNamespace")
        if is_first and _is_piped(words_of(agent)):
            yield info(
                "shell-is-first",
                what=f"PID 1 of container {name} is a shell with a pipe",
                why="it hears SIGTERM and passes it to nobody: the agent learns of a drain by its "
                "socket alone, goes on after its runs are released, and is killed in the end",
                mend="run the agent itself as the container's command; a runtime keeps its output",
            )


def _is_piped(words: list[str]) -> bool:
    """Surely a shell that stays: most replace themselves by the last command of a script."""
    if len(words) < 3 or not SHELLS.fullmatch(words[0]) or words[1] not in ("-c", "-ec", "-lc"):
        return False
    script = QUOTED.sub("", words[2])
    return "|" in script.replace("||", "") and "trap" not in script and "exec" not in script
