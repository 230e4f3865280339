"""`coatcheck cancel`."""

from typing import Final

import click

from coatcheck_sidecar.cli.common import command_options, json_option, store_option
from coatcheck_sidecar.cli.orders import bulk_options, order_runs

EXAMPLE: Final = """\b
Example: coatcheck cancel invoice-4711 --why "paid by hand"
"""


@click.command(epilog=EXAMPLE)
@bulk_options
@command_options
@json_option
@store_option
def command(
    *,
    run: str | None,
    queue: str | None,
    is_sure: bool,
    by: str,
    why: str,
    timeout_s: float,
    is_json: bool,
    store: str | None,
) -> None:
    """End a run, or all of a queue, for good. Calls in flight are not undone."""
    order_runs(
        "cancel",
        run=run,
        queue=queue,
        is_sure=is_sure,
        by=by,
        why=why,
        timeout_s=timeout_s,
        is_json=is_json,
        store=store,
    )
