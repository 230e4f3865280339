"""The life of an agent beside the sidecar of `coatcheck run`: started, told, stopped, again."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import click

from coatcheck_sidecar.__main__ import EX_CONFIG, Parts
from coatcheck_sidecar.cli.processes import Agent, Processes
from coatcheck_sidecar.core.supervise import SIGNALLED, Restarts, exit_status

STOPS: Final = (signal.SIGTERM, signal.SIGINT)
PASSED_ON: Final = (
    signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGQUIT,
)  # fmt: skip
SAME_S: Final = 0.1
"""A signal that comes again so soon is the same one: by the terminal, and by whoever started us."""
EX_NO_EXEC: Final = 126
"""As a shell says that a command can't be executed."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run."""

    args: Sequence[str]
    environ: Mapping[str, str]
    restarts: Restarts
    stop: signal.Signals
    """What the agent is told where nobody told us."""
    passes_on: bool = False
    """It is `coatcheck exec`, which tells the command itself."""


class Orders:
    """What we were told: to stop, then to stop at once; the rest is the agent's."""

    def __init__(self, parts: Parts) -> None:
        """Needs a running loop."""
        loop = asyncio.get_running_loop()
        self.stop: asyncio.Future[signal.Signals | None] = loop.create_future()
        """By this signal; `None`: for a reason of our own."""
        self.cut: asyncio.Future[signal.Signals] = loop.create_future()
        self.agent: Agent | None = None


class Supervisor:
    """Keeps an agent going until it is over, or until it must stop."""
