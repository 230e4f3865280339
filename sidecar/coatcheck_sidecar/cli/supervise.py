"""The life of an agent beside the sidecar of `coatcheck run`: started, told, stopped, again."""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import click

from coatcheck_sidecar import logs
from coatcheck_sidecar.__main__ import EX_CONFIG, Parts
from coatcheck_sidecar.cli.observe import show
from coatcheck_sidecar.cli.processes import Agent, Processes
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.supervise import SIGNALLED, Restarts, exit_status
from coatcheck_sidecar.engine.keeper import Keeper

STOPS: Final = (signal.SIGTERM, signal.SIGINT)
PASSED_ON: Final = (
    signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH,
)  # fmt: skip
SAME_S: Final = 0.1
"""A signal that comes again so soon is the same one: of the terminal, and of whoever started us."""
LEAVE_S: Final = 1.0
"""An agent whose runs are released is mostly on its way out: it should get there by itself."""
LEAVE_SHARE: Final = 0.25
"""Of what is left of the grace, at most: it may need the signal after all."""
EX_NO_EXEC: Final = 126
"""As a shell says that a command can't be executed."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run, and how."""

    args: Sequence[str]
    environ: Mapping[str, str]
    restarts: Restarts
    stop: signal.Signals
    """What the agent is told to stop by where no signal told us."""
    passes_on: bool = False
    """It is `coatcheck exec`, which tells its command by itself."""


