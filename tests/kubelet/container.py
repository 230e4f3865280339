"""The container runtime's side: processes, their ends, and commands run beside them.

A container lives on while the kubelet is away, and so does a hook that was started in it.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from examples.demo.processes import Child
from tests.kubelet.spec import ContainerSpec, PodLog, What

IGNORING_TERM: Final = ("/bin/sh", "-c", 'trap "" TERM; exec "$@"', "sh")
"""A program started like this ignores SIGTERM unless it asks for it, as the kernel has PID 1 do."""


class Container:
    """One container of a pod, restarted in place."""

    def __init__(
        self, spec: ContainerSpec, folder: Path, *, log: PodLog, on_exit: Callable[[str], None]
    ) -> None:
        """`on_exit` gets the container's name, in the event loop."""
        self.spec = spec
        self.starts = 0
        self._folder, self._log, self._on_exit = folder, log, on_exit
        self._child: Child | None = None
        self._execs: list[Child] = []
        self._ended = asyncio.Event()
        self._ended.set()

    @property
    def is_running(self) -> bool:
        return not self._ended.is_set()

    @property
    def exit_status(self) -> int | None:
        return self._child.exit_status if self._child else None

    @property
    def output(self) -> Path:
        return self._folder / f"{self.spec.name}.log"

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    @property
    def pid(self) -> int:
        if self._child is None:
            raise LookupError(f"{self.spec.name} was never started")
        return self._child.pid

    def start(self) -> None:
        """Start its process."""
        self.starts += 1
        self._child = self._started()
        self._ended.clear()
        self._log.say(What.START, self.spec.name)
        _watch(self._child.pid, self._end)

    def _started(self) -> Child:
        head = IGNORING_TERM if self.spec.is_pid_1 else ()
        return Child([*head, *self.spec.argv], env=self.spec.env, log=self.output)

    def _end(self) -> None:
        """PID 1 has ended: so does all that runs in the container."""
        assert self._child is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.kill()
        for each in self._execs:
            each.kill()
        self._execs.clear()
        self._ended.set()
        self._log.say(What.EXIT, self.spec.name, note=str(self._child.exit_status))
        self._on_exit(self.spec.name)

    def term(self) -> None:
        """SIGTERM to PID 1 and to nothing else."""
        if self._child is not None and self._child.is_alive:
            self._log.say(What.TERM, self.spec.name)
            self._signal(self._child, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to everything."""
        if self._child is not None and self._child.is_alive:
            self._log.say(What.KILL, self.spec.name)
            self._signal(self._child, signal.SIGKILL)

    def _signal(self, child: Child, number: signal.Signals) -> None:
        if number == signal.SIGKILL:
            child.send(number)
        else:
            os.kill(child.pid, number)

    async def run(self, *argv: str) -> int:
        """A command in the container; its exit status. Goes on if whoever waits is cancelled."""
        child = self._inside(argv)
        self._execs.append(child)
        ended = asyncio.Event()
        _watch(child.pid, ended.set)
        await ended.wait()
        return child.wait(0)

    def _inside(self, argv: Sequence[str]) -> Child:
        return Child(argv, env=self.spec.env, log=self.output.with_suffix(".hook.log"))

    async def wait(self) -> None:
        """Until its process has ended."""
        await self._ended.wait()

    def close(self) -> None:
        """Leave nothing behind."""
        for each in (*self._execs, *filter(None, [self._child])):
            each.kill()


class Runtime(Protocol):
    """Makes containers, as the class of them does."""

    def __call__(
        self, spec: ContainerSpec, folder: Path, *, log: PodLog, on_exit: Callable[[str], None]
    ) -> Container:
        """`on_exit` gets the container's name, in the event loop."""


def _watch(pid: int, call: Callable[[], None]) -> None:
    """Have the loop call once the process has ended; it is reaped by whoever asks next."""
    loop = asyncio.get_running_loop()
    fd = os.pidfd_open(pid)

    def ended() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        call()

    loop.add_reader(fd, ended)
