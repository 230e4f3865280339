"""`coatcheck drain`."""

import sys
from time import sleep
from typing import TYPE_CHECKING, Any, Final

import click

from coatcheck_sidecar.cli.common import EX_REFUSED, json_option, print_json, print_table
from coatcheck_sidecar.cli.loopback import asked, url_option

if TYPE_CHECKING:
    from rich.console import RenderableType

EXAMPLE: Final = """\b
Example: coatcheck drain --deadline-s 20 --watch
In a pod: kubectl exec POD -c coatcheck -- coatcheck drain --show
"""
PATH: Final = "/v1/drain"
LOOK_S: Final = 0.5
COLUMNS: Final = ("RUN", "STEP", "ON DRAIN", "NOW", "FOR", "ETA", "UNSHIPPED", "WAITS FOR")
KB: Final = 1_000.0


@click.command(epilog=EXAMPLE)
@url_option
@click.option("--deadline-s", type=click.FloatRange(min=0), metavar="SECONDS",
              help="What is left until SIGKILL.  [the pod's grace]")  # fmt: skip
@click.option("--watch", is_flag=True, help="Show how it goes until no run is here.")
@click.option("--show", is_flag=True, help="Only look; with --watch, until somebody else drains.")
@json_option
def command(*, url: str, deadline_s: float | None, watch: bool, show: bool, is_json: bool) -> None:
    """Shut this pod down: its runs stop, are shipped and released, each by its own strategy.

    There is no way back, and a second deadline can only be an earlier one. With --watch the exit
    status is 1 if the deadline comes first.
    """
    if show:
        view = asked(url, PATH)
    else:
        view = asked(url, PATH, body={} if deadline_s is None else {"deadline_s": deadline_s})
    if watch:
        sys.exit(0 if _watched(url, view, is_json=is_json) else EX_REFUSED)
    elif is_json:
        print_json(view)
    else:
        _print(view)


def _watched(url: str, view: dict[str, Any], *, is_json: bool) -> bool:
    """Show it until it is over; whether nothing stayed behind."""
    from rich.live import Live

    with Live(auto_refresh=False, transient=is_json) as live:
        while True:
            if is_json:
                print_json(view)
            else:
                live.update(_board(view), refresh=True)
            if view["released"] or view.get("deadline_s", 0.0) < 0:
                return bool(view["released"])
            sleep(LOOK_S)
            view = asked(url, PATH)


def _board(view: dict[str, Any]) -> "RenderableType":
    from rich.console import Group
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column)
    for row in _rows(view):
        table.add_row(*row)
    return Group(headline(view), table)


def headline(view: dict[str, Any]) -> str:
    """Where the shutdown stands, in a line."""
    rate = (
        f"{view['unshipped_bytes'] / KB:,.1f} KB unshipped of {view['budget_bytes'] / KB:,.0f} KB "
        f"that the grace allows at {view['bytes_per_s'] / KB:,.0f} KB/s"
    )
    if view["released"]:
        return "Drained: no run is here, and all that there was is shipped."
    if not view["draining"]:
        return f"Not draining. {len(view['runs'])} runs here, {rate}."
    feasible = "" if view["feasible"] else " NOT ALL OF IT WILL GET OFF THE POD IN TIME."
    return (
        f"Draining for {view['since_s']:.1f} s ({view['cause']}). {len(view['runs'])} runs here, "
        f"{rate}. Cut in {view['cut_s']:.1f} s, deadline in {view['deadline_s']:.1f} s.{feasible}"
    )


def _rows(view: dict[str, Any]) -> list[list[str]]:
    return [
        [
            run["run"],
            str(run["step"]),
            run["on_drain"],
            run["doing"],
            _seconds(run["until_s"]),
            _seconds(run["eta_s"]),
            f"{run['unshipped_bytes'] / KB:,.1f} KB",
            run["waits_for"],
        ]
        for run in view["runs"]
    ]


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s"


def _print(view: dict[str, Any]) -> None:
    click.echo(headline(view))
    print_table(COLUMNS, _rows(view), empty="no run is here")
