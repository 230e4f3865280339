"""`coatcheck signal`."""

from typing import Final

import click

from coatcheck_sidecar.cli.common import (
    command_options,
    json_option,
    parse_value,
    store_option,
)
from coatcheck_sidecar.cli.orders import new_id, send
from coatcheck_sidecar.core.command import Command

EXAMPLE: Final = """\b
Example: coatcheck signal invoice-4711 approval --value '{"approved": true}'
"""


@click.command(epilog=EXAMPLE)
@click.argument("run")
@click.argument("name")
@click.option("--value", metavar="JSON", help="What `wait_for` returns; - reads stdin.")
@command_options
@json_option
@store_option
def command(
    *,
    run: str,
    name: str,
    value: str | None,
    by: str,
    why: str,
    timeout_s: float,
    is_json: bool,
    store: str | None,
) -> None:
    """Send a run a value that it waits for, or will."""
    order = Command(
        id=new_id(), run=run, what="signal", by=by, why=why, name=name, value=parse_value(value)
    )
    send(store, [order], timeout_s=timeout_s, is_json=is_json)
