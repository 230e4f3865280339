"""What the owner of a pod should know before a sidecar is in it. Pure."""

from collections.abc import Iterator
from typing import Final

from coatcheck_sidecar.core.inject_choice import Choice, Finding, Severity
from coatcheck_sidecar.core.inject_hooks import barrier_cap_s
from coatcheck_sidecar.core.inject_pod import Pod, plain_proxies
from coatcheck_sidecar.core.map import AUTOSCALER_S

GRACE_S_SHORT: Final = 10
"""Below this a step of a model call rarely comes to its end."""
ISTIO_NATIVE: Final = "sidecar.istio.io/nativeSidecar"
LINKERD_NATIVE: Final = "config.beta.linkerd.io/proxy-enable-native-sidecar"


def of_pod(pod: Pod, choice: Choice, *, grace_s: int) -> Iterator[Finding]:
    """All but what is found while hooks and environments are written."""
    yield from _grace(grace_s)
    if choice.store.startswith("file:"):
        yield warning(
            "store-in-pod",
            f"the store is {choice.store}",
            "what lies in the pod's own volumes is lost with the pod, and fences nobody elsewhere",
            "give a bucket, or a volume that all pods share (not over a network)",
        )
    for name in plain_proxies(pod):
        native = ISTIO_NATIVE if name == "istio-proxy" else LINKERD_NATIVE
        yield warning(
            "mesh-stops-first",
            f"{name} is an ordinary container",
            "it stops together with the agent, and the sidecar can't ship through it any more",
            f'have the mesh inject it as a native sidecar: annotation {native}: "true"',
        )
    for field in ("hostPID", "shareProcessNamespace"):
        if pod.spec.get(field):
            yield warning(
                "processes-shared",
                f"{field} is set",
                "a process of root or of uid 65532 in it can read the sidecar's environment and "
                "memory, the store's credentials included",
                f"take {field} off, unless all that runs there may use the store",
            )
    if pod.spec.get("resources"):
        yield warning(
            "pod-resources",
            "the pod has resources as a whole (spec.resources)",
            "the sidecar lives within them and got none of its own",
            "add 250m of CPU and 512Mi of memory to them",
        )
    if choice.is_plain:
        yield warning(
            "plain",
            "the sidecar is a plain second container",
            "an agent may start before it, and SIGTERM reaches it while agents still work",
            "use a native sidecar from Kubernetes 1.29 on",
        )


def _grace(grace_s: int) -> Iterator[Finding]:
    if grace_s > AUTOSCALER_S:
        yield warning(
            "grace-long",
            f"terminationGracePeriodSeconds is {grace_s}",
            f"cluster autoscalers grant {AUTOSCALER_S:g} s at most, and kill what is left then",
            f"plan for {AUTOSCALER_S:g}: --grace-s {AUTOSCALER_S:g}",
        )
    if grace_s < GRACE_S_SHORT:
        yield warning(
            "grace-short",
            f"terminationGracePeriodSeconds is {grace_s}",
            "steps that take longer are cut, and their calls left in doubt",
            "`coatcheck map` says what grace runs need; set it by --grace-s",
        )


def hook_kept(name: str, hook: str) -> Finding:
    """An agent's own hook that can't be made a barrier."""
    return warning(
        "hook-kept",
        f"container {name} keeps its own preStop ({hook})",
        "its SIGTERM isn't held back until its runs are safe: an agent that handles no signals is "
        "stopped in the middle of a step, and what it calls then is in doubt",
        "have it end at a step boundary by SIGTERM, or the hook by GET "
        "http://$POD_IP:7071/drain/barrier",
    )


def hook_slept(name: str, seconds: float) -> Finding:
    """A hook that slept."""
    return Finding(
        severity=Severity.INFO,
        code="hook-sleeps",
        what=f"container {name}: `sleep {seconds:g}` became the barrier, with a minimum of as much",
        why="its SIGTERM is held back as long as before, and until its runs are safe",
        mend="",
    )


def sleep_long(name: str, seconds: float, *, grace_s: int) -> Finding:
    """One that slept longer than a barrier holds."""
    cap_s = barrier_cap_s(grace_s)
    return warning(
        "sleep-long",
        f"container {name} slept {seconds:g} s of a grace of {grace_s} s",
        f"the barrier lets SIGTERM through after {cap_s:g} s at most, so that the agent has a rest",
        f"sleep less, or set a grace of more than {seconds + 5:g} s by --grace-s",
    )


def environment_kept(name: str, variable: str, *, value: object) -> Finding:
    """A variable that the agent has already, and not as it would have been written."""
    return warning(
        "environment-kept",
        f"container {name} keeps its own {variable} ({value!s:.60})",
        "agent and sidecar then don't agree on where the socket is, or on the mode",
        f"take {variable} out of the container's env",
    )


def warning(code: str, what: str, why: str, mend: str) -> Finding:  # noqa: PLR0917 - as one reads it
    """Something is lost by it."""
    return Finding(severity=Severity.WARNING, code=code, what=what, why=why, mend=mend)
