"""The data folder, the socket and who may open it, as a template has them. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from coatcheck_sidecar.core.doctor_pod import (
    Container,
    Subject,
    error,
    info,
    variables,
    warning,
)
from coatcheck_sidecar.core.inject_choice import DATA_PATH, SOCKET, USER_ID, Finding
from coatcheck_sidecar.core.inject_pod import quantity
from coatcheck_sidecar.core.space import data_bytes

JOURNAL_BYTES_MAX: Final = 268_435_456
SPOOL_BYTES_MAX: Final = 1_073_741_824
"""The settings' defaults."""


def of_data(subject: Subject) -> Iterator[Finding]:
    """Where the journal lies, how much room it has, and how long it lives."""
    path = subject.told("DATA", DATA_PATH)
    if path is None:
        return
    found = subject.lies(subject.sidecar, path)
    if found is None:
        yield error(
            "data-unmounted",
            what=f"the sidecar's data folder {path} lies on no volume",
            why="the journal dies with its container: what was acknowledged and not yet shipped is "
            "lost when the sidecar restarts (and a read-only root lets it not start)",
            mend=f"mount an emptyDir at {path}",
        )
        return
    volume = found[0]
    empty_dir = volume.get("emptyDir")
    if not isinstance(empty_dir, Mapping):
        empty_dir = {} if "emptyDir" in volume else None
    if empty_dir is None:
        return
    name = volume.get("name")
    if empty_dir.get("medium") == "Memory":
        yield error(
            "data-in-memory",
            what=f"volume {name} is an emptyDir with medium: Memory",
            why="level `node` (the default) promises that what was acknowledged survives a crash "
            "of the kernel: an fsync of memory keeps nothing. And the journal counts as memory",
            mend="take `medium: Memory` off the volume",
        )
    yield from _limit(subject, str(name), told=empty_dir.get("sizeLimit"))


def _limit(subject: Subject, name: str, *, told: object) -> Iterator[Finding]:
    if told is None:
        yield info(
            "data-unlimited",
            what=f"volume {name} has no sizeLimit",
            why="the sidecar keeps its own limits; the node's disk is what is left of them",
            mend="set sizeLimit, and COATCHECK_DATA_BYTES_MAX to the same: both are then checked",
        )
        return
    size = quantity(told)
    journal = subject.number("JOURNAL_BYTES_MAX", JOURNAL_BYTES_MAX)
    spool = subject.number("SPOOL_BYTES_MAX", SPOOL_BYTES_MAX)
    if size is None or journal is None or spool is None:
        return
    most = data_bytes(journal_bytes_max=int(journal), spool_bytes_max=int(spool))
    if size < most:
        yield error(
            "data-limit-low",
            what=f"volume {name} has sizeLimit {told} ({int(size)} bytes)",
            why=f"up to {most} bytes may lie in the data folder: a pod whose volume outgrows its "
            "limit is evicted, with 3 s to ship what is there",
            mend=f"raise sizeLimit to {most} or more (2Gi), or lower COATCHECK_SPOOL_BYTES_MAX",
        )
    promised = subject.number("DATA_BYTES_MAX", 0)
    if promised is not None and promised > size:
        yield error(
            "data-limit-disagrees",
            what=f"COATCHECK_DATA_BYTES_MAX is {promised:.0f}, sizeLimit of {name} is {told}",
            why="the sidecar checks its settings against room that the volume does not have",
            mend=f"set COATCHECK_DATA_BYTES_MAX to {int(size)}",
        )


def of_store(subject: Subject) -> Iterator[Finding]:
    """A store that dies with the pod is none."""
    store, data = subject.told("STORE"), subject.told("DATA", DATA_PATH)
    if store is None or data is None:
        return
    parts = urlsplit(store or f"file://{data}/store")
    if parts.scheme != "file":
        return
    path = unquote(parts.path)
    found = subject.lies(subject.sidecar, path)
    is_inside = path == data or path.startswith(data.rstrip("/") + "/")
    if is_inside or found is None or "emptyDir" in found[0]:
        yield warning(
            "unfenced",
            what=f"the store is {store or 'not set'}: a folder of this pod",
            why="it dies with the pod, no other pod can go on with its runs, and it fences nobody: "
            "`once` holds on this node alone",
            mend="set COATCHECK_STORE to a bucket: s3://bucket/prefix",
        )


def of_socket(subject: Subject) -> Iterator[Finding]:
    """The same file for both sides, and a group that may open it."""
    path = subject.told("SOCKET", SOCKET)
    if path is None:
        return
    ours = subject.lies(subject.sidecar, path)
    if ours is None:
        yield error(
            "socket-unmounted",
            what=f"the sidecar's socket {path} lies on no volume",
            why="no other container sees it: agents find no sidecar",
            mend=f"mount one emptyDir at {path.rpartition('/')[0]}, here and in the agent",
        )
    for agent in subject.agents:
        if ours is not None:
            yield from _shared(subject, agent, ours=(ours[0].get("name"), ours[1]))
        yield from _group(subject, agent)


def _shared(subject: Subject, agent: Container, *, ours: tuple[Any, str]) -> Iterator[Finding]:
    path = variables(agent).get("COATCHECK_SOCKET", SOCKET)
    if path is None:
        return
    found = subject.lies(agent, path)
    theirs = None if found is None else (found[0].get("name"), found[1])
    if theirs != ours:
        where = "on no volume" if theirs is None else f"in volume {theirs[0]} as {theirs[1]}"
        yield error(
            "socket-not-shared",
            what=f"container {agent['name']} looks for the socket at {path}, {where}; the sidecar "
            f"has it in volume {ours[0]} as {ours[1]}",
            why="the agent finds no sidecar: `open_run` waits, and fails",
            mend=f"mount volume {ours[0]} at the same path in both",
        )


def _group(subject: Subject, agent: Container) -> Iterator[Finding]:
    pod = subject.pod.spec.get("securityContext") or {}
    server = {**pod, **(subject.sidecar.get("securityContext") or {})}
    client = {**pod, **(agent.get("securityContext") or {})}
    uid, owner = client.get("runAsUser"), server.get("runAsUser", USER_ID)
    allowed = (subject.told("ALLOWED_UIDS") or "").replace(" ", "").strip(",")
    if allowed and uid is not None and str(uid) not in allowed.split(","):
        yield error(
            "uid-not-allowed",
            what=f"container {agent['name']} runs as uid {uid}, which COATCHECK_ALLOWED_UIDS "
            f"({allowed}) lacks",
            why="the sidecar hangs up on it",
            mend=f"add {uid} to COATCHECK_ALLOWED_UIDS",
        )
    group = server.get("runAsGroup", USER_ID)
    groups = {client.get("runAsGroup"), pod.get("fsGroup"), *(pod.get("supplementalGroups") or [])}
    if group in groups or pod.get("fsGroup") is not None or uid in (0, owner):
        return
    found = warning if uid is None else error
    who = "as the image's own user" if uid is None else f"as uid {uid}"
    yield found(
        "socket-group",
        what=f"container {agent['name']} runs {who}, and the pod's supplementalGroups lack {group}",
        why="the socket is open to the sidecar's user and group alone (0660): unless the agent is "
        "root it is refused",
        mend=f"spec.securityContext.supplementalGroups: [{group}]",
    )
