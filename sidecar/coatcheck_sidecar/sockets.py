"""Reads the sockets of this process and of its network namespace, which in a pod is the pod's."""

import os
import re
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from coatcheck_sidecar.core.bypass import Meant, Socket, outgoing, parse_tcp

TABLES: Final = ("tcp", "tcp6")
SOCKET: Final = re.compile(r"socket:\[(\d+)\]")


def read_bypass(ok: Collection[Meant] = (), *, proc: Path = Path("/proc")) -> dict[str, int]:
    """Open outgoing connections that are neither this process's own nor `ok`, by remote host.

    Empty where there is no such table. Blocks for as long as the kernel takes to print it.
    """
    before = _own(proc)
    sockets: list[Socket] = []
    for table in TABLES:
        with suppress(OSError):
            text = (proc / "self" / "net" / table).read_text("ascii", "replace")
            sockets += parse_tcp(text, order=sys.byteorder)
    # Sockets that we opened or closed in between are ours as well.
    return outgoing(sockets, own=before | _own(proc), ok=ok)


def _own(proc: Path) -> set[int]:
    inodes = set()
    with suppress(OSError):
        for entry in os.scandir(proc / "self" / "fd"):
            with suppress(OSError):
                match = SOCKET.fullmatch(os.readlink(entry.path))
                if match is not None:
                    inodes.add(int(match[1]))
    return inodes
