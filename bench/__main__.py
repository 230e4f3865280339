"""`python -m bench [workload ...] [--json] [--quick] [--strict] [--peer langgraph]`."""

import argparse
import importlib
import json
import os
import sys
import tempfile

from rich.console import Console
from rich.table import Table

from bench.measure import Bar, Line

WORKLOADS = ("step", "conc", "chat", "crash", "restore", "sidecar", "client", "proxy", "drain")
BARS = {
    Bar.OURS_MOST: "≤ {limit:g} {unit}",
    Bar.OURS_LEAST: "≥ {limit:g} {unit}",
    Bar.RATIO_MOST: "≤ {limit:g} x floor",
    Bar.RATIO_LEAST: "≥ {limit:g} x floor",
    Bar.OVER_FLOOR_MOST: "≤ floor + {limit:g} {unit}",
}


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _bar(line: Line) -> str:
    return "" if line.limit is None else BARS[line.bar].format(limit=line.limit, unit=line.unit)


def _table(lines: list[Line]) -> Table:
    table = Table(title="coatcheck beside its floors, one run, medians")
    table.add_column("what", overflow="fold")
    for name in ("ours", "floor", "", "ratio", "bar", "met"):
        table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)
    table.add_column("note", overflow="fold", style="dim")
    verdicts = {None: "", True: "[green]yes[/]", False: "[bold red]no[/]"}
    for line in lines:
        table.add_row(
            line.what,
            _number(line.ours),
            _number(line.floor),
            line.unit,
            "" if line.ratio is None else f"{line.ratio:.2f}",
            _bar(line),
            verdicts[line.is_met],
            line.note,
        )
    return table


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="workload", help=", ".join(WORKLOADS))
    parser.add_argument("--json", action="store_true", help="lines as JSON in place of a table")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a bar is not met")
    parser.add_argument("--peer", choices=["langgraph"], help="also measure a peer, if installed")
    given = parser.parse_args()
    unknown = set(given.workloads) - set(WORKLOADS)
    if unknown:
        parser.error(f"no such workload: {', '.join(sorted(unknown))}; {', '.join(WORKLOADS)}")
    return given


def _compiled(folder: str) -> None:
    """Processes find their modules compiled, as they are in an image, whatever is set here."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = folder


def _measure(given: argparse.Namespace) -> list[Line]:
    lines: list[Line] = []
    chosen = given.workloads or list(WORKLOADS)
    if given.peer:
        chosen.append("peer")
    for name in chosen:
        print(f"{name} ...", file=sys.stderr, flush=True)
        lines += importlib.import_module(f"bench.{name}").run(is_quick=given.quick)
    return lines


def main() -> int:
    """The exit status."""
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="coatcheck-bench-pyc-") as folder:
        _compiled(folder)
        lines = _measure(given)
    if given.json:
        print(json.dumps([line.as_json() for line in lines], indent=2, ensure_ascii=False))
    else:
        width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "160"))
        Console(width=width).print(_table(lines))
    return int(given.strict and any(line.is_met is False for line in lines))


if __name__ == "__main__":
    sys.exit(main())
