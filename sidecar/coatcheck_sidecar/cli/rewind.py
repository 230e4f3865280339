"""`coatcheck rewind`."""

from typing import Final

import click

from coatcheck_sidecar.cli.common import (
    EX_REFUSED,
    command_options,
    json_option,
    outside,
    print_json,
    store_option,
)
from coatcheck_sidecar.cli.orders import new_id
from coatcheck_sidecar.core.command import Command

EXAMPLE: Final = """\b
Example: coatcheck rewind invoice-4711 --code-version 1.4.2 --why "1.5.0 forgets the customer"
Example: coatcheck rewind invoice-4711 --to 118
Example: coatcheck rewind invoice-4711 --rebuild
"""


@click.command(epilog=EXAMPLE)
@click.argument("run")
@click.option("--to", type=click.IntRange(min=1),
              help="The checkpoint's place in the log; `coatcheck show` lists them.")  # fmt: skip
@click.option("--code-version", help="The newest checkpoint by this release of the agent.")
@click.option("--rebuild", "is_rebuild", is_flag=True,
              help="Its head is damaged: make one of the newest copy there is, held.")  # fmt: skip
@command_options
@json_option
@store_option
def command(
    *,
    run: str,
    to: int | None,
    code_version: str | None,
    is_rebuild: bool,
    by: str,
    why: str,
    timeout_s: float,
    is_json: bool,
    store: str | None,
) -> None:
    """Make an older checkpoint of a run current again. What was done stays done.

    An agent at work is stopped. A step that is done again gets the answers that are recorded.
    """
    if (to is not None) + (code_version is not None) + is_rebuild != 1:
        raise click.UsageError("say one of --to, --code-version and --rebuild")
    if is_rebuild:
        found = outside(store, lambda o: o.rebuild(run, by=by))
        if is_json:
            print_json(found)
            return
        click.echo(f"{run}: held at step {found.step}; calls after it may have taken place")
        click.echo(f"`coatcheck retry {run}` lets it go on" + _aside(found.aside))
        return
    order = Command(
        id=new_id(), run=run, what="rewind", by=by, why=why, to=to or 0, name=code_version or ""
    )
    done = outside(store, lambda o: o.rewind(order, timeout_s=timeout_s))
    if is_json:
        print_json({"run": run, "refused": done.refused, "status": done.status})
    elif done.refused:
        click.echo(f"{run}: refused: {done.refused}", err=True)
    else:
        click.echo(f"{run}: done; it is {done.status}")
    if done.refused:
        raise click.exceptions.Exit(EX_REFUSED)


def _aside(name: str) -> str:
    return f"; the damaged head is in {name}" if name else ""
