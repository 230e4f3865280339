"""What the doctor looks at in the pod itself: data folder, socket, the hooks' way."""

import os
import socket
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from http.client import METHOD_NOT_ALLOWED as NOT_ALLOWED
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

from coatcheck_sidecar.config import Config, is_loopback
from coatcheck_sidecar.core.doctor_pod import error, warning
from coatcheck_sidecar.core.inject_choice import Finding
from coatcheck_sidecar.core.inject_hooks import BARRIER, DRAIN
from coatcheck_sidecar.core.space import data_bytes
from coatcheck_sidecar.stores.mounts import NETWORK, file_system

MEMORY: Final = frozenset({"tmpfs", "ramfs"})
CONTAINERS_OWN: Final = frozenset({"overlay", "aufs"})
ANSWER_S: Final = 3.0
"""On the pod's own address: more is no answer."""
ANY: Final = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
READ, WRITE, SEARCH = 4, 2, 1
"""Bits of a mode."""


def of_folder(config: Config, *, mountinfo: str | None = None) -> Iterator[Finding]:
    """Where the journal lies; `mountinfo` as of proc(5), that of this process if absent."""
    path = config.data
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        yield error(
            "data-not-writable",
            what=f"uid {os.getuid()} can't write to the data folder {path}",
            why="the sidecar doesn't start without a journal",
            mend=f"mount an emptyDir at {path}; of another kind of volume, give it to uid 65532",
        )
        return
    kind = file_system(path, mountinfo=mountinfo)
    if kind in MEMORY:
        yield error(
            "data-in-memory",
            what=f"the data folder {path} lies in memory ({kind})",
            why="level `node` (the default) promises that what was acknowledged survives a crash "
            "of the kernel: an fsync of memory keeps nothing. And the journal counts as memory",
            mend="take `medium: Memory` off the volume",
        )
    elif kind in NETWORK or kind.startswith("fuse."):
        yield error(
            "data-on-network",
            what=f"the data folder {path} lies on a network file system ({kind})",
            why="SQLite's log needs locks and shared memory that such a system does not keep: the "
            "journal can be damaged, and each commit waits for the network",
            mend="an emptyDir: the store is what outlives the pod",
        )
    elif kind in CONTAINERS_OWN:
        yield warning(
            "data-unmounted",
            what=f"the data folder {path} lies on no volume ({kind})",
            why="the journal dies with its container: what was acknowledged and not yet shipped is "
            "lost when the sidecar restarts",
            mend=f"mount an emptyDir at {path}",
        )
    yield from _space(config)


def _space(config: Config) -> Iterator[Finding]:
    free = os.statvfs(config.data)
    free_bytes = free.f_bavail * free.f_frsize
    most = data_bytes(
        journal_bytes_max=config.journal_bytes_max, spool_bytes_max=config.spool_bytes_max
    )
    if free_bytes < most:
        yield warning(
            "data-space",
            what=f"{free_bytes} bytes are free for the data folder, {most} may be needed",
            why="while the store is away the disk fills up before the limits hold; then guarded "
            "calls wait, and the journal may die",
            mend="a bigger disk, or lower COATCHECK_SPOOL_BYTES_MAX",
        )


def of_socket(
    config: Config, *, agent_uid: int | None = None, agent_gids: Collection[int] = ()
) -> Iterator[Finding]:
    """Whether somebody listens on it, and the agent's user and groups may open it."""
    path = config.socket
    if (why := _silent(path)) is not None:
        yield error(
            "socket-silent",
            what=f"nobody answers at the socket {path}: {why}",
            why="agents find no sidecar: `open_run` waits, and fails",
            mend="does the sidecar run, and in this container? Its log says why it ended",
        )
    if agent_uid is None:
        return
    if config.allowed_uids and agent_uid not in config.allowed_uids:
        yield error(
            "uid-not-allowed",
            what=f"uid {agent_uid} is not in COATCHECK_ALLOWED_UIDS",
            why="the sidecar hangs up on it",
            mend=f"add {agent_uid} to it",
        )
    who = f"uid {agent_uid}, groups {sorted(agent_gids) or 'none'}"
    for place, bits in ((path, READ | WRITE), (path.parent, SEARCH)):
        if place.exists() and not may(place.stat(), bits, uid=agent_uid, gids=agent_gids):
            found = place.stat()
            yield error(
                "socket-group",
                what=f"{who} may not open {place} ({stat.filemode(found.st_mode)}, "
                f"{found.st_uid}:{found.st_gid})",
                why="the agent is refused: `open_run` fails",
                mend=f"spec.securityContext.supplementalGroups: [{found.st_gid}]",
            )


def _silent(path: Path) -> str | None:
    """Why nobody answers."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as client:
        client.settimeout(ANSWER_S)
        try:
            client.connect(str(path))
        except OSError as failure:
            return failure.strerror or str(failure)
    return None


def may(found: os.stat_result, bits: int, *, uid: int, gids: Collection[int]) -> bool:
    """What the kernel would say: the first of owner, group and others that fits decides."""
    if uid == 0:
        return True
    shift = 6 if uid == found.st_uid else 3 if found.st_gid in gids else 0
    return (found.st_mode >> shift) & bits == bits


def of_hooks(config: Config, *, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the way of the kubelet's hooks leads to the sidecar.

    By OPTIONS, which the sidecar answers by 405: a GET would begin the drain. From within the pod
    no mesh stands in the way: that is for the template's annotations to say.
    """
    host, port = config.admin_listen
    if is_loopback(host):
        yield error(
            "admin-on-loopback",
            what=f"the sidecar's port for the kubelet is {config.admin_listen}",
            why="hooks, probes and scrapes come to the pod's IP: none of them arrives",
            mend="COATCHECK_ADMIN_LISTEN: $(POD_IP):7071, with POD_IP from status.podIP",
        )
    if host in ANY:
        host = environ.get("POD_IP") or _own_address()
    for path in (DRAIN, BARRIER):
        why = _astray(host, port, path=path)
        if why is not None:
            yield error(
                "hook-unreachable",
                what=f"{path} on {host}:{port} {why}",
                why="the kubelet's hooks don't reach the sidecar: the drain begins with its "
                "SIGTERM, when the agents have gone and perhaps 2 s are left",
                mend="does the sidecar run? Does another process have the port, or a proxy?",
            )
            return


def _own_address() -> str:
    """That of the pod, by its own name: the kubelet writes it into /etc/hosts."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return "127.0.0.1"
    return str(found[0][4][0])


def _astray(host: str, port: int, *, path: str) -> str | None:
    with closing(HTTPConnection(host, port, timeout=ANSWER_S)) as connection:
        try:
            connection.request("OPTIONS", path)
            answer = connection.getresponse()
        except (OSError, HTTPException) as failure:
            return f"does not answer: {failure}"
    if answer.status != NOT_ALLOWED or "GET" not in (answer.getheader("Allow") or ""):
        return f"is answered by somebody else ({answer.status} {answer.reason})"
    return None
