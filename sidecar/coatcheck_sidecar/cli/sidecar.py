"""`coatcheck sidecar`."""

import sys
from collections.abc import Callable
from typing import Any, Final

import click

from coatcheck_sidecar.cli.start import start
from coatcheck_sidecar.config import CONFIG_FILE, SETTINGS, help_of

EXAMPLE: Final = """\b
Example: coatcheck sidecar --store s3://bucket/agents --log-level debug
Every setting can also be COATCHECK_<NAME> in the environment, or <name> in the file."""


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """A flag for each setting; checked with all the others, not by click."""
    for name in reversed(list(SETTINGS)):
        flag = "--" + name.replace("_", "-")
        command = click.option(flag, name, metavar="VALUE", help=help_of(name))(command)
    return command


@click.command(epilog=EXAMPLE)
@click.option("--config", "config_file", metavar="FILE", help=f"YAML.  [{CONFIG_FILE}]")
@_settings
def command(*, config_file: str | None, **flags: object) -> None:
    """Run the sidecar of a pod until SIGTERM; mistakes in its settings are all told, exit 64."""
    given = {name: value for name, value in flags.items() if value is not None}
    sys.exit(start(given, config_file=config_file))
