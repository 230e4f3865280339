"""`coatcheck submit`."""

from typing import Final

import click

from coatcheck_sidecar.cli.common import (
    json_option,
    outside,
    parse_value,
    print_json,
    store_option,
)
from coatcheck_sidecar.core.model import RUN_ID, Body
from coatcheck_sidecar.core.record import Created

EXAMPLE: Final = """\b
Example: coatcheck submit invoice-4711 --queue mail --input '{"invoice": 4711}'
"""


@click.command(epilog=EXAMPLE)
@click.argument("run")
@click.option("--queue", default="default", show_default=True)
@click.option("--input", "value", metavar="JSON", help="What `run.input` gives; - reads stdin.")
@click.option("--schema", default=1, show_default=True, help="Schema of the first state.")
@click.option("--code-version", default="", help="The version that it is meant for.")
@click.option("--pinned", is_flag=True, help="Only agents of that version may take it.")
@click.option(
    "--deadline-s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="From now; what is not over by then fails.",
)
@json_option
@store_option
def command(
    *,
    run: str,
    queue: str,
    value: str | None,
    schema: int,
    code_version: str,
    pinned: bool,
    deadline_s: float | None,
    is_json: bool,
    store: str | None,
) -> None:
    """Make a run that the next idle agent of its queue takes. Safe to repeat."""
    if not RUN_ID.fullmatch(queue):
        raise click.UsageError(f"--queue {queue!r}: letters, digits, dot, dash, underscore; 128")
    if pinned and not code_version:
        raise click.UsageError("--pinned needs --code-version")
    created = Created(
        queue=queue,
        input=None if value is None else Body(parse_value(value)),
        schema=schema,
        code_version=code_version,
        pinned=pinned,
    )
    is_new = outside(
        store, lambda o: o.submit(created, run=run, deadline_s=deadline_s), may_create=True
    )
    if is_json:
        print_json({"run": run, "queue": queue, "is_new": is_new})
    else:
        click.echo(f"{run} is ready" if is_new else f"{run} was there already, with this input")
