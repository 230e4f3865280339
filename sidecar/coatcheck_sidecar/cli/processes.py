"""The supervisor's processes: the agent in a group of its own, its guard, and orphans to reap."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from coatcheck_sidecar import logs
from coatcheck_sidecar.cli import guard
from coatcheck_sidecar.core.supervise import shell_status
from coatcheck_sidecar.ports import Clock

REST_S: Final = 2.0
"""What an agent's children get to end after it, once they are told."""
REST_LOOK_S: Final = 0.05
"""Of grandchildren nobody is told when they end: they are looked for."""
INIT: Final = 1
PYTHON_SETS: Final = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores these, and a program that it starts should not."""


class Agent:
    """One life of the agent: its process, and those that it started in its group."""

    def __init__(self, pid: int, clock: Clock) -> None:
        """`pid` is its process group as well."""
        self.pid = pid
        self.began_s = clock.monotonic()
        self.gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Its status, as a shell has it."""
        self.is_cleared = False
        """Nobody is left, and its number may be another's by now."""

    def tell(self, number: int, *, everybody: bool = True) -> None:
        """Send a signal to the group, or to the agent alone."""
        with suppress(ProcessLookupError, PermissionError):
            if everybody and not self.is_cleared:
                os.killpg(self.pid, number)
            elif not self.gone.done():
                os.kill(self.pid, number)

    def has_rest(self) -> bool:
        """Some process of the group is still there."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # they became another user's: nothing of ours
            return False
        return True


class Processes:
    """Starts agents, one at a time, and reaps every child: as PID 1 those of others, too."""

    def __init__(self, clock: Clock) -> None:
        """Needs a running loop, in the main thread."""
        self._clock = clock
        self._agent: Agent | None = None
        self._guard: Guard | None = None
        self.has_lent_terminal = False
        """The agent reads the terminal, and gets what is typed there, Ctrl-C too."""
        # uvloop keeps SIGCHLD for processes that it started itself, of which there are none.
        loop = asyncio.get_running_loop()
        signal.signal(signal.SIGCHLD, lambda *_: loop.call_soon_threadsafe(self._reap))

    def start(self, args: Sequence[str], environ: Mapping[str, str]) -> Agent:
        """A new agent. Raises `OSError`."""
        if self._guard is None and os.getpid() != INIT:  # PID 1 takes all with it
            self._guard = Guard()
        pid = os.posix_spawn(args[0], [*args], environ, setpgroup=0, setsigdef=PYTHON_SETS)
        self._agent = Agent(pid, self._clock)
        self._tell_guard(pid)
        return self._agent

    async def clear(self, agent: Agent) -> None:
        """See that the children of an agent that has gone go as well."""
        until_s = self._clock.monotonic() + REST_S
        while agent.has_rest() and self._clock.monotonic() < until_s:
            await self._clock.sleep(REST_LOOK_S)
        agent.tell(signal.SIGKILL)
        agent.is_cleared = True
        self._tell_guard(0)

    def _tell_guard(self, group: int) -> None:
        if self._guard is not None:
            self._guard.tell(group)

    def _reap(self) -> None:
        kinds = os.WEXITED | os.WSTOPPED | os.WNOHANG
        with suppress(ChildProcessError):
            while (child := os.waitid(os.P_ALL, 0, kinds)) is not None:
                agent = self._agent
                is_agent = agent is not None and agent.pid == child.si_pid
                if child.si_code == os.CLD_STOPPED:
                    if is_agent and child.si_status in (signal.SIGTTIN, signal.SIGTTOU):
                        self._lend_terminal()
                    continue
                is_exit = child.si_code == os.CLD_EXITED
                status = child.si_status if is_exit else shell_status(-child.si_status)
                if agent is not None and is_agent and not agent.gone.done():
                    agent.gone.set_result(status)
                elif self._guard is not None and child.si_pid == self._guard.pid:
                    self._replace_guard(status)
                else:
                    logs.write("debug", "reaped", pid=child.si_pid, status=status)

    def _replace_guard(self, status: int) -> None:
        """Without one an agent would outlive the supervisor."""
        logs.write("warning", "guard_died", status=status)
        if self._guard is not None:
            self._guard.close()
        self._guard = Guard()
        agent = self._agent
        self._tell_guard(0 if agent is None or agent.is_cleared else agent.pid)

    def _lend_terminal(self) -> None:
        """An agent that wants the terminal gets it, as a shell gives it to a job."""
        if self._agent is not None and _give_terminal(self._agent.pid):
            self.has_lent_terminal = True
            self._agent.tell(signal.SIGCONT)

    async def close(self) -> None:
        """End what is left of the agent, and its guard."""
        if self._agent is not None and not self._agent.is_cleared:
            self._agent.tell(signal.SIGKILL)
            await self._agent.gone
        self._tell_guard(0)
        if self._guard is not None:
            self._guard.close()
            self._guard = None
        if self.has_lent_terminal:
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            _give_terminal(os.getpgrp())
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


class Guard:
    """A process that ends the agent's if this one is killed: then its pipe closes."""

    def __init__(self) -> None:
        """Start it."""
        theirs, self._pipe = os.pipe()
        actions = [
            (os.POSIX_SPAWN_DUP2, theirs, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        args = [sys.executable, "-I", "-S", str(Path(guard.__file__))]
        self.pid = os.posix_spawn(args[0], args, os.environ, file_actions=actions, setpgroup=0)
        os.close(theirs)

    def tell(self, group: int) -> None:
        """The process group to guard; 0: none."""
        with suppress(BrokenPipeError):
            os.write(self._pipe, f"{group}\n".encode())

    def close(self) -> None:
        """Let it go: it ends what it guards, if anything, and then itself."""
        os.close(self._pipe)


def _give_terminal(group: int) -> bool:
    try:
        os.tcsetpgrp(sys.stdin.fileno(), group)
    except OSError:  # there is none
        return False
    return True
