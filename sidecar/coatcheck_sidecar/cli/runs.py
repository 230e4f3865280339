"""`coatcheck runs`."""

from typing import Final

import click

from coatcheck_sidecar.cli.common import (
    json_option,
    outside,
    print_json,
    print_table,
    span,
    store_option,
    when,
)
from coatcheck_sidecar.engine.lines import RunLine
from coatcheck_sidecar.engine.outside import LINES_MAX

COLUMNS: Final = (
    "RUN", "STATUS", "QUEUE", "STEP", "IN DOUBT", "EPOCH", "OWNER", "SILENT", "DEADLINE", "NOTE",
)  # fmt: skip


EXAMPLE: Final = """\b
Example: coatcheck runs --queue mail --store s3://bucket/agents
"""


@click.command(epilog=EXAMPLE)
@click.option("--all", "is_all", is_flag=True, help="Read every head: finished runs, lost markers.")
@click.option("--queue", help="Only of this queue.")
@click.option("--status", help="Only with this status.")
@click.option("--limit", default=LINES_MAX, show_default=True, type=click.IntRange(min=1))
@json_option
@store_option
def command(
    *,
    is_all: bool,
    queue: str | None,
    status: str | None,
    limit: int,
    is_json: bool,
    store: str | None,
) -> None:
    """List the runs that somebody owns, or that wait to be owned."""
    lines = [
        line
        for line in outside(store, lambda o: o.list_runs(is_all=is_all, limit=limit))
        if queue in (None, line.summary.queue) and status in (None, line.summary.status)
    ]
    if is_json:
        print_json(lines)
    else:
        print_table(COLUMNS, [row(line) for line in lines], empty="no runs")


def row(line: RunLine) -> tuple[object, ...]:
    """A line of the table, for previews as well."""
    summary = line.summary
    note = "STUCK" if summary.stuck else summary.reason
    return (
        summary.run,
        summary.status,
        summary.queue,
        summary.step,
        summary.in_doubt or "",
        summary.epoch,
        line.owner,
        span(line.silent_s),
        when(summary.deadline_ms),
        note,
    )
