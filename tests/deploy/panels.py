"""What the dashboards show: panels in rows, and the queries behind them."""

from dataclasses import dataclass
from typing import Final

HERE: Final = 'namespace=~"$namespace", pod=~"$pod"'
"""Chosen at the top of a dashboard."""
STORE: Final = 'namespace=~"$namespace"'
"""Of what belongs to no pod."""

FIRING: Final = 'ALERTS{alertname=~"Coatcheck.*", alertstate="firing"}'


@dataclass(frozen=True, slots=True)
class Target:
    """One query, and what its lines are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """`width` of 24 columns; a `stat` shows the last value, all others a line over time."""

    title: str
    what: str
    targets: tuple[Target, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    is_stacked: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page."""

    name: str
    title: str
    panels: tuple[Panel, ...]


def waiting(status: str) -> str:
    """Every sidecar says the same of a store."""
    return f'sum(max by (queue) (coatcheck_waiting_runs{{{STORE}, status="{status}"}}))'


def ours(expr: str) -> str:
    """Of sidecars alone: every process has these metrics."""
    return f"{expr} and on (instance) coatcheck_build_info"


def stat(title: str, expr: str, *, what: str, unit: str = "short") -> Panel:
    return Panel(title=title, what=what, targets=(Target(expr),), unit=unit, kind="stat", width=4)


def each(title: str, expr: str, legend: str, *, what: str, unit: str = "short") -> Panel:
    return Panel(title=title, what=what, targets=(Target(expr, legend),), unit=unit)


def rates(title: str, metric: str, by: str, *, what: str, unit: str = "ops") -> Panel:
    """Events a second, by a label; 0 as long as none is known."""
    expr = f"sum by ({by}) (rate({metric}{{{HERE}}}[$__rate_interval]))" + " or on () vector(0)"
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    targets = (Target(expr, legend),)
    return Panel(title=title, what=what, targets=targets, unit=unit, is_stacked=True)


def total(title: str, metric: str, *, what: str, unit: str = "short") -> Panel:
    """What came in the time shown."""
    return stat(title, f"round(sum(increase({metric}{{{HERE}}}[$__range])))", what=what, unit=unit)


def quantiles(title: str, metric: str, by: str = "", *, what: str) -> Panel:
    """Median and 99th percentile of a histogram in seconds."""
    names = f"le, {by}" if by else "le"
    rate = f"sum by ({names}) (rate({metric}_bucket{{{HERE}}}[$__rate_interval]))"
    legend = f"{{{{{by}}}}} " if by else ""
    targets = tuple(
        Target(f"histogram_quantile({quantile}, {rate})", f"{legend}p{quantile * 100:.0f}")
        for quantile in (0.5, 0.99)
    )
    return Panel(title=title, what=what, targets=targets, unit="s")


FLEET: Final = Dashboard(
    "fleet",
    "coatcheck / fleet",
    (
        stat(
            "Sidecars", f"count(coatcheck_build_info{{{HERE}}})", what="That answer the scraper."
        ),
        stat("Runs owned", f'sum(coatcheck_runs{{{HERE}, status="owned"}}) or on () vector(0)',
             what="In the hands of an agent, or of its sidecar."),
        stat("Runs ready", waiting("ready"),
             what="That wait for an agent."),
        stat("Runs held", waiting("held"),
             what="That wait for an operator: `coatcheck doubts`, `coatcheck runs`."),
        stat("Calls in doubt", f"sum(coatcheck_calls_in_doubt{{{HERE}}})",
             what="Of runs that are owned; those of held ones come beside."),
        stat("Alerts", f"count({FIRING}) or on () vector(0)",
             what="That fire now."),
        each("Runs by pod", f"sum by (pod) (coatcheck_runs{{{HERE}}})", "{{pod}}",
             what="How the work is spread."),
        each("Runs that nobody owns",
             f"max by (status, queue) (coatcheck_waiting_runs{{{STORE}}})", "{{status}} {{queue}}",
             what="Of the whole store, by what they wait for."),
        rates("Crashes", "coatcheck_crashes_total", "how",
              what="Agents that went without letting go of their run: by an exception (error), "
              "alone (agent), with their sidecar (restart), with their pod (takeover)."),
        each("Unshipped bytes", f"coatcheck_unshipped_bytes{{{HERE}}}", "{{pod}}", unit="bytes",
             what="What a lost node would take with it now."),
        each("Memory", ours(f"process_resident_memory_bytes{{{HERE}}}"),
             "{{pod}}", unit="bytes", what="Resident, of the sidecar alone."),
        each("CPU", ours(f"rate(process_cpu_seconds_total{{{HERE}}}[$__rate_interval])"),
             "{{pod}}", what="Cores, of the sidecar alone."),
        each("Versions", f"count by (version) (coatcheck_build_info{{{HERE}}})", "{{version}}",
             what="Two run side by side during a roll-out."),
        each("Sidecar starts", ours(f"changes(process_start_time_seconds{{{HERE}}}[$__range])"),
             "{{pod}}",
             what="In the time shown, beyond the first."),
        rates("Faults", "coatcheck_task_failures_total", "pod",
              what="Of coatcheck itself: the log has them as task_failed."),
    ),
)  # fmt: skip

