"""`coatcheck retry`."""

from typing import Final

import click

from coatcheck_sidecar.cli.common import command_options, json_option, store_option
from coatcheck_sidecar.cli.orders import bulk_options, order_runs

EXAMPLE: Final = """\b
Example: coatcheck retry --queue mail --why "the model is back"
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
    """Let a held run, or all held runs of a queue, go on; forgets their crashes."""
    order_runs(
        "retry",
        run=run,
        queue=queue,
        is_sure=is_sure,
        by=by,
        why=why,
        timeout_s=timeout_s,
        is_json=is_json,
        store=store,
    )
