"""`coatcheck mcp -- CMD`: a stdio MCP server whose tool calls go through the sidecar."""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

import click

from coatcheck_sidecar.config import EX_USAGE

EXAMPLE: Final = """\b
Example: coatcheck mcp --tool files -- npx @modelcontextprotocol/server-filesystem /data
"""
EX_NOT_FOUND: Final = 127
"""As a shell says that there is no such command."""
NAME_CHARS_MAX: Final = 64


@click.command(epilog=EXAMPLE, context_settings={"ignore_unknown_options": True})
@click.option("--tool", metavar="NAME", default="stdio",
              help="A tool of the configuration, with `mcp: \"stdio:\"`.  [stdio]")  # fmt: skip
@click.option("--name", metavar="NAME", help="Tells servers of one tool apart.  [from CMD]")
@click.option("--url", metavar="URL", envvar="COATCHECK_PROXY_URL",
              help="Of the run's proxy, or COATCHECK_PROXY_URL.")  # fmt: skip
@click.argument("command_line", nargs=-1, required=True, type=click.UNPROCESSED)
def command(*, tool: str, name: str | None, url: str | None, command_line: Sequence[str]) -> None:
    """Run an MCP server for an agent's client; the exit status is the server's.

    Put it in front of the server's command, where the client has it. `coatcheck exec` and
    `coatcheck run` set COATCHECK_PROXY_URL; SDKs of MCP pass on few variables, so name it there.
    With COATCHECK_MODE=off the server is started as it is.
    """
    program = shutil.which(command_line[0])
    if program is None:
        click.echo(f"Error: there is no command {command_line[0]!r}", err=True)
        sys.exit(EX_NOT_FOUND)
    if os.environ.get("COATCHECK_MODE") == "off":
        os.execv(program, list(command_line))  # noqa: S606 - the command that was asked for
    if not url:
        click.echo(
            "Error: whose tool calls are these? Set COATCHECK_PROXY_URL, as `coatcheck exec` and "
            "`coatcheck run` do, or give --url",
            err=True,
        )
        sys.exit(EX_USAGE)
    from coatcheck_sidecar.cli.mcp_wrapper import wrap

    place = f"{url.rstrip('/')}/{tool}?server={name or name_of(command_line)}"
    sys.exit(asyncio.run(wrap(place, [program, *command_line[1:]])))


def name_of(command_line: Sequence[str]) -> str:
    """From the command: the program's name, and the first thing that it is told to run."""
    told = next((word for word in command_line[1:] if not word.startswith("-")), "")
    name = "-".join(PurePath(word).name for word in (command_line[0], told) if word)
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[:NAME_CHARS_MAX]
