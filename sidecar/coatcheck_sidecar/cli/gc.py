"""`coatcheck gc`."""

from typing import Final

import click

from coatcheck_sidecar.cli.common import (
    json_option,
    outside,
    print_json,
    print_table,
    store_option,
)
from coatcheck_sidecar.engine.collect import GRACE_S, Collected

COLUMNS: Final = ("RUN", "OBJECTS", "DELETED", "BYTES", "LEFT")
EXAMPLE: Final = """\b
Example: coatcheck gc --all --dry-run
Example: coatcheck gc invoice-4711
"""


@click.command(epilog=EXAMPLE)
@click.argument("run", required=False)
@click.option("--all", "is_all", is_flag=True, help="Every run that the store has anything of.")
@click.option("--grace-s", type=click.FloatRange(min=0), default=GRACE_S, show_default=True,
              help="Leave alone what was written in the last so many seconds.")  # fmt: skip
@click.option("--dry-run", "is_dry", is_flag=True, help="Only say what would be deleted.")
@json_option
@store_option
def command(
    *, run: str | None, is_all: bool, grace_s: float, is_dry: bool, is_json: bool, store: str | None
) -> None:
    """Delete the objects of a run, or of all, that no head names any more.

    Sidecars do this for the runs they own. It is safe at any time, and beside itself.
    """
    if (run is None) is not is_all:
        raise click.UsageError("name a run, or say --all")
    found = outside(store, lambda o: o.upkeep.collect(run, grace_s=grace_s, is_dry=is_dry))
    if is_json:
        print_json(found)
        return
    print_table(COLUMNS, [_row(line) for line in found], empty="no runs")
    deleted, size = sum(line.deleted for line in found), sum(line.bytes for line in found)
    click.echo(f"{deleted} objects, {size} bytes {'would be' if is_dry else 'were'} deleted")


def _row(line: Collected) -> tuple[object, ...]:
    return (line.run, line.objects, line.deleted, line.bytes, line.left)
