"""`coatcheck preflight`."""

from typing import Final

import click

from coatcheck_sidecar.cli.common import (
    EX_REFUSED,
    json_option,
    outside,
    print_json,
    print_table,
    store_option,
)
from coatcheck_sidecar.core.ownership import Accepts
from coatcheck_sidecar.engine.preflight import Passed

COLUMNS: Final = ("RUN", "QUEUE", "STATUS", "STEP", "SCHEMA", "CODE VERSION", "WHY")
EXAMPLE: Final = """\b
Example: coatcheck preflight --code-version 1.5.0 --schema 2 --store s3://bucket/agents
"""


@click.command(epilog=EXAMPLE)
@click.option("--schema", required=True, type=click.IntRange(min=0),
              help="What the new image's agents say to open_run.")  # fmt: skip
@click.option("--migrate-from", type=click.IntRange(min=0),
              help="The oldest schema that they migrate.")  # fmt: skip
@click.option("--code-version", default="", help="Likewise; pinned runs go by it.")
@click.option("--queue", help="Only runs of this queue, and those that can't be read.")
@json_option
@store_option
def command(
    *,
    schema: int,
    migrate_from: int | None,
    code_version: str,
    queue: str | None,
    is_json: bool,
    store: str | None,
) -> None:
    """Show which runs an agent that is not deployed yet would pass over, and why.

    Reads every head, and writes nothing. The exit status is 1 if there is such a run.
    """
    if migrate_from is not None and migrate_from > schema:
        raise click.UsageError(f"--migrate-from {migrate_from} is above --schema {schema}")
    accepts = Accepts(schema, code_version, migrate_from)
    found = outside(store, lambda o: o.upkeep.preflight(accepts, queue=queue))
    if is_json:
        print_json(found)
    else:
        print_table(COLUMNS, [_row(line) for line in found.passed], empty="none is passed over")
        click.echo(f"{found.taken} runs would go on, {len(found.passed)} would not")
    if found.passed:
        raise click.exceptions.Exit(EX_REFUSED)


def _row(line: Passed) -> tuple[object, ...]:
    return (
        line.run, line.queue, line.status, line.step, line.schema, line.code_version, line.why,
    )  # fmt: skip
