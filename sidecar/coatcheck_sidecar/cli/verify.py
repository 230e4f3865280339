"""`coatcheck verify`."""

from typing import Final

import click

from coatcheck_sidecar.cli.common import (
    EX_DATAERR,
    json_option,
    outside,
    print_json,
    print_table,
    store_option,
)
from coatcheck_sidecar.engine.verify import Verdict

COLUMNS: Final = ("RUN", "STATUS", "STEP", "OBJECTS", "BYTES", "UNNAMED", "VERDICT")
MEND: Final = (
    "Put the object back from the bucket's versions or a replica before somebody opens the run, or "
    "if it is held: then `coatcheck retry RUN`. No object is overwritten."
)
EXAMPLE: Final = """\b
Example: coatcheck verify invoice-4711
Example: coatcheck verify --all --json
"""


@click.command(epilog=EXAMPLE)
@click.argument("run", required=False)
@click.option("--all", "is_all", is_flag=True, help="Every run that the store has anything of.")
@json_option
@store_option
def command(*, run: str | None, is_all: bool, is_json: bool, store: str | None) -> None:
    """Read every object of a run, or of all, and hold it against its digest.

    Nothing is written. UNNAMED are objects that no head names any more. The exit status is 65 if
    something is missing or damaged.
    """
    if (run is None) is not is_all:
        raise click.UsageError("name a run, or say --all")
    verdicts = outside(store, lambda o: o.upkeep.verify(run))
    faults = [fault for verdict in verdicts for fault in verdict.faults]
    if is_json:
        print_json(verdicts)
    else:
        print_table(COLUMNS, [_row(verdict) for verdict in verdicts], empty="no runs")
        for fault in faults:
            click.echo(f"{fault.part}: {fault.why}", err=True)
        for verdict in verdicts:
            if verdict.goes_on:
                click.echo(f"{verdict.run}: when it is opened, {verdict.goes_on}", err=True)
        if faults:
            click.echo(MEND, err=True)
    if faults:
        raise click.exceptions.Exit(EX_DATAERR)


def _row(verdict: Verdict) -> tuple[object, ...]:
    bad = len(verdict.faults)
    said = f"{bad} damaged" if bad else "whole"
    return (
        verdict.run, verdict.status, verdict.step, verdict.objects, verdict.bytes,
        verdict.unnamed, said,
    )  # fmt: skip