RUNS: Final = Dashboard(
    "runs",
    "coatcheck / runs",
    (
        total("Steps committed", "coatcheck_commit_seconds_count", what="In the time shown."),
        total("Runs claimed", "coatcheck_claim_seconds_count", what="In the time shown."),
        stat("Runs finished",
             f'sum(increase(coatcheck_let_go_total{{{HERE}, status="finished"}}[$__range])) '
             "or on () vector(0)", what="In the time shown."),
        total("Runs held", "coatcheck_runs_held_total", what="In the time shown."),
        total("Runs fenced", "coatcheck_fenced_total",
              what="Lost to a newer owner while the pod was alive."),
        stat("Runs stuck", f"sum(coatcheck_runs_stuck{{{HERE}}})",
             what="In a step that takes longer than their agent said."),
        rates("Claims", "coatcheck_claim_seconds_count", "cause",
              what="new, ready: in good order; restart, takeover: after a crash."),
        quantiles("Time of a claim", "coatcheck_claim_seconds", what="Two round trips and a swap."),
        quantiles("Time to restore", "coatcheck_restore_seconds",
                  what="To read head, checkpoint and calls of a run."),
        rates("Steps", "coatcheck_commit_seconds_count", "level",
              what="Checkpoints acknowledged, by their durability."),
        quantiles("Time of a commit", "coatcheck_commit_seconds", "level",
                  what="Until the agent may go on."),
        rates("Runs let go", "coatcheck_let_go_total", "status", what="By what became of them."),
        each("Longest wait",
             f"max by (status, queue) (coatcheck_waiting_oldest_seconds{{{STORE}}})",
             "{{status}} {{queue}}", unit="s", what="Of the runs that nobody owns."),
        rates("Held, by cause", "coatcheck_runs_held_total", "why",
              what="in_doubt: decide its calls; crash_loop: look at the agent, then retry."),
        rates("Set aside", "coatcheck_set_aside_records_total", "pod",
              what="Local records that diverged from the log: kept, and reported."),
    ),
)  # fmt: skip

DRAINS: Final = Dashboard(
    "drains",
    "coatcheck / drains",
    (
        stat("Pods draining", f"sum(coatcheck_draining{{{HERE}}})", what="Now."),
        total("Runs moved", "coatcheck_runs_inherited_total",
              what="That went on elsewhere after a drain."),
        stat("Without the hook",
             f'sum(increase(coatcheck_runs_inherited_total{{{HERE}, hook="missed"}}[$__range]))',
             what="Their pod got SIGTERM and no preStop hook."),
        stat("Cut",
             f'sum(increase(coatcheck_runs_inherited_total{{{HERE}, stop="cut"}}[$__range]))',
             what="In the middle of a step, at the end of the grace."),
        stat("Smallest budget", f"min(coatcheck_flush_budget_bytes{{{HERE}}} "
             f"and on (instance) coatcheck_draining{{{HERE}}} == 0)", unit="bytes",
             what="Of pods that do not drain: what may be unshipped there."),
        stat("Budget used", f"max(coatcheck_flush_budget_used_bytes{{{HERE}}} / "
             f"(coatcheck_flush_budget_bytes{{{HERE}}} > 0))", unit="percentunit",
             what="Of the fullest pod."),
        rates("Runs after a drain", "coatcheck_runs_inherited_total", "hook, stop",
              what="Told by their next owner, since a pod that goes is hardly scraped any more."),
        each("Draining", f"sum by (pod) (coatcheck_draining{{{HERE}}})", "{{pod}}",
             what="From the trigger to the end of the sidecar."),
        quantiles("Time to hand over", "coatcheck_handover_seconds",
                  what="From the release of a run in a drain to its next owner."),
        each("Flush budget", f"coatcheck_flush_budget_bytes{{{HERE}}}", "{{pod}}", unit="bytes",
             what="What may be unshipped and still make the grace, at the rate measured."),
        each("Flush budget used", f"coatcheck_flush_budget_used_bytes{{{HERE}}}", "{{pod}}",
             unit="bytes", what="What has to be put for what is unshipped."),
        rates("Waits for the budget", "coatcheck_flush_budget_wait_seconds_count", "pod",
              what="Acknowledgements that the grace might not have sufficed for."),
        each("Goodput", f"coatcheck_link_bytes_per_second{{{HERE}}}", "{{pod}}", unit="Bps",
             what="Of puts, a low percentile: what a drain reckons with."),
        each("Latency of a put", f"coatcheck_link_latency_seconds{{{HERE}}}", "{{pod}}", unit="s",
             what="99th percentile: what a drain reckons with."),
        rates("Drains begun", "coatcheck_drains_total", "cause",
              what="By what triggered them; as far as it was scraped."),
    ),
)  # fmt: skip

