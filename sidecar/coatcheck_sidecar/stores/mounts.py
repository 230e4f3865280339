"""Which file system a folder lies on: a lock that other machines don't see is no fence."""

import os
import re
from pathlib import Path
from typing import Final

MOUNTINFO: Final = Path("/proc/self/mountinfo")

# fmt: off
NETWORK: Final = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "drvfs", "gfs2", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "pvfs2", "smb2", "smb3", "smbfs",
    "vboxsf", "virtiofs", "vmhgfs",
})
# fmt: on
"""Shared by machines, with locks or renames that may not be. Every `fuse.*` counts as well."""

PLACE: Final = 4
"""Which field of a line says where the mount is, from 0 (proc(5))."""

_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


def network_file_system(path: Path, *, mountinfo: str | None = None) -> str | None:
    """Name the network file system that `path` lies on; `None` for a local one.

    `mountinfo` is text in the form of proc(5), `/proc/self/mountinfo` if absent; where the system
    has no such file (not Linux) every path counts as local.
    """
    kind = file_system(path, mountinfo=mountinfo)
    return kind if kind in NETWORK or kind.startswith("fuse.") else None


def file_system(path: Path, *, mountinfo: str | None = None) -> str:
    """The kind of file system that `path` lies on; empty where the system does not tell."""
    if mountinfo is None:
        try:
            mountinfo = MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return ""
    return _kind_of_mount(os.path.realpath(path), mountinfo)


def _kind_of_mount(path: str, mountinfo: str) -> str:
    """The type of the innermost mount over `path`; of equal ones the last hides the others."""
    found, kind = "", ""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) <= PLACE:
            continue
        place = _ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), fields[PLACE])
        if _is_within(path, place) and len(place) >= len(found):
            found, kind = place, after.split(" ")[0]
    return kind


def _is_within(path: str, place: str) -> bool:
    return path == place or path.startswith(place.rstrip("/") + "/")
