"""The bill at the end: what was promised, held against the ledger, the heads and the metrics."""

import statistics
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from examples.demo.ledger import Audit, audit
from examples.demo.pods import HEARTBEAT_S, LEASE_S, PAUSE_MAX_S, Blow
from examples.demo.scenario import Scenario, real_model
from examples.demo.witness import What, lost_checkpoints, read_witness, steps_again


@dataclass(frozen=True, slots=True)
class Bill:
    """Figures of one scenario that is over, and what is wrong with them."""

    payments: Audit
    checkpoints: int
    steps_again: int
    """After kills."""
    steps_again_by_deploy: int
    lost: tuple[str, ...]
    """Acknowledged checkpoints that were lost, one sentence each."""
    doubts_open: int
    faults: tuple[str, ...]
    """Promises that were broken; empty is what we want to see."""


def draw_up(scenario: Scenario) -> Bill:
    """Read everything again, and judge it."""
    wanted = {ref: cents for order in scenario.orders for ref, cents in order.lines}
    payments = audit(scenario.charges(), wanted)
    sayings = read_witness(scenario.witness)
    lost = tuple(lost_checkpoints(sayings))
    rows = scenario.board.rows.values()
    again = steps_again(sayings) - scenario.steps_again_before if scenario.rollout.is_begun else 0
    faults = [
        *(f"charge {ref} is missing" for ref in payments.missing),
        *(f"charge {ref} was made twice" for ref in payments.doubled),
        *(f"charge {ref} was not ordered like that" for ref in payments.stray),
        *lost,
        *(["the rolling deploy had steps begun again"] if again else []),
        *(f"{r.order.run} is {r.status} ({r.reason})" for r in rows if r.status != "finished"),
    ]
    return Bill(
        payments=payments,
        checkpoints=sum(saying.what is What.ACKNOWLEDGED for saying in sayings),
        steps_again=steps_again(sayings) - again,
        steps_again_by_deploy=again,
        lost=lost,
        doubts_open=sum(row.is_in_doubt for row in rows),
        faults=tuple(faults),
    )


def show_bill(scenario: Scenario, bill: Bill, *, console: Console) -> None:
    """The table, and the verdict."""
    table = Table(box=box.ROUNDED, show_header=False, pad_edge=True, border_style="dim")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    sections = (_work, _deploy, _money, _cost)
    for section in (lines(scenario, bill) for lines in sections):
        for name, figure, note in section:
            table.add_row(name, figure, note)
        table.add_section()
    console.print(table)
    console.print(
        f"Settings: heartbeat {HEARTBEAT_S:g} s, lease {LEASE_S:g} s, pause_max {PAUSE_MAX_S:g} s; "
        f"seed {scenario.plan.seed}. Figures: ledger, heads in the store, agents' own log, "
        "the sidecars' /metrics.",
        style="dim",
    )
    for fault in bill.faults[:20]:
        console.print(f"[bold red]✗[/] {fault}")
    for crash in scenario.crashes[:5]:
        console.print(f"[yellow]! {crash}[/]")
    if not bill.faults:
        console.print("[bold green]✓ Every charge was made once. No run was lost.[/]")


Lines = list[tuple[str, str, str]]


def _work(scenario: Scenario, bill: Bill) -> Lines:
    chaos, board = scenario.chaos, scenario.board
    blows = (f"{chaos.count(b)} {b}" for b in (Blow.AGENT, Blow.SIDECAR, Blow.POD, Blow.NODE))
    recoveries = scenario.recoveries_s
    took = "-"
    if recoveries:
        took = f"{statistics.median(recoveries):.1f} s"
    return [
        ("runs finished", f"{board.finished} of {len(board.rows)}", f"in {scenario.now_s:.0f} s"),
        ("kill -9", str(len(chaos.strikes)), ", ".join(blows)),
        ("nodes lost", str(chaos.count(Blow.NODE)), "with the pod's disk"),
        ("runs hit", str(sum(row.hits for row in board.rows.values())), ""),
        ("went on after", took, f"median; {max(recoveries, default=0):.1f} s at most"),
        ("checkpoints lost", str(len(bill.lost)), f"of {bill.checkpoints} acknowledged"),
        ("steps begun again", str(bill.steps_again), "those that a kill had cut"),
    ]


def _deploy(scenario: Scenario, bill: Bill) -> Lines:
    replaced = scenario.rollout.replaced
    if not replaced:
        return []
    times = [pod.drain_s for pod in replaced]
    killed = sum(pod.was_killed for pod in replaced)
    return [
        ("rolling deploy", f"{len(replaced)} pods", f"{killed} killed at the end of the grace"),
        ("runs moved by it", str(sum(pod.runs for pod in replaced)), "at a step boundary"),
        ("released after", f"{statistics.median(times):.2f} s", f"{max(times):.2f} s at most"),
        ("steps begun again", str(bill.steps_again_by_deploy), "by the deploy"),
    ]


def _money(scenario: Scenario, bill: Bill) -> Lines:
    payments, verdicts = bill.payments, scenario.oncall.verdicts
    made = sum(verdict.charge is not None for verdict in verdicts)
    resolved = f"resolved by asking the ledger: {made} made, {len(verdicts) - made} not"
    kinds = sorted({order.kind for order in scenario.orders})
    return [
        ("charges", f"{payments.made} of {payments.expected}", ", ".join(kinds)),
        ("missing", str(len(payments.missing)), ""),
        ("doubled", _red_if(len(payments.doubled)), ""),
        ("in doubt", str(len(verdicts) + bill.doubts_open), resolved),
    ]


def _cost(scenario: Scenario, bill: Bill) -> Lines:
    meters = scenario.meters
    needed = sum(order.steps for order in scenario.orders)
    bought = str(scenario.completions) if real_model() is None else "-"
    replayed = meters.total("coatcheck_completions_replayed_total")
    saved = meters.total("coatcheck_replayed_dollars_total")
    shipped = meters.total("coatcheck_shipped_bytes_total")
    puts = meters.total("coatcheck_store_puts_total")
    lines = [
        ("completions bought", bought, f"{needed} needed; more were cut in the middle"),
        ("completions replayed", f"{replayed:.0f}", f"from the log: ${saved:.4f} not spent again"),
    ]
    if bill.checkpoints:
        each = f"in {puts / bill.checkpoints:.1f} objects"
        lines.append(("shipped a step", f"{shipped / bill.checkpoints / 1024:.1f} KiB", each))
    restores = meters.total("coatcheck_restore_seconds_count")
    if restores:
        mean_s = meters.total("coatcheck_restore_seconds_sum") / restores
        lines.append(("restore", f"{mean_s * 1000:.0f} ms", f"mean of {restores:.0f}"))
    return lines


def _red_if(count: int) -> str:
    return f"[bold red]{count}[/]" if count else "0"
