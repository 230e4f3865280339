"""`coatcheck map`."""

from typing import Final

import click

from coatcheck_sidecar.cli.common import (
    json_option,
    outside,
    print_json,
    print_table,
    store_option,
)
from coatcheck_sidecar.core.map import (
    KUBERNETES,
    PLACES,
    RARE,
    USUAL,
    Allows,
    KindOfRun,
    kinds_of,
    times_of,
)

HEADS_MAX: Final = 10_000
"""Heads read, unless told otherwise: about a minute from a bucket."""
COLUMNS: Final = (
    "QUEUE", "RUNS", "FINISHED", f"RUN P{USUAL}", f"RUN P{RARE}", f"STEP P{RARE}", "STEP MAX",
    "ALLOWS", "GRACE", "TO DRAIN", "ALLOWS ELSEWHERE",
)  # fmt: skip
EXAMPLE: Final = """\b
Example: coatcheck map --store s3://bucket/agents
"""


@click.command(epilog=EXAMPLE)
@click.option("--queue", help="Only of this queue.")
@click.option(
    "--on",
    "place",
    default=KUBERNETES,
    show_default=True,
    type=click.Choice(list(PLACES)),
    help="Where the agents are to run.",
)
@click.option(
    "--limit",
    default=HEADS_MAX,
    show_default=True,
    type=click.IntRange(min=1),
    help="Runs looked at, by name.",
)
@json_option
@store_option
def command(
    *, queue: str | None, place: str, limit: int, is_json: bool, store: str | None
) -> None:  # fmt: skip
    """Show how long the runs of each queue take, and their longest steps.

    ALLOWS is the gentlest thing that a shutdown can do with all but one in twenty: drain (runs end
    within a grace that can be had), migrate (a step does), or compensate (neither: such runs are
    cut in the middle of a step). GRACE is the terminationGracePeriodSeconds to set, TO DRAIN what
    it takes for runs to end.
    """
    times, is_cut = outside(store, lambda o: o.of_heads(times_of, limit=limit))
    mine = [one for one in times if queue in (None, one.queue)]
    kinds = kinds_of(mine, grace_s_max=PLACES[place])
    if is_json:
        print_json({"on": place, "heads": len(times), "is_cut": is_cut, "queues": kinds})
        return
    print_table(COLUMNS, [_row(kind, place) for kind in kinds], empty="no runs")
    if is_cut:
        click.echo(f"the first {limit} runs by name; there are more: --limit", err=True)


def _row(kind: KindOfRun, place: str) -> tuple[object, ...]:
    elsewhere = [f"{name} {allows}" for name, allows in kind.places.items() if name != place]
    return (
        kind.queue,
        kind.runs,
        kind.finished,
        _exact(kind.run_p50_s),
        _exact(kind.run_p95_s),
        _exact(kind.step_p95_s),
        _exact(kind.step_max_s),
        kind.allows,
        _exact(kind.grace_s),
        _exact(kind.drain_grace_s),
        "" if kind.allows is Allows.UNKNOWN else ", ".join(elsewhere),
    )


def _exact(seconds: float | None) -> str:
    """`0.25 s`, `12 s`: as one sets it."""
    return "" if seconds is None else f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
