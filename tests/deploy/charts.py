"""Draws every panel of every dashboard into one picture, as matplotlib has it."""

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from tests.deploy.demo import Watched
from tests.deploy.panels import DASHBOARDS, Panel, Target
from tests.deploy.prometheus_server import Series

COLUMNS: Final = 6
"""As Grafana has them: six stats in a row, or three charts."""
WIDTHS: Final = {"stat": 1, "timeseries": 2, "title": 6}
WIDTH_IN: Final = 2.4
HEIGHTS: Final = {"stat": 0.6, "timeseries": 1.6, "title": 0.4}
DPI: Final = 72
LINES_MAX: Final = 5
"""Named in a legend; more would hide the chart."""
PAPER: Final = "#181b1f"
INK: Final = "#d8d9da"
SMALL: Final = 6.5
SCALES: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))
UNITS: Final = {
    "bytes": "B", "Bps": "B/s", "s": "s", "ops": "/s", "reqps": "/s", "currencyUSD": "$",
}  # fmt: skip


def said(value: float, unit: str) -> str:
    """A figure, as short as it can be read."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s" and 0 < abs(value) < 1:
        return f"{value * 1000:.3g} ms"
    for scale, letter in SCALES:
        if abs(value) >= scale:
            return f"{value / scale:.3g} {letter}{UNITS.get(unit, '')}".strip()
    return f"{value:.2g} {UNITS.get(unit, '')}".strip()


def name_of(target: Target, series: Series) -> str:
    text = target.legend
    for label in ("pod", "status", "queue", "cause", "level", "why", "tool", "decision", "how",
                  "hook", "stop", "operation", "outcome", "host", "version"):  # fmt: skip
        text = text.replace(f"{{{{{label}}}}}", series.labels.get(label, ""))
    return text.strip()


def draw(watched: Watched, path: Path) -> None:
    """All of them, top to bottom."""
    rows: list[tuple[str, list[Panel | str]]] = []
    for board in DASHBOARDS:
        rows.append(("title", [board.title]))
        stats = [panel for panel in board.panels if panel.kind == "stat"]
        lines = [panel for panel in board.panels if panel.kind != "stat"]
        rows.append(("stat", list(stats)))
        per_row = COLUMNS // WIDTHS["timeseries"]
        for at in range(0, len(lines), per_row):
            rows.append(("timeseries", list(lines[at : at + per_row])))
    heights = [HEIGHTS[kind] for kind, _ in rows]
    plt.rcParams.update({"text.color": INK, "axes.labelcolor": INK, "xtick.color": INK,
                         "ytick.color": INK, "font.size": SMALL})  # fmt: skip
    figure = plt.figure(figsize=(WIDTH_IN * COLUMNS, sum(heights)), facecolor=PAPER, dpi=DPI)
    grid = figure.add_gridspec(len(rows), COLUMNS, height_ratios=heights, hspace=0.42, wspace=0.45,
                               left=0.05, right=0.99, top=0.995, bottom=0.012)  # fmt: skip
    for at, (kind, panels) in enumerate(rows):
        for column, panel in enumerate(panels):
            width = WIDTHS[kind]
            axes = figure.add_subplot(grid[at, column * width : (column + 1) * width])
            if isinstance(panel, str):
                axes.axis("off")
                axes.text(0, 0.0, panel, fontsize=13, weight="bold")
            elif kind == "stat":
                _stat(axes, panel, watched)
            else:
                _lines(axes, panel, watched)
    figure.savefig(path, facecolor=PAPER)
    plt.close(figure)
    _shrink(path)


def _stat(axes: Any, panel: Panel, watched: Watched) -> None:
    axes.axis("off")
    ((_, found),) = watched.panel(panel)
    last = said(found[0].points[-1][1], panel.unit) if found else "no data"
    axes.set_title(panel.title, fontsize=8, loc="left")
    axes.text(0, 0.15, last, fontsize=17, color="#73bf69")


def _lines(axes: Any, panel: Panel, watched: Watched) -> None:
    axes.set_facecolor(PAPER)
    axes.set_title(panel.title, fontsize=8, loc="left")
    drawn = [
        (name_of(t, series), series.points) for t, found in watched.panel(panel) for series in found
    ]
    named = [line for line in drawn if line[0]]
    for name, points in named or drawn:
        times = [at - watched.from_s for at, _ in points]
        values = [value for _, value in points]
        mark = "." if len(points) == 1 else None
        axes.plot(times, values, label=name, linewidth=1, marker=mark, clip_on=False)
        if panel.is_stacked:
            axes.fill_between(times, values, alpha=0.2)
    axes.set_xlim(0, watched.to_s - watched.from_s)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
    axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda v, _: said(v, panel.unit)))
    axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda v, _: f"{v:.0f} s"))
    axes.grid(color="#2c3235", linewidth=0.5)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    if named:
        axes.legend(fontsize=5.5, loc="upper right", framealpha=0.6, facecolor=PAPER,
                    edgecolor=PAPER, ncols=1 + (len(named) - 1) // LINES_MAX)  # fmt: skip


def _shrink(path: Path) -> None:
    """Few colours are enough for lines: a third of the size."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(64)
    small.save(path, optimize=True)
