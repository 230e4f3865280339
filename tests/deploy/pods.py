"""Containers of podman behind the model of a kubelet: two of them share a pod.

The sidecar is the image as it is. The agent runs in another container under another user, with the
source tree as its program. Both have the machine's network, as a pod's containers have the pod's,
and a volume with the socket, which is theirs by a supplementary group.
"""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from examples.demo.processes import ROOT, Child
from tests.deploy.boxes import AGENT_UID, DATA, GID, PYTHON, SOCKET
from tests.deploy.podman import IMAGE, LOCKED_DOWN, QUIETLY, Podman
from tests.kubelet.container import Container, Runtime
from tests.kubelet.spec import ContainerSpec, PodLog

SIDECAR: Final = "sidecar"
BY_SIGNAL: Final = 128
EMPTY_DIR: Final = 0o777
"""What the kubelet makes an emptyDir with, where no `fsGroup` is asked for."""
SOURCE: Final = Path("/src")
WITNESS: Final = Path("/witness.jsonl")
OF_THE_HOST: Final = frozenset({"COATCHECK_DATA", "COATCHECK_SOCKET"})
"""Paths that are mounted where the image has them by default."""


class PodmanContainer(Container):
    """One container of a pod, by `podman run` and `podman kill`."""

    def __init__(
        self,
        podman: Podman,
        spec: ContainerSpec,
        folder: Path,
        *,
        log: PodLog,
        on_exit: Callable[[str], None],
    ) -> None:
        super().__init__(spec, folder, log=log, on_exit=on_exit)
        self._podman = podman
        self._kills: list[Child] = []

    @property
    def exit_status(self) -> int | None:
        """As of a process: negative if it ended by that signal."""
        status = super().exit_status
        return BY_SIGNAL - status if status is not None and status > BY_SIGNAL else status

    @property
    def _name(self) -> str:
        world, pod = self._folder.parent.parent.name, self._folder.name
        return f"{world}-{pod}-{self.spec.name}-{self.starts}"

    def _started(self) -> Child:
        is_sidecar = self.spec.name == SIDECAR
        role = self._sidecar() if is_sidecar else self._agent()
        settings = {key: value for key, value in self.spec.env.items() if key not in OF_THE_HOST}
        env = [f"--env={key}={value}" for key, value in settings.items()]
        return self._do(
            "run", f"--name={self._name}", *QUIETLY, *LOCKED_DOWN, "--network=host", *env, *role
        )

    def _sidecar(self) -> Sequence[str]:
        command = self.spec.argv[self.spec.argv.index("coatcheck") + 1 :]
        socket, data = self._volume("socket"), self._volume("data")
        return f"--volume={socket}:{SOCKET}", f"--volume={data}:{DATA}", IMAGE, *command

    def _agent(self) -> Sequence[str]:
        witness = Path(self.spec.env["DEMO_WITNESS"])
        witness.touch()
        os.chown(witness, AGENT_UID, AGENT_UID)
        source = (f"--volume={ROOT / tree}:{SOURCE / tree}:ro" for tree in ("tests", "examples"))
        return (
            f"--user={AGENT_UID}:{AGENT_UID}",
            f"--group-add={GID}",
            f"--volume={self._volume('socket')}:{SOCKET}",
            f"--volume={witness}:{WITNESS}",
            *source,
            f"--env=DEMO_WITNESS={WITNESS}",
            f"--env=PYTHONPATH={SOURCE}",
            f"--entrypoint={PYTHON}",
            IMAGE,
            *self.spec.argv[1:],
        )

    def _volume(self, name: str) -> Path:
        """An emptyDir of the pod: it outlives containers."""
        volume = self._folder / name
        volume.mkdir(exist_ok=True)
        volume.chmod(EMPTY_DIR)
        return volume

    def _signal(self, child: Child, number: signal.Signals) -> None:
        self._kills.append(self._do("kill", f"--signal={number.name}", self._name))

    def _inside(self, argv: Sequence[str]) -> Child:
        return self._do("exec", self._name, *argv)

    def _do(self, *args: str) -> Child:
        log = self.output if args[0] == "run" else self.output.with_suffix(".podman.log")
        return Child(["podman", *args], env=self._podman.env, log=log)

    def close(self) -> None:
        if self.starts:
            self._podman.remove(self._name)
        for each in self._kills:
            each.kill()
        super().close()


def runtime(podman: Podman) -> Runtime:
    """Makes containers for a kubelet."""

    def make(
        spec: ContainerSpec, folder: Path, *, log: PodLog, on_exit: Callable[[str], None]
    ) -> Container:
        return PodmanContainer(podman, spec, folder, log=log, on_exit=on_exit)

    return make
