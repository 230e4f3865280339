"""`coatcheck compensate`."""

from typing import Final

import click

from coatcheck_sidecar.cli.common import command_options, json_option, store_option
from coatcheck_sidecar.cli.orders import bulk_options, order_runs
from coatcheck_sidecar.core.undo_records import END, RESUBMIT

EXAMPLE: Final = """\b
Example: coatcheck compensate order-4711 --then resubmit --why "wrong customer"
"""


@click.command(epilog=EXAMPLE)
@bulk_options
@click.option(
    "--then",
    type=click.Choice([END, RESUBMIT]),
    default=END,
    show_default=True,
    help="End the run, or make another one with the same input after that.",
)
@command_options
@json_option
@store_option
def command(
    *,
    run: str | None,
    queue: str | None,
    is_sure: bool,
    then: str,
    by: str,
    why: str,
    timeout_s: float,
    is_json: bool,
    store: str | None,
) -> None:
    """Take back what a run did, or all runs of a queue: undos of its done calls, newest first.

    An agent at work stops at its next step boundary. Sidecars send the undos that are requests;
    functions wait for an agent. A call in doubt, or an undo that fails, holds the run.
    """
    order_runs(
        "compensate",
        run=run,
        queue=queue,
        is_sure=is_sure,
        by=by,
        why=why,
        timeout_s=timeout_s,
        is_json=is_json,
        store=store,
        then=then,
    )
