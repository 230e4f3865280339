"""Containers of one pod, by hand: a sidecar as the image has it, and others beside it."""

import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tests.deploy.podman import IMAGE, LOCKED_DOWN, QUIETLY, Podman

GID: Final = 65532
"""The group that a pod's `supplementalGroups` gives to whoever may use the socket."""
AGENT_UID: Final = 1000
PYTHON: Final = "/opt/coatcheck/bin/python"
SOCKET: Final = Path("/run/coatcheck")
DATA: Final = Path("/var/lib/coatcheck")
UP_S_MAX: Final = 30.0
LOOK_S: Final = 0.01

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Box:
    """A container that was started."""

    podman: Podman
    name: str

    @property
    def state(self) -> dict[str, Any]:
        """What podman tells of it."""
        told: dict[str, Any] = json.loads(self.podman("inspect", self.name))[0]["State"]
        return told

    @property
    def started_s(self) -> float:
        """When its process began, in seconds since the epoch."""
        stamp = self.state["StartedAt"]  # nanoseconds, and a zone by name: neither is ISO 8601
        return datetime.fromisoformat(f"{stamp[:26]}+00:00".replace(" ", "T")).timestamp()

    @property
    def starved_s(self) -> float:
        """How long its threads were ready to run, and others had the cores."""
        tasks = Path(f"/proc/{self.state['Pid']}/task").glob("*/schedstat")
        return sum(int(each.read_text().split()[1]) for each in tasks) / 1e9

    @property
    def log(self) -> str:
        """Standard output, then standard error."""
        return self.podman.said("logs", self.name)

    def wait_for(self, word: str) -> None:
        """Until it has said so. Raises `TimeoutError`."""
        ends_s = time.monotonic() + UP_S_MAX
        while word not in self.log:
            if time.monotonic() > ends_s:
                raise TimeoutError(f"{word!r} was never said")

    def exec(self, *argv: str) -> str:
        """Run a command in it; what it printed. Raises `PodmanError`."""
        return self.podman("exec", self.name, *argv)

    def stop(self, *, grace_s: int = 10) -> int:
        """SIGTERM, and SIGKILL when the grace is over; the exit status."""
        self.podman("stop", f"--time={grace_s}", self.name)
        return int(self.podman("wait", self.name))


@dataclass(frozen=True)
class Volumes:
    """The two folders that a pod lends to its sidecar."""

    socket: Path
    data: Path

    @property
    def agent_sock(self) -> Path:
        return self.socket / "agent.sock"

    @property
    def mounts(self) -> tuple[str, str]:
        return f"--volume={self.socket}:{SOCKET}", f"--volume={self.data}:{DATA}"


def volumes(folder: Path) -> Volumes:
    """As tight as they may be: only the group gets in."""
    made = Volumes(folder / "socket", folder / "data")
    for each in (made.socket, made.data):
        each.mkdir(parents=True)
        os.chown(each, 0, GID)
        each.chmod(0o770)
    return made


@contextmanager
def sidecar(
    podman: Podman, lent: Volumes, *options: str, argv: Sequence[str] = ()
) -> Iterator[Box]:
    """A sidecar as a pod has it, all rights taken away, until the block ends."""
    name = f"image-{os.getpid()}-{next(_numbers)}"
    quietly = [each for each in QUIETLY if each != "--rm"]  # its end is looked at
    try:
        podman("run", "--detach", f"--name={name}", *quietly, *LOCKED_DOWN, *lent.mounts,
               *options, IMAGE, *argv)  # fmt: skip
        yield Box(podman, name)
    finally:
        podman.remove(name)


def beside(podman: Podman, box: Box, script: str, *args: str) -> str:
    """What a Python script prints, in another container with the box's network."""
    network = f"--network=container:{box.name}"
    options = (*QUIETLY, *LOCKED_DOWN, network, f"--entrypoint={PYTHON}", *args)
    return podman("run", *options, IMAGE, "-c", script)


def wait_for(path: Path) -> float:
    """When a socket was there, in seconds since the epoch."""
    ends_s = time.monotonic() + UP_S_MAX
    while not path.is_socket():
        if time.monotonic() > ends_s:
            raise TimeoutError(f"no {path} after {UP_S_MAX:g} s")
        time.sleep(LOOK_S)
    return time.time()
