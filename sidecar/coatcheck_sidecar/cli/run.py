"""`coatcheck run -- CMD`: a sidecar and an agent, for places with one container or none."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple

import click

from coatcheck_sidecar import logs
from coatcheck_sidecar.__main__ import guarded, running
from coatcheck_sidecar.cli.common import HOME
from coatcheck_sidecar.cli.exec import exec_args
from coatcheck_sidecar.cli.supervise import STOPS, Order, Supervisor
from coatcheck_sidecar.config import EX_USAGE, Address, Config, load_config, parse_address
from coatcheck_sidecar.config_sources import PREFIX, ConfigError, dotted, from_file
from coatcheck_sidecar.core.platforms import PLATFORMS, Platform, detect
from coatcheck_sidecar.core.supervise import SIGNALLED, Policy, Restarts
from coatcheck_sidecar.servers.ping import ping_server
from coatcheck_sidecar.servers.routes import upstreams_of

EXAMPLE: Final = """\b
Example: coatcheck run -- python agent.py
Example: coatcheck run --run order-4711 -- ./agent-without-the-sdk.sh
Example: coatcheck run --platform fly --grace-s 60 --restart on-failure -- python agent.py
"""
EX_NOT_FOUND: Final = 127
"""As a shell says that there is no such command."""


def _ping(_ctx: click.Context, _param: click.Parameter, text: str | None) -> Address | None:
    try:
        return None if text is None else parse_address(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


class Plan(NamedTuple):
    """What the command line asks for, settings apart."""

    args: Sequence[str]
    platform: Platform
    restarts: Restarts
    passes_on: bool
    ping: Address | None


@click.command(epilog=EXAMPLE, context_settings={"ignore_unknown_options": True})
@click.option("--data", metavar="FOLDER", help=f"Journal, and the store.  [{HOME}]")
@click.option("--store", metavar="URL", envvar="COATCHECK_STORE", help="[a folder in the data's]")
@click.option("--config", "config_file", metavar="FILE", help="Other settings, as YAML.")
@click.option("--run", metavar="RUN", help="Open this run for an agent that doesn't by itself.")
@click.option("--queue", metavar="QUEUE", help="Likewise, whichever run of it is ready next.")
@click.option("--platform", type=click.Choice(list(PLATFORMS)), help="Its grace.  [detected]")
@click.option("--grace-s", metavar="SECONDS", help="From the signal to SIGKILL.  [the platform's]")
@click.option("--restart", type=click.Choice([policy.value for policy in Policy]), default="no",
              show_default=True, help="Start an agent again that ended by itself.")  # fmt: skip
@click.option("--restart-max", metavar="N", type=click.IntRange(min=0), help="At most, in a row.")
@click.option("--ping", metavar="HOST:PORT", callback=_ping, help="Answer AgentCore's GET /ping.")
@click.argument("command_line", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    *,
    run: str | None,
    queue: str | None,
    platform: str | None,
    restart: str,
    restart_max: int | None,
    ping: Address | None,
    command_line: Sequence[str],
    config_file: str | None,
    **flags: str | None,
) -> None:
    """Run an agent beside a sidecar of its own; the exit status is the agent's.

    With --run or --queue the agent needs no SDK: as by `coatcheck exec`, its run is opened for it,
    and it finds its tools by COATCHECK_PROXY_URL and the variables that they name.

    On SIGTERM or SIGINT the agent's runs stop at their next step boundary and are released; then
    the agent gets the signal, and SIGKILL if it is still there at the end of the grace. A second
    signal ends all at once. Other signals are the agent's. It does not outlive this process.
    """
    for number in STOPS:  # PID 1 hears of no signal without a handler
        signal.signal(number, lambda number, _: sys.exit(SIGNALLED + number))
    program = shutil.which(command_line[0])
    if program is None:
        click.echo(f"Error: there is no command {command_line[0]!r}", err=True)
        sys.exit(EX_NOT_FOUND)
    args = [program, *command_line[1:]]
    if run or queue:
        args = exec_args(args, run=run, queue=queue)
    place = PLATFORMS[platform or detect(os.environ, pid=os.getpid())]
    restarts = Restarts(Policy(restart), restart_max)
    plan = Plan(args, place, restarts, passes_on=bool(run or queue), ping=ping)
    folder = Path(tempfile.mkdtemp(prefix="coatcheck-"))  # short: a socket's path has 107 bytes
    try:
        config = settings(folder, flags, config_file=config_file, place=place)
        sys.exit(guarded(config, lambda: _supervise(config, plan)))
    except ConfigError as error:
        click.echo(f"coatcheck: {error}", err=True)
        sys.exit(EX_USAGE)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settings(
    folder: Path, flags: Mapping[str, str | None], *, config_file: str | None, place: Platform
) -> Config:
    """What nobody said is as it suits the place; ports are free ones, so that many can run here."""
    usual = {
        "data": str(HOME.expanduser()),
        "log_level": "warning",
        "listen": "127.0.0.1:0",
        "admin_listen": "127.0.0.1:0",
        "grace_s": str(place.grace_s),
    }
    in_file = {
        dotted(path) for path, _ in from_file(config_file or os.environ.get("COATCHECK_CONFIG"), [])
    }
    defaults = {
        PREFIX + name.upper(): value for name, value in usual.items() if name not in in_file
    }
    given = {name: value for name, value in flags.items() if value is not None}
    given["socket"] = str(folder / "agent.sock")
    return load_config(given, environ={**defaults, **os.environ}, config_file=config_file)


async def _supervise(config: Config, plan: Plan) -> int:
    early: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in STOPS:
        loop.add_signal_handler(number, early.put_nowait, number)
    if config.grace_s > plan.platform.grace_s_max:
        known = {"grace_s": config.grace_s, "grace_s_max": plan.platform.grace_s_max}
        logs.write("warning", "grace_beyond_platform", **known)
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(running(config))
        environ = {**os.environ, "COATCHECK_SOCKET": str(config.socket)}
        if config.mode == "off":  # nothing goes through the proxy: who builds a URL is to notice
            environ = {**upstreams_of(config.tools.values()), **environ}
            environ.pop("COATCHECK_PROXY_URL", None)
        else:
            environ["COATCHECK_PROXY_URL"] = f"http://127.0.0.1:{parts.local.port}"
        if plan.ping is not None:
            keepers, clock = parts.sidecar.keepers, parts.sidecar.doors.clock
            server = ping_server(
                lambda: len(keepers), clock, host=plan.ping.host, port=plan.ping.port
            )
            port = (await stack.enter_async_context(server)).port
            environ["COATCHECK_PING_URL"] = f"http://127.0.0.1:{port}/ping"
        order = Order(
            plan.args,
            environ,
            restarts=plan.restarts,
            stop=plan.platform.stop,
            passes_on=plan.passes_on,
        )
        return await Supervisor(parts, order).run(early)
