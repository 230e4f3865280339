"""Where the pod templates of a manifest are. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from coatcheck_sidecar.core.inject_edits import Path

TEMPLATE: Final[Path] = ("spec", "template")
TEMPLATES: Final[Mapping[str, Path]] = {
    "Pod": (),
    "PodTemplate": ("template",),
    "Deployment": TEMPLATE,
    "StatefulSet": TEMPLATE,
    "ReplicaSet": TEMPLATE,
    "DaemonSet": TEMPLATE,
    "ReplicationController": TEMPLATE,
    "Job": TEMPLATE,
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Rollout": TEMPLATE,
    "ScaledJob": ("spec", "jobTargetRef", "template"),
}
"""By kind: Kubernetes' own, Argo's Rollout and KEDA's ScaledJob."""
DEPTH_MAX: Final = 8
"""Lists in lists; nobody has two."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One pod template of a document."""

    path: Path
    """Of the template, from the document's root."""
    template: Mapping[str, Any]
    kind: str
    name: str
    """That of the workload; empty if it has none (`generateName`)."""

    def __str__(self) -> str:
        """As kubectl names it."""
        return f"{self.kind.lower()}/{self.name or '(no name)'}"


def workloads_of(document: object) -> Iterator[Workload]:
    """All of a document in its order, those in lists too."""
    yield from _walk(document, (), DEPTH_MAX)


def templates_of(document: object) -> list[tuple[Path, Mapping[str, Any]]]:
    """The pod templates alone, each with its path from the document's root."""
    return [(one.path, one.template) for one in workloads_of(document)]


def _walk(document: object, above: Path, depth: int, /) -> Iterator[Workload]:  # noqa: PLR0917 - its own
    if not isinstance(document, dict):
        return
    kind = str(document.get("kind") or "")
    items = document.get("items")
    if kind.endswith("List") and isinstance(items, list) and depth:
        for place, item in enumerate(items):
            # What the API server lists of one kind names it once, in the list.
            whole = {"kind": kind.removesuffix("List"), **item} if isinstance(item, dict) else item
            yield from _walk(whole, (*above, "items", place), depth - 1)
    if kind not in TEMPLATES:
        return
    template: object = document
    for step in TEMPLATES[kind]:
        template = template.get(step) if isinstance(template, dict) else None
    if isinstance(template, dict):
        metadata = document.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        yield Workload((*above, *TEMPLATES[kind]), template, kind, str(name or ""))
