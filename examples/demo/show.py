"""What a visitor sees while it runs."""

import time
from typing import Final, Protocol

from rich import box
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from coatcheck_sidecar.core.model import Status
from examples.demo.board import Row
from examples.demo.pods import Blow, Pod
from examples.demo.scenario import News, Scenario, pod_of
from examples.demo.trail import Trail

FRAME_S: Final = 0.2
PLAIN_S: Final = 5.0
"""A line of progress this often where nobody can be shown a picture."""
WIDTH_MAX: Final = 112
FRAME_CHARS: Final = 4
"""Borders and padding of the panel."""
BAR_CELLS: Final = 36
NEWS_LINES_MAX: Final = 7
FRAME_LINES: Final = 13
"""Of the picture, beside runs and news."""
COLOURS: Final = ("cyan", "magenta", "blue", "yellow", "green", "red")
MOODS: Final = {"bad": "red", "good": "green", "plain": "default"}


class Show(Protocol):
    """Is called at each tick."""

    def __call__(self) -> None: ...
    def close(self) -> None: ...


class Plain:
    """One line for each thing that happens: for logs and CI."""

    def __init__(self, scenario: Scenario, console: Console) -> None:
        self._scenario, self._console = scenario, console
        self._told: News | None = None
        self._next_s = 0.0

    def __call__(self) -> None:
        news = list(self._scenario.news)
        start = news.index(self._told) + 1 if self._told in news else 0
        for item in news[start:]:
            self._print(item.at_s, item.text)
            self._told = item
        if self._scenario.now_s >= self._next_s:
            self._next_s = self._scenario.now_s + PLAIN_S
            self._print(self._scenario.now_s, counters(self._scenario).plain)

    def _print(self, at_s: float, text: str) -> None:
        self._console.print(f"{at_s:6.1f} s  {text}", highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self()


class Picture:
    """Runs, pods and news, redrawn a few times a second."""

    def __init__(self, scenario: Scenario, console: Console) -> None:
        self._scenario = scenario
        self._trail = Trail(scenario.witness)
        self._colours = {
            pod.name: COLOURS[at % len(COLOURS)] for at, pod in enumerate(scenario.pods)
        }
        self._console = console
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        self._live.start()
        self._width = min(console.width, WIDTH_MAX)
        self._next_s = 0.0

    def __call__(self) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + FRAME_S
            self._draw()

    def close(self) -> None:
        self._draw()
        self._live.stop()

    def _draw(self) -> None:
        self._trail.follow()
        self._live.update(self._frame(), refresh=True)

    def _frame(self) -> RenderableType:
        scenario = self._scenario
        title = f"[bold]coatcheck[/]  [dim]{scenario.now_s:5.1f} s[/]"
        pods = [self._pod(pod) for pod in scenario.pods]
        news = self._news()
        return Panel(
            Group(
                self._runs(),
                Text(),
                Columns(pods, equal=True, expand=True),
                Text(),
                counters(scenario),
                Text(),
                *news,
            ),
            title=title,
            border_style="dim",
            box=box.ROUNDED,
            width=self._width,
        )

    def _runs(self) -> Table:
        table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
        table.add_column("run", no_wrap=True)
        table.add_column("payment", style="dim", no_wrap=True)
        table.add_column("each step in the colour of the pod that did it", no_wrap=True)
        table.add_column("step", justify="right", no_wrap=True)
        table.add_column("where", no_wrap=True, min_width=16)
        table.add_column("hit by", justify="right", no_wrap=True)
        for row in self._scenario.board.rows.values():
            hits = Text(f"{row.hits} kills" if row.hits else "", style="red")
            step = row.order.steps if row.status is Status.FINISHED else row.step
            place = f"{step}/{row.order.steps}"
            bar, where = self._bar(row, step), self._where(row)
            table.add_row(row.order.run, row.order.kind, bar, place, where, hits)
        return table

    def _bar(self, row: Row, step: int) -> Text:
        trail = self._trail.steps.get(row.order.run, {})
        bar = Text()
        for cell in range(BAR_CELLS):
            at = cell * row.order.steps // BAR_CELLS + 1
            if at > step:
                bar.append("─", style="bright_black")
            else:
                pod = trail.get(at) or trail.get(at - 1, "")
                bar.append("━", style=f"bold {self._colours.get(pod, 'white')}")
        return bar

    def _where(self, row: Row) -> Text:
        match row.status:
            case None:
                return Text("not yet there", style="dim")
            case Status.OWNED:
                pod = pod_of(row.owner)
                is_down = all(p.uid != row.owner.partition(".")[0] for p in self._scenario.pods)
                style = "red strike" if is_down else self._colours.get(pod, "white")
                return Text(f"{pod}", style=style)
            case Status.FINISHED:
                return Text("✓ finished", style="green")
            case Status.HELD:
                return Text("? in doubt" if row.is_in_doubt else "held", style="bold yellow")
            case _:
                return Text(str(row.status), style="dim")

    def _pod(self, pod: Pod) -> RenderableType:
        scenario = self._scenario
        text = Text()
        if scenario.rollout.is_busy(pod):
            return self._leaving(pod)
        if scenario.chaos.is_down(pod):
            last = next(s for s in reversed(scenario.chaos.strikes) if s.pod == pod.name)
            text.append(f"✗ {last.blow}", style="bold red")
            text.append(" lost" if last.blow is Blow.NODE else " killed", style="bold red")
        else:
            runs = sum(row.is_on(pod.uid) for row in scenario.board.rows.values())
            text.append(f"● {runs} runs", style="green")
        text.append(f"\n{pod.kills} kills, node no. {pod.life}", style="dim")
        colour = self._colours[pod.name]
        return Panel(text, title=f"[bold {colour}]{pod.name}[/]", border_style=colour, height=4)

    def _leaving(self, pod: Pod) -> RenderableType:
        """A pod on its way out, and its plan."""
        plan = self._scenario.rollout.plan
        runs = plan.get("runs", ())
        text = Text(f"⇣ draining, {len(runs)} runs", style="bold yellow")
        told = sum(run["doing"] == "stop" for run in runs)
        cut_s = plan.get("cut_s")
        left = f"cut in {cut_s:.0f} s" if cut_s is not None else "gone"
        text.append(f"\n{told} at the next step, {left}", style="dim")
        return Panel(text, title=f"[bold]{pod.name}[/]", border_style="yellow", height=4)

    def _news(self) -> list[Text]:
        room = self._console.height - FRAME_LINES - len(self._scenario.orders)
        count = max(0, min(NEWS_LINES_MAX, room))
        lines = []
        for item in list(self._scenario.news)[-count:] if count else []:
            line = Text(f"{item.at_s:5.1f} s  {item.text}", style=MOODS[item.mood])
            line.truncate(self._width - FRAME_CHARS, overflow="ellipsis")
            lines.append(line)
        return lines + [Text()] * (count - len(lines))


def counters(scenario: Scenario) -> Text:
    """How it stands, in a line."""
    charges = scenario.charges()
    doubled = len(charges) - len({charge.ref for charge in charges})
    expected = sum(len(order.lines) for order in scenario.orders)
    doubts = sum(row.is_in_doubt for row in scenario.board.rows.values())
    text = Text()
    for name, figure, style in (
        ("runs finished", f"{scenario.board.finished}/{len(scenario.orders)}", "bold"),
        ("kill -9", str(len(scenario.chaos.strikes)), "bold red"),
        ("nodes lost", str(scenario.chaos.count(Blow.NODE)), "bold red"),
        ("charges", f"{len(charges)}/{expected}", "bold"),
        ("doubled", str(doubled), "bold red" if doubled else "bold green"),
        ("in doubt", str(doubts), "bold yellow" if doubts else "bold"),
        ("resolved", str(len(scenario.oncall.verdicts)), "bold"),
    ):
        text.append(f"{name} ", style="dim")
        text.append(figure, style=style)
        text.append("   ")
    return text
