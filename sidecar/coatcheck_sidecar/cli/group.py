"""The commands. A command's module is imported when it is named: none waits for another's parts."""

from collections.abc import Mapping
from importlib import import_module
from typing import Final

import click

COMMANDS: Final[Mapping[str, str]] = {
    "sidecar": "Run the sidecar of a pod.",
    "run": "Run an agent with a sidecar of its own, no cluster needed.",
    "exec": "Run an agent that can't be changed, in a run of its own.",
    "mcp": "Run an MCP server over standard input and output, its calls by way of the sidecar.",
    "submit": "Make a run that the next idle agent takes.",
    "runs": "List runs.",
    "queue": "Show what waits in the queues, and how much of it wants a pod.",
    "map": "Show how long runs take, and what a shutdown can do with that.",
    "show": "Show a run: its state, calls and signals.",
    "log": "Show the records of a run that still count.",
    "observe": "Show what a deploy now would lose and double (mode observe).",
    "health": "Ask the sidecar of this pod how it is, for a container's health check.",
    "doctor": "Say what is wrong with a manifest or a pod, why it bites, and the mend.",
    "drain": "Shut this pod down in good order, or see how that stands.",
    "inject": "Put the sidecar into the pods of manifests.",
    "uninject": "Take it out again.",
    "doubts": "List calls in doubt.",
    "signal": "Send a run a value that it waits for.",
    "resolve": "Decide what became of a call in doubt.",
    "cancel": "End a run.",
    "retry": "Let a held run go on.",
    "compensate": "Take back what a run did.",
    "rewind": "Set a run back to an older checkpoint.",
    "verify": "Hold every object of a run against its digest.",
    "preflight": "Show which runs a new image would pass over.",
    "gc": "Delete what no run's head names any more.",
    "delete": "Erase a run that is over.",
    "webhook": "Add the sidecar to annotated pods as they are made.",
}
"""Every command, and its line in `coatcheck --help`."""


class LazyGroup(click.Group):
    """Imports a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """`None` if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"coatcheck_sidecar.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table alone: help imports no command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


EXAMPLE: Final = """\b
Example: coatcheck run -- python agent.py
"""

HELP_NAMES: Final = {"help_option_names": ["-h", "--help"]}


def _version(ctx: click.Context, _param: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        from coatcheck_sidecar.config import release

        click.echo(f"coatcheck, version {release()}")
        ctx.exit()


@click.group(cls=LazyGroup, epilog=EXAMPLE, context_settings=HELP_NAMES)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
              help="Show the version and exit.")  # fmt: skip
def cli() -> None:
    """Deploy long-running AI agents without losing in-flight work."""
