"""Sending commands to one run, or to many with a preview."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click

from coatcheck_sidecar.cli.common import EX_REFUSED, outside, print_json, print_table
from coatcheck_sidecar.cli.runs import COLUMNS, row
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.outside import Done, Outside

AT_ONCE: Final = 16
"""Commands under way at once."""

ID_BYTES: Final = 8

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def new_id() -> str:
    """A command's id, by which it is carried out once."""
    return SystemClock().random_bytes(ID_BYTES).hex()


def bulk_options(command: Decorated) -> Decorated:
    """One run, or all of a queue."""
    for option in (
        click.option("--yes", "is_sure", is_flag=True, help="Don't ask."),
        click.option("--queue", help="All runs of this queue."),
        click.argument("run", required=False),
    ):
        command = option(command)
    return command


def order_runs(
    what: str,
    *,
    run: str | None,
    queue: str | None,
    is_sure: bool,
    by: str,
    why: str,
    timeout_s: float,
    is_json: bool,
    store: str | None,
    then: str = "",
) -> None:
    """Send `cancel`, `retry` or `compensate` to one run, or to all of a queue that it fits."""
    if (run is None) == (queue is None):
        raise click.UsageError("name RUN, or --queue for all of a queue")
    runs = [run or ""]
    if queue is not None:
        lines = [
            line
            for line in outside(store, lambda o: o.list_runs())
            if line.summary.queue == queue
            and (what != "retry" or line.summary.status == Status.HELD.value)
        ]
        confirm(COLUMNS, [row(line) for line in lines], what=what, is_sure=is_sure, is_json=is_json)
        runs = [line.summary.run for line in lines]
    commands = [
        Command(id=new_id(), run=name, what=what, by=by, why=why, then=then) for name in runs
    ]
    send(store, commands, timeout_s=timeout_s, is_json=is_json)


def confirm(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    what: str,
    is_sure: bool,
    is_json: bool,
) -> None:
    """Show what a bulk command would do, and ask; ends the program on a no."""
    print_table(columns, rows, empty=f"nothing to {what}", is_aside=is_json)
    if not rows:
        if is_json:
            print_json([])
        raise click.exceptions.Exit(0)
    if not is_sure:
        click.confirm(f"{what} these {len(rows)}?", abort=True, err=is_json)


def send(store: str | None, commands: Sequence[Command], *, timeout_s: float,
         is_json: bool) -> None:  # fmt: skip
    """Have commands carried out, and say what became of each; exits by 1 if one was refused."""
    dones = outside(store, lambda o: _send(o, commands, timeout_s=timeout_s))
    if is_json:
        print_json(
            [
                {"run": c.run, "call": c.call or None, "refused": d.refused, "status": d.status}
                for c, d in zip(commands, dones, strict=True)
            ]
        )
    else:
        for command, done in zip(commands, dones, strict=True):
            what = f"{command.run}: " + (f"call {command.call}: " if command.call else "")
            told = f"refused: {done.refused}" if done.refused else f"done; it is {done.status}"
            click.echo(what + told, err=bool(done.refused))
    if any(done.refused for done in dones):
        raise click.exceptions.Exit(EX_REFUSED)


async def _send(out: Outside, commands: Sequence[Command], *, timeout_s: float) -> list[Done]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(command: Command) -> Done:
        async with gate:
            try:
                return await out.command(command, timeout_s=timeout_s)
            except Refusal as error:
                if len(commands) == 1:
                    raise
                return Done(command.id, error.message, None)

    return await asyncio.gather(*(one(command) for command in commands))
