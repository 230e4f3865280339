"""`coatcheck resolve`."""

from typing import Final

import click

from coatcheck_sidecar.cli.common import (
    command_options,
    json_option,
    outside,
    parse_value,
    store_option,
)
from coatcheck_sidecar.cli.doubts import COLUMNS, row
from coatcheck_sidecar.cli.orders import confirm, new_id, send
from coatcheck_sidecar.core.command import Command

EXAMPLE: Final = """\b
Examples: coatcheck resolve invoice-4711 17 --applied --value '{"id": "ch_1"}' --why "in Stripe"
          coatcheck resolve --tool send_mail --not-applied --why "the relay was down"
"""


@click.command(epilog=EXAMPLE)
@click.argument("run", required=False)
@click.argument("call", type=int, required=False)
@click.option("--applied", "verdict", flag_value="applied", help="It took place.")
@click.option("--not-applied", "verdict", flag_value="not_applied", help="It did not.")
@click.option("--retry", "verdict", flag_value="retry", help="Send it again, whatever became.")
@click.option("--compensate", "verdict", flag_value="compensate",
              help="It took place and was taken back: it counts no more.")  # fmt: skip
@click.option("--value", metavar="JSON", help="With --applied: the result to give the agent.")
@click.option("--force", is_flag=True, help="Even while a send may still be on its way.")
@click.option("--queue", help="All calls in doubt of runs of this queue.")
@click.option("--tool", help="All calls in doubt of this tool.")
@click.option("--yes", "is_sure", is_flag=True, help="Don't ask.")
@command_options
@json_option
@store_option
def command(
    *,
    run: str | None,
    call: int | None,
    verdict: str | None,
    value: str | None,
    force: bool,
    queue: str | None,
    tool: str | None,
    is_sure: bool,
    by: str,
    why: str,
    timeout_s: float,
    is_json: bool,
    store: str | None,
) -> None:
    """Decide what became of a call in doubt, or of all of a tool or queue.

    A call that took place can be given its answer if that was lost (--applied --value), and be said
    to be taken back (--compensate).
    """
    if verdict is None:
        raise click.UsageError("say --applied, --not-applied, --retry or --compensate")
    if value is not None and verdict != "applied":
        raise click.UsageError("--value goes with --applied")
    packed = parse_value(value) if verdict == "applied" else None
    is_bulk = queue is not None or tool is not None
    if not is_bulk and (run is None or call is None):
        raise click.UsageError("name RUN and CALL (see `coatcheck doubts`), or --tool or --queue")
    if is_bulk and call is not None:
        raise click.UsageError("CALL does not go with --tool or --queue")
    targets = [(run or "", call or 0)]
    if is_bulk:
        doubts = [
            doubt
            for doubt in outside(store, lambda o: o.doubts(run))
            if queue in (None, doubt.queue) and tool in (None, doubt.call.tool)
        ]
        confirm(
            COLUMNS,
            [row(d) for d in doubts],
            what=f"resolve as {verdict}",
            is_sure=is_sure,
            is_json=is_json,
        )
        targets = [(doubt.run, doubt.call.number) for doubt in doubts]
    orders = [
        Command(id=new_id(), run=name, what="resolve", by=by, why=why, call=number,
                verdict=verdict, force=force, value=packed)
        for name, number in targets
    ]  # fmt: skip
    send(store, orders, timeout_s=timeout_s, is_json=is_json)
