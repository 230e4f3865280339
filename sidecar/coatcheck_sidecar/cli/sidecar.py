"""`coatcheck sidecar`."""

import sys
from collections.abc import Callable
from typing import Any, Final

import click

from coatcheck_sidecar.cli.start import start
from coatcheck_sidecar.config import SETTINGS, help_of
from coatcheck_sidecar.config_sources import CONFIG_FILE

EXAMPLE: Final = """\b
Example: coatcheck sidecar --store s3://bucket/agents --log-level debug
Every setting can also be COATCHECK_<NAME> in the environment, or <name> in the file.
Tools, prices and the forward proxy are in the file: see --help-file."""


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """A flag for each setting; checked with all the others, not by click."""
    for name in reversed(list(SETTINGS)):
        flag = "--" + name.replace("_", "-")
        command = click.option(flag, name, metavar="VALUE", help=help_of(name))(command)
    return command


def _help_file(ctx: click.Context, _param: click.Parameter, is_asked: bool) -> None:
    if not is_asked:
        return
    from coatcheck_sidecar.config_tools import FIELDS

    names = {"tools": "tools: {NAME: {...}}", "prices": "prices: {MODEL: {...}}"}
    for path, table in FIELDS.items():
        formatter = ctx.make_formatter()
        title = names.get(path[-1], f"{path[-1]}: {{...}}") + (" of a tool" if path[1:] else "")
        with formatter.section(title):
            formatter.write_dl([(name, help) for name, (_, help) in table.items()])
        click.echo(formatter.getvalue())
    ctx.exit()


@click.command(epilog=EXAMPLE)
@click.option("--help-file", is_flag=True, is_eager=True, expose_value=False, callback=_help_file,
              help="Show what the file may say of tools, and exit.")  # fmt: skip
@click.option("--config", "config_file", metavar="FILE", help=f"YAML.  [{CONFIG_FILE}]")
@_settings
def command(*, config_file: str | None, **flags: object) -> None:
    """Run the sidecar of a pod until SIGTERM; mistakes in its settings are all told, exit 64."""
    given = {name: value for name, value in flags.items() if value is not None}
    sys.exit(start(given, config_file=config_file))
