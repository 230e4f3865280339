"""Pods of probes: containers that note what is done to them, for tests of the model itself."""

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.kubelet.node import Kubelet
from tests.kubelet.spec import ContainerSpec, ExecHook

PROBE: Final = str(Path(__file__).parent / "probe.py")
UP_S: Final = 20.0
"""For two dozen interpreters that start at once on a busy machine."""


@dataclass(frozen=True)
class Probes:
    """Where probes of one pod keep their notes."""

    folder: Path

    def container(
        self,
        name: str,
        *,
        exits_after_term_s: float | None = None,
        flags: tuple[str, ...] = (),
        **spec: Any,
    ) -> ContainerSpec:
        """A probe; `spec` are fields of `ContainerSpec`. Never ends by itself unless told to."""
        argv = [sys.executable, "-SI", PROBE, "--notes", str(self._notes(name)), *flags]
        if exits_after_term_s is not None:
            argv.append(f"--exits-after-term-s={exits_after_term_s}")
        return ContainerSpec(name=name, argv=argv, **spec)

    def hook(self, name: str, seconds: float) -> ExecHook:
        """An exec hook that takes its time, and leaves a line when it begins and when it ends."""
        marks = self._marks(name)
        script = f'echo began >> "{marks}"; sleep {seconds}; echo ended >> "{marks}"'
        return ExecHook(("/bin/sh", "-c", script))

    def hook_lines(self, name: str) -> list[str]:
        marks = self._marks(name)
        return marks.read_text().split() if marks.exists() else []

    async def wait_up(self, *names: str, times: int = 1) -> None:
        """Until these probes listen to signals. Raises `TimeoutError`."""
        async with asyncio.timeout(UP_S):
            while any(len(self.notes(name, "up")) < times for name in names):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def start(self, kubelet: Kubelet) -> None:
        """Start the pod, and wait until all its probes are up."""
        await kubelet.start()
        await self.wait_up(*kubelet.containers)

    def notes(self, name: str, what: str) -> list[float]:
        """When a probe noted it, on the machine's monotonic clock."""
        path = self._notes(name)
        lines = path.read_text().splitlines() if path.exists() else []
        return [note["at_s"] for note in map(json.loads, lines) if note["what"] == what]

    def _notes(self, name: str) -> Path:
        return self.folder / f"{name}.notes"

    def _marks(self, name: str) -> Path:
        return self.folder / f"{name}.marks"
