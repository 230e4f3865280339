"""`coatcheck run -- CMD`: a sidecar and an agent, for machines without a cluster."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from coatcheck_sidecar.__main__ import Parts, guarded, running
from coatcheck_sidecar.cli.common import HOME
from coatcheck_sidecar.cli.exec import exec_args
from coatcheck_sidecar.cli.observe import show
from coatcheck_sidecar.config import EX_USAGE, Config, load_config
from coatcheck_sidecar.config_sources import ConfigError
from coatcheck_sidecar.servers.routes import upstreams_of

EXAMPLE: Final = """\b
Example: coatcheck run -- python agent.py
Example: coatcheck run --run order-4711 -- ./agent-without-the-sdk.sh
"""
EX_NOT_FOUND: Final = 127
"""As a shell says that there is no such command."""
SIGNALLED: Final = 128
"""As a shell says it: 128 and the signal's number."""
STOP_S: Final = 5.0
"""What an agent gets after SIGTERM, once its runs are safe, before it is killed."""


@click.command(epilog=EXAMPLE, context_settings={"ignore_unknown_options": True})
@click.option("--data", metavar="FOLDER", help=f"Journal, and the store.  [{HOME}]")
@click.option("--store", metavar="URL", envvar="COATCHECK_STORE", help="[a folder in the data's]")
@click.option("--config", "config_file", metavar="FILE", help="Other settings, as YAML.")
@click.option("--run", metavar="RUN", help="Open this run for an agent that doesn't by itself.")
@click.option("--queue", metavar="QUEUE", help="Likewise, whichever run of it is ready next.")
@click.argument("command_line", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    *,
    data: str | None,
    store: str | None,
    config_file: str | None,
    run: str | None,
    queue: str | None,
    command_line: Sequence[str],
) -> None:
    """Run an agent beside a sidecar of its own; the exit status is the agent's.

    With --run or --queue the agent needs no SDK: as by `coatcheck exec`, its run is opened for it,
    and it finds its tools by COATCHECK_PROXY_URL and the variables that they name.

    On SIGTERM or SIGINT the agent's runs stop at their next step boundary and are released; then
    the agent gets the signal. A second one ends both at once.
    """
    program = shutil.which(command_line[0])
    if program is None:
        click.echo(f"Error: there is no command {command_line[0]!r}", err=True)
        sys.exit(EX_NOT_FOUND)
    folder = Path(tempfile.mkdtemp(prefix="coatcheck-"))  # short: a socket's path has 107 bytes
    try:
        config = _config(folder, data=data, store=store, config_file=config_file)
        args = [program, *command_line[1:]]
        if run or queue:
            args = exec_args(args, run=run, queue=queue)
        sys.exit(_run(config, args))
    except ConfigError as error:
        click.echo(f"coatcheck: {error}", err=True)
        sys.exit(EX_USAGE)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _config(
    folder: Path, *, data: str | None, store: str | None, config_file: str | None
) -> Config:
    """Ports are any that are free, so that several can run beside each other."""
    home = {"COATCHECK_DATA": str(HOME.expanduser()), "COATCHECK_LOG_LEVEL": "warning"}
    ports = {"COATCHECK_LISTEN": "127.0.0.1:0", "COATCHECK_ADMIN_LISTEN": "127.0.0.1:0"}
    flags: dict[str, object] = {"socket": str(folder / "agent.sock")}
    flags |= {k: v for k, v in (("data", data), ("store", store)) if v is not None}
    return load_config(flags, environ={**home, **ports, **os.environ}, config_file=config_file)


def _run(config: Config, args: Sequence[str]) -> int:
    return guarded(config, lambda: _supervise(config, args))


async def _supervise(config: Config, args: Sequence[str]) -> int:
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    async with running(config) as parts:
        environ = {
            **(upstreams_of(config.tools.values()) if config.mode == "off" else {}),
            **os.environ,
            "COATCHECK_SOCKET": str(config.socket),
            "COATCHECK_PROXY_URL": f"http://127.0.0.1:{parts.local.port}",
        }
        agent = await asyncio.create_subprocess_exec(*args, env=environ)
        try:
            status = await _until_gone(agent, signals, parts=parts, grace_s=config.grace_s)
        finally:
            if agent.returncode is None:
                agent.kill()
                await agent.wait()
        return status


async def _until_gone(
    agent: Process, signals: asyncio.Queue[signal.Signals], *, parts: Parts, grace_s: float
) -> int:
    """Wait for the agent, or stop it; then let go of its runs. Its status as a shell has it."""
    async with asyncio.TaskGroup() as group:
        gone = group.create_task(agent.wait())
        told = group.create_task(signals.get())
        await asyncio.wait([gone, told], return_when=asyncio.FIRST_COMPLETED)
        if parts.watch is not None:
            show(parts.watch.tell(parts.sidecar.doors.observer), is_aside=True)
        if told.done():
            parts.sidecar.drain.begin(told.result().name)
            drain = group.create_task(parts.sidecar.drain.finish())
            again = group.create_task(signals.get())
            await asyncio.wait([gone, drain, again], return_when=asyncio.FIRST_COMPLETED)
            is_from_terminal = told.result() == signal.SIGINT and sys.stdin.isatty()
            await _stop(agent, None if is_from_terminal else told.result())
            await asyncio.wait([drain, again], return_when=asyncio.FIRST_COMPLETED)
            drain.cancel()
            again.cancel()
        elif gone.result() == 0:
            parts.sidecar.drain.begin("the agent ended")
            await parts.sidecar.drain.finish()
        else:
            await _give_up(parts, f"the agent ended with {_status(gone.result())}", grace_s=grace_s)
        told.cancel()
    return _status(gone.result())


async def _stop(agent: Process, number: signal.Signals | None) -> None:
    """Pass a signal on (`None`: the terminal did), and see that the agent goes."""
    if agent.returncode is None and number is not None:
        agent.send_signal(number)
    try:
        async with asyncio.timeout(STOP_S):
            await agent.wait()
    except TimeoutError:
        agent.kill()


async def _give_up(parts: Parts, error: str, *, grace_s: float) -> None:
    """The agent crashed: its runs are for the next one, and the breaker counts."""
    keepers = [keeper for keeper in parts.sidecar.keepers.values() if not keeper.is_over]
    with suppress(TimeoutError):
        async with asyncio.timeout(grace_s):
            releases = [keeper.release("error", error) for keeper in keepers]
            await asyncio.gather(*releases, return_exceptions=True)
            await parts.sidecar.heart.stop()


def _status(returncode: int) -> int:
    return returncode if returncode >= 0 else SIGNALLED - returncode
