"""`coatcheck delete`."""

from typing import Final

import click

from coatcheck_sidecar.cli.common import json_option, outside, print_json, store_option

EXAMPLE: Final = """\b
Example: coatcheck delete invoice-4711
"""


@click.command(epilog=EXAMPLE)
@click.argument("run")
@click.option("--yes", "is_sure", is_flag=True, help="Don't ask.")
@json_option
@store_option
def command(*, run: str, is_sure: bool, is_json: bool, store: str | None) -> None:
    """Erase a run that is over, for real: state, calls, results, and that it ever was.

    An agent that opens it afterwards begins it anew, and its calls leave again. Where the bucket
    keeps versions of objects, those stay until its lifecycle rules end them.
    """
    if not is_sure:
        click.confirm(f"erase run {run}, its result and the record of its calls?", abort=True)
    erased = outside(store, lambda o: o.upkeep.erase(run))
    if is_json:
        print_json(erased)
    else:
        click.echo(f"{run}: erased, {erased.objects} objects")
