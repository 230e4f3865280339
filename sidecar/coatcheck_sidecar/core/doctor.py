"""What is wrong with a pod template, why that bites, and the mend. Pure.

It looks at what is written, whoever wrote it: `coatcheck inject`, a chart, a hand.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from coatcheck_sidecar.core.doctor_grace import of_grace
from coatcheck_sidecar.core.doctor_hooks import of_agents, of_hooks, of_mesh
from coatcheck_sidecar.core.doctor_pod import Subject, error, info, subject_of, warning
from coatcheck_sidecar.core.doctor_volumes import of_data, of_socket, of_store
from coatcheck_sidecar.core.inject_choice import ANNOTATION, Finding, Refused, Severity
from coatcheck_sidecar.core.inject_edits import Draft
from coatcheck_sidecar.core.inject_pod import Pod, check, read_pod

ORDER: Final = (Severity.ERROR, Severity.WARNING, Severity.INFO)


def examine(template: Mapping[str, Any], *, is_pod: bool = False) -> tuple[Finding, ...]:
    """All findings, the worst first; `is_pod`: no webhook will change it any more."""
    return sorted_findings(_findings(template, is_pod=is_pod))


def sorted_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The worst first; of one severity as they came."""
    return tuple(sorted(findings, key=lambda finding: ORDER.index(finding.severity)))


def _findings(template: Mapping[str, Any], *, is_pod: bool) -> Iterator[Finding]:
    try:
        pod = read_pod(Draft(template))
        subject = subject_of(pod)
        if subject is None:
            yield from _without(pod, is_pod=is_pod)
            return
        check(pod, is_plain=not subject.is_init)
    except Refused as refused:
        yield error(
            refused.code,
            what="coatcheck can't work in this pod",
            why=refused.reason,
            mend="as it says",
        )
        return
    yield from _kind(subject)
    yield from of_grace(subject)
    yield from of_hooks(subject)
    yield from of_mesh(subject)
    yield from of_data(subject)
    yield from of_store(subject)
    yield from of_socket(subject)
    yield from of_agents(subject)


def _without(pod: Pod, *, is_pod: bool) -> Iterator[Finding]:
    """No sidecar is in it."""
    if str(pod.annotations.get(ANNOTATION)).lower() != "true":
        yield info(
            "no-sidecar",
            what="there is no coatcheck sidecar in it",
            why="nothing is kept of what its agents do",
            mend="`coatcheck inject`, if it has an agent",
        )
        return
    what = f'annotation {ANNOTATION} is "true", and no sidecar and no socket are in it'
    if is_pod:
        yield error(
            "annotated-without-sidecar",
            what=what,
            why="the webhook was not asked when the pod was made: its agents find no socket",
            mend="is the webhook there, and does it select this namespace? Then delete the pod; or "
            "`coatcheck inject` the workload",
        )
    else:
        yield warning(
            "annotated-without-sidecar",
            what=what,
            why="that is the webhook's to do: where it is away and its failurePolicy is Ignore, "
            "pods start without",
            mend="look at a pod as well: kubectl get pod NAME -o yaml | coatcheck doctor -f -",
        )


def _kind(subject: Subject) -> Iterator[Finding]:
    if not subject.is_init:
        yield warning(
            "plain",
            what="the sidecar is a plain second container",
            why="an agent may start before it, SIGTERM reaches it while agents still work, and a "
            "Job with it completes only when it ends",
            mend="from Kubernetes 1.29 on: move it to initContainers, with restartPolicy: Always",
        )
    elif subject.sidecar.get("restartPolicy") != "Always":
        yield error(
            "init-without-restart",
            what=f"init container {subject.sidecar['name']} has no restartPolicy: Always",
            why="an ordinary init container must end before the agent starts: it never does",
            mend="restartPolicy: Always on the container, which makes it a native sidecar",
        )
    else:
        yield info(
            "needs-1.29",
            what="the sidecar is a native one (an init container with restartPolicy: Always)",
            why="clusters have that from Kubernetes 1.29 on (1.28 behind a feature gate); an older "
            "one waits for it for ever, and no template says what the cluster is",
        )
        if not subject.sidecar.get("startupProbe"):
            yield info(
                "startup-unprobed",
                what="the sidecar has no startupProbe",
                why="the agent starts beside it, and its first `open_run` waits for the socket",
                mend="startupProbe.httpGet: {path: /startupz, port: 7071}, periodSeconds: 1",
            )
