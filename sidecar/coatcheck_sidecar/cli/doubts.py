"""`coatcheck doubts`."""

from typing import Final

import click

from coatcheck_sidecar.cli.common import (
    json_option,
    outside,
    print_json,
    print_table,
    store_option,
    when,
)
from coatcheck_sidecar.engine.lines import Doubt

COLUMNS = ("RUN", "CALL", "TOOL", "KEY", "FIRST SENT", "REASON", "WHAT")


EXAMPLE: Final = """\b
Example: coatcheck doubts --tool charge
"""


@click.command(epilog=EXAMPLE)
@click.argument("run", required=False)
@click.option("--queue", help="Only of this queue.")
@click.option("--tool", help="Only of this tool.")
@click.option("--all", "is_all", is_flag=True, help="Of runs that are over, too: read every head.")
@json_option
@store_option
def command(
    *,
    run: str | None,
    queue: str | None,
    tool: str | None,
    is_all: bool,
    is_json: bool,
    store: str | None,
) -> None:
    """List calls that may have taken place, of one run or of all, oldest first."""
    doubts = [
        doubt
        for doubt in outside(store, lambda o: o.doubts(run, is_all=is_all))
        if queue in (None, doubt.queue) and tool in (None, doubt.call.tool)
    ]
    if is_json:
        print_json(doubts)
    else:
        print_table(COLUMNS, [row(doubt) for doubt in doubts], empty="nothing is in doubt")


def row(doubt: Doubt) -> tuple[object, ...]:
    """A line of the table, for previews as well."""
    call = doubt.call
    key = call.business_key or (call.key if call.is_named else "")
    return (
        doubt.run,
        call.number,
        call.tool,
        key,
        when(call.first_sent_ms),
        call.reason,
        call.summary,
    )
