"""Runs an agent that can't be changed, in a run of its own, beside the sidecar of its pod.

Example: coatcheck exec --run order-4711 -- python agent.py
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from coatcheck import _base
from coatcheck._run import Run
from coatcheck.errors import CoatcheckError, StepOver

STOPS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
PASSED_ON: Final = (*STOPS, signal.SIGUSR1, signal.SIGUSR2)
EXIT_UNAVAILABLE: Final = 69
"""EX_UNAVAILABLE of sysexits.h: the sidecar, or the run, can't be had."""
SIGNALLED: Final = 128
"""As a shell says it: 128 and the signal's number."""
STATELESS: Final[_base.OpenOptions] = {"schema": 1}
"""There is no state, and so it never changes its shape."""


def main() -> int:
    """Run a command in a run of its own; the exit status, which is the command's."""
    parser = argparse.ArgumentParser("coatcheck exec", description=__doc__)
    parser.add_argument("--run", help="its name, else COATCHECK_RUN_ID; begun if there is none")
    parser.add_argument("--queue", help="claim whichever run of this queue is ready next")
    parser.add_argument("command", nargs="+", help="the agent, and its arguments")
    options = parser.parse_args(sys.argv[2:])
    if shutil.which(options.command[0]) is None:
        parser.error(f"there is no command {options.command[0]}")
    try:
        asked = _base.claiming_of(options.queue, STATELESS) if options.queue else None
        asked = asked or _base.opening_of(options.run, STATELESS)
        return asyncio.run(_kept(Run(asked), options.command))
    except (CoatcheckError, StepOver, ValueError) as error:
        parser.exit(EXIT_UNAVAILABLE, f"coatcheck exec: {error}\n")


async def _kept(run: Run, command: Sequence[str]) -> int:
    """Do the command while the run is ours. One that ends well, unasked, finishes the run."""
    agent: asyncio.subprocess.Process | None = None
    loop, opening = asyncio.get_running_loop(), asyncio.current_task()
    is_told, status = False, SIGNALLED + signal.SIGTERM

    def pass_on(number: int) -> None:
        nonlocal is_told
        is_told = is_told or number in STOPS
        is_from_terminal = number == signal.SIGINT and sys.stdin.isatty()
        if agent is None and opening is not None:
            opening.cancel()
        elif agent is not None and agent.returncode is None and not is_from_terminal:
            agent.send_signal(number)

    for number in PASSED_ON:
        loop.add_signal_handler(number, pass_on, number)
    run._session.on_stop = lambda: None if is_told else pass_on(signal.SIGTERM)
    with suppress(ChildProcessError, asyncio.CancelledError):  # released by now, and counted
        async with run:
            if run.is_finished:
                return 0
            run._session.check()
            agent = await asyncio.create_subprocess_exec(*command, env=os.environ | run._environ())
            code = await agent.wait()
            status = code if code >= 0 else SIGNALLED - code
            if status and not is_told:
                raise ChildProcessError(f"the command ended with {status}")
            if not is_told:
                await run.finish()
    return status