CALLS: Final = Dashboard(
    "calls",
    "coatcheck / calls",
    (
        total("Calls", "coatcheck_calls_total", what="In the time shown."),
        stat("Not sent again",
             f'sum(increase(coatcheck_calls_total{{{HERE}, decision=~"replayed|joined"}}'
             "[$__range])) or on () vector(0)", what="Answered from the log."),
        stat("Completions saved",
             f"sum(increase(coatcheck_completions_replayed_total{{{HERE}}}[$__range])) "
             "or on () vector(0)",
             what="Model answers that were not bought twice."),
        stat("Dollars saved",
             f"sum(increase(coatcheck_replayed_dollars_total{{{HERE}}}[$__range])) "
             "or on () vector(0)",
             unit="currencyUSD", what="By the configured prices."),
        stat("In doubt", f"sum(coatcheck_calls_in_doubt{{{HERE}}})", what="`coatcheck doubts`."),
        stat("Past the proxy", f"sum(coatcheck_bypass_connections{{{HERE}}}) or on () vector(0)",
             what="Connections of agents that are no call."),
        rates("Decisions", "coatcheck_calls_total", "decision",
              what="sent; replayed from the log; joined one in flight; probed; held; refused; "
                   "passed on; abandoned by its agent."),
        rates("Held", "coatcheck_calls_held_total", "reason",
              what="Askings that somebody has to decide first, by why."),
        rates("Calls by tool", "coatcheck_calls_total", "tool", what="All decisions together."),
        quantiles("Added by the proxy", "coatcheck_call_added_seconds", "decision",
                  what="What a call took, less its upstream's part and its waits."),
        quantiles("Upstreams", "coatcheck_upstream_seconds", "tool",
                  what="Until an answer was whole."),
        each("In doubt", f"sum by (pod) (coatcheck_calls_in_doubt{{{HERE}}})", "{{pod}}",
             what="Calls that may or may not have taken place."),
        rates("Tokens not bought again", "coatcheck_replayed_output_tokens_total", "tool",
              what="Output tokens of replayed completions."),
        rates("Probes without an answer", "coatcheck_probe_failures_total", "tool",
              what="Upstreams that could not say whether a call took place."),
        rates("Unprotected", "coatcheck_unprotected_total", "host, how",
              what="Tunnels opened, in which no call is deduplicated."),
        each("Past the proxy",
             f"sum by (host) (coatcheck_bypass_connections{{{HERE}}}) or on () vector(0)",
             "{{host}}", what="Open connections, by remote host."),
    ),
)  # fmt: skip

STORES: Final = Dashboard(
    "store",
    "coatcheck / store",
    (
        stat("Reached by", f"sum(coatcheck_store_reachable{{{HERE}}}) / "
             f"count(coatcheck_store_reachable{{{HERE}}})", unit="percentunit",
             what="Share of the sidecars."),
        stat("Failed",
             f'sum(increase(coatcheck_store_seconds_count{{{HERE}, outcome="failed"}}[$__range])) '
             "or on () vector(0)", what="Requests without an answer, in the time shown."),
        total("Requests", "coatcheck_store_seconds_count", what="In the time shown."),
        total("Shipped", "coatcheck_shipped_bytes_total", unit="bytes", what="In the time shown."),
        stat("Journals dead", f"sum(coatcheck_journal_dead{{{HERE}}})",
             what="By an I/O error; those pods are not ready."),
        total("Damaged", "coatcheck_damaged_objects_total",
              what="Objects found missing or damaged."),
        rates("Requests by verb", "coatcheck_store_seconds_count", "operation",
              what="What the bill is made of.", unit="reqps"),
        quantiles("Time by verb", "coatcheck_store_seconds", "operation",
                  what="As the sidecar sees it."),
        rates("Outcomes", "coatcheck_store_seconds_count", "outcome", unit="reqps",
              what="refused: a swap that lost; failed: no clear answer."),
        rates("Bytes shipped", "coatcheck_shipped_bytes_total", "pod", unit="Bps", what="By pod."),
        quantiles("Time of a swap", "coatcheck_ship_seconds",
                  what="Of a head: what a guarded call waits for."),
        Panel(
            title="Objects a swap", what="1: everything fits into the head.",
            targets=(Target(f"sum(rate(coatcheck_store_puts_total{{{HERE}}}[$__rate_interval])) / "
                            f"sum(rate(coatcheck_ships_total{{{HERE}}}[$__rate_interval]))",
                            "objects"),),
        ),
        each("Unshipped records", f"coatcheck_unshipped_records{{{HERE}}}", "{{pod}}",
             what="That no head holds yet."),
        each("Journal", f"coatcheck_journal_bytes{{{HERE}}} / "
             f"(coatcheck_journal_limit_bytes{{{HERE}}} > 0)", "{{pod}}", unit="percentunit",
             what="How full it is; trimmed as it is shipped."),
        rates("Failures", "coatcheck_ship_failures_total", "pod",
              what="Puts and swaps that are tried again."),
    ),
)  # fmt: skip

DASHBOARDS: Final = (FLEET, RUNS, DRAINS, CALLS, STORES)
