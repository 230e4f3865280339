"""`coatcheck queue`."""

import asyncio
import signal
from typing import Final

import click

from coatcheck_sidecar.cli.common import (
    json_option,
    outside,
    print_json,
    print_table,
    store_option,
)
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.config import Address, parse_address
from coatcheck_sidecar.core.model import RUN_ID
from coatcheck_sidecar.core.waiting import Waiting
from coatcheck_sidecar.engine.lookout import NAMES_MAX
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.servers.queue import EVERY_S, Desk, looked, queue_server

COLUMNS: Final = (
    "QUEUE", "WANTED", "READY", "LATER", "OWNED", "UNDOING", "PARKED", "HELD",
)  # fmt: skip
EXAMPLE: Final = """\b
Example: coatcheck queue invoices --count --store s3://bucket/agents
For a scaler: coatcheck queue --serve :7072, and then curl HOST:7072/v1/queues/invoices
"""


def _address(_ctx: click.Context, _param: click.Parameter, text: str | None) -> Address | None:
    try:
        return None if text is None else parse_address(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(epilog=EXAMPLE)
@click.argument("queue", required=False)
@click.option("--count", is_flag=True, help="Print WANTED alone: one number.")
@click.option("--serve", "address", metavar="[HOST]:PORT", callback=_address,
              help="Answer GET /v1/queue and /v1/queues/QUEUE until SIGTERM.")  # fmt: skip
@click.option("--every-s", default=EVERY_S, show_default=True, type=click.FloatRange(min=0),
              help="With --serve: look at the store so often at most.")  # fmt: skip
@click.option("--limit", default=NAMES_MAX, show_default=True, type=click.IntRange(min=1),
              help="Runs of each kind that are counted.")  # fmt: skip
@json_option
@store_option
def command(
    *,
    queue: str | None,
    count: bool,
    address: Address | None,
    every_s: float,
    limit: int,
    is_json: bool,
    store: str | None,
) -> None:
    """Show what waits in each queue; reads the store alone, so no pod need be there.

    WANTED is what wants a pod, and what to scale by: READY now, LATER (in a minute at most, after
    a crash), OWNED by a pod (one that died as well: somebody must take over), and UNDOING (to be
    taken back by a sidecar). PARKED runs wait for a signal, HELD ones for you.
    """
    if queue is not None and not RUN_ID.fullmatch(queue):
        raise click.UsageError(f"{queue!r}: letters, digits, dot, dash, underscore; 128")
    if address is not None:
        if queue is not None or count or is_json:
            raise click.UsageError("--serve answers for every queue: it takes none of the others")
        outside(store, lambda o: _serve(o, address, every_s=every_s))
        return
    look = outside(store, lambda o: o.lookout.look(queue, limit=limit))
    if is_json:
        print_json(looked(look))
    elif count:
        click.echo(look.wanted)
    else:
        print_table(COLUMNS, [_row(waiting) for waiting in look.queues], empty="nothing waits")
    if look.is_cut:
        click.echo(f"only {limit} of a kind were counted; there are more: --limit", err=True)


def _row(waiting: Waiting) -> tuple[object, ...]:
    return (
        waiting.queue,
        waiting.wanted,
        waiting.ready,
        waiting.later,
        waiting.owned,
        waiting.undoing,
        waiting.parked,
        waiting.held,
    )


async def _serve(outside: Outside, address: Address, *, every_s: float) -> None:
    """Until SIGTERM or SIGINT; nothing is in flight that matters."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    desk = Desk(outside.lookout, SystemClock(), every_s=every_s)
    server = queue_server(desk, host=address.host, port=address.port)
    await server.start()
    click.echo(f"listening on {address._replace(port=server.port)}", err=True)
    try:
        await stop.wait()
    finally:
        await server.close()