class Supervisor:
    """Keeps an agent going until it is over, or until it must stop."""

    def __init__(self, parts: Parts, order: Order) -> None:
        """Needs a running loop."""
        loop = asyncio.get_running_loop()
        self._stop: asyncio.Future[signal.Signals | None] = loop.create_future()
        """Told to stop by this signal; `None`: there is a reason of our own."""
        self._cut: asyncio.Future[signal.Signals] = loop.create_future()
        """Told again: at once."""
        self._parts = parts
        self._drain = parts.sidecar.drain
        self._clock = parts.sidecar.doors.clock
        self._order = order
        self._processes = Processes(self._clock)
        self._agent: Agent | None = None
        self._told_s = 0.0

    async def run(self, early: asyncio.Queue[signal.Signals]) -> int:
        """Until the end; the exit status. `early` are signals that came before."""
        self._listen()
        while not early.empty():
            self._on_stop(early.get_nowait())
        try:
            return await self._live()
        finally:
            await self._processes.close()

    # Signals

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in STOPS:
            loop.add_signal_handler(number, self._on_stop, number)
        for number in PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup meant it
                loop.add_signal_handler(number, self._pass_on, number)
        loop.add_signal_handler(signal.SIGTSTP, self._pause)
        self._parts.unfit.add_done_callback(lambda _: self._on_stop(None))

    def _on_stop(self, number: signal.Signals | None) -> None:
        now_s = self._clock.monotonic()
        if not self._stop.done():
            self._told_s = now_s
            self._stop.set_result(number)
            if sys.stderr.isatty():
                click.echo("coatcheck: stopping at the next step; once more: at once", err=True)
        elif number is not None and now_s - self._told_s > SAME_S and not self._cut.done():
            self._cut.set_result(number)

    def _pass_on(self, number: signal.Signals) -> None:
        """To the agent alone: of its children, those that don't know the signal would die of it."""
        if self._agent is not None:
            self._agent.tell(number, everybody=number == signal.SIGWINCH)

    def _pause(self) -> None:
        """Ctrl-Z: the agent stops first and goes on last, as it waits for the sidecar."""
        if self._agent is not None:
            self._agent.tell(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGSTOP)
        if self._agent is not None:
            self._agent.tell(signal.SIGCONT)

    # Living

    async def _live(self) -> int:
        restarts = self._order.restarts
        while not self._stop.done():
            try:
                agent = self._processes.start(self._order.args, self._order.environ)
            except OSError as error:
                logs.write("critical", "start_failed", error=str(error))
                return await self._ended(EX_NO_EXEC)
            self._agent = agent
            await _first(agent.gone, self._stop)
            if not agent.gone.done():
                return await self._wind_down(agent)
            agent.tell(signal.SIGTERM)  # what it left behind
            await self._processes.clear(agent)
            status = agent.gone.result()
            if self._drain.is_begun or self._was_interrupted(status):
                return await self._wind_down(agent)
            lived_s = self._clock.monotonic() - agent.began_s
            restarts, delay_s = restarts.after(status, lived_s=lived_s)
            if delay_s is None:
                return await self._ended(status)
            logs.write("warning", "agent_restarts", status=status, delay_s=delay_s)
            await _first(self._stop, within_s=delay_s)
        return await self._wind_down(self._agent)

    def _was_interrupted(self, status: int) -> bool:
        """By Ctrl-C, which goes to the agent once it has the terminal."""
        return self._processes.has_lent_terminal and status == SIGNALLED + signal.SIGINT

    # Ending

    async def _wind_down(self, agent: Agent | None) -> int:
        """Stop: runs first, then the agent that had them."""
        self._tell_observed()
        told = self._stop.result() if self._stop.done() else None
        self._drain.begin(told.name if told else "the supervisor")
        number = told or self._order.stop
        status = 0
        if agent is not None:
            if not agent.gone.done():
                await self._see_off(agent, number)
            status = await agent.gone
            await self._processes.clear(agent)
        is_safe = await self._unless(self._drain.finish(), self._cut)
        if self._parts.unfit.done():
            return EX_CONFIG
        if self._cut.done():
            return SIGNALLED + self._cut.result()
        return exit_status(status, told=number, is_safe=is_safe)

    async def _see_off(self, agent: Agent, number: signal.Signals) -> None:
        """Tell the agent once its runs are safe, or at the cap; kill it at the deadline."""
        if await self._unless(self._drain.barrier(), agent.gone, self._cut):
            within_s = min(LEAVE_S, self._left_s() * LEAVE_SHARE)
            await _first(agent.gone, self._cut, within_s=within_s)
        if not self._cut.done():
            agent.tell(number, everybody=not self._order.passes_on)
        await _first(agent.gone, self._cut, within_s=self._left_s())
        if not agent.gone.done():
            logs.write("warning", "agent_killed", told=number.name)
            agent.tell(signal.SIGKILL)

    def _left_s(self) -> float:
        """Until the agent must be gone: of the margin, half is for what follows."""
        if self._drain.latch is None:
            return 0.0
        end_s = self._drain.latch.deadline_s + self._parts.sidecar.settings.margin_s / 2
        return max(0.0, end_s - self._clock.monotonic())

    async def _ended(self, status: int) -> int:
        """The agent is over. If it crashed, its runs are for the next one: the breaker counts."""
        self._tell_observed()
        async with asyncio.TaskGroup() as group:
            releases = []
            if status:
                error = f"the agent ended with {status}"
                runs = [k for k in self._parts.sidecar.keepers.values() if not k.is_over]
                releases = [group.create_task(_release(keeper, error)) for keeper in runs]
                await asyncio.sleep(0)  # so that the drain finds them released
            self._drain.begin("the agent ended")
            is_safe = await self._unless(self._drain.finish(), self._cut)
            for release in releases:
                release.cancel()
        return exit_status(status, told=None, is_safe=is_safe)

    def _tell_observed(self) -> None:
        """Before the drain saves what would be lost."""
        if self._parts.watch is not None:
            show(self._parts.watch.tell(self._parts.sidecar.doors.observer), is_aside=True)

    async def _unless(
        self, work: Coroutine[Any, Any, bool], *others: "asyncio.Future[Any]"
    ) -> bool:
        """Its result; false if another comes first."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            await _first(task, *others)
            task.cancel()
        return not task.cancelled() and task.result()


async def _first(*futures: "asyncio.Future[Any]", within_s: float | None = None) -> None:
    await asyncio.wait(futures, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)


async def _release(keeper: Keeper, error: str) -> None:
    with suppress(Refusal):
        await keeper.release("error", error)
