"""`coatcheck observe`."""

from collections.abc import Mapping
from typing import Any, Final

import click

from coatcheck_sidecar.cli.common import json_option, print_json, print_table, span
from coatcheck_sidecar.cli.loopback import asked, url_option

EXAMPLE: Final = """\b
Example: COATCHECK_MODE=observe coatcheck run -- python agent.py
In a pod: kubectl exec POD -c coatcheck -- coatcheck observe
"""
RISK_COLUMNS: Final = ("RUN", "STEP", "SAVED", "CALLS", "DOUBLED", "UNDER WAY")
FLYING_COLUMNS: Final = ("RUN", "STEP", "TOOL", "CALL", "KEY", "SINCE", "A DEPLOY NOW")
TOOL_COLUMNS: Final = ("TOOL", "CALL", "SEEN", "EQUAL", "EXPOSED", "IS", "SUGGESTED", "WHY")


@click.command(epilog=EXAMPLE)
@url_option
@json_option
def command(*, url: str, is_json: bool) -> None:
    """Show what a deploy now would lose and double, and which effect to give each tool.

    For a sidecar in mode `observe`. SAVED: the run has a checkpoint. EXPOSED: the share of the time
    in which a deploy would have had such a call sent again. `?`: a guess, to be checked.
    """
    report = asked(url, "/v1/observe")
    if is_json:
        print_json(report)
    else:
        show(report)


def show(report: Mapping[str, Any], *, is_aside: bool = False) -> None:
    """The report for people; `is_aside` takes standard error."""
    click.echo(summary(report), err=is_aside)
    risk = [
        (run["run"], run["step"], "yes" if run["has_checkpoint"] else "never", run["calls"],
         run["doubled"], span(run["for_s"]))
        for run in report["at_risk"]
    ]  # fmt: skip
    flying = [
        (call["run"], call["step"], call["tool"], call["pattern"],
         "yes" if call["has_key"] else "", span(call["for_s"]), call["outcome"])
        for call in report["in_flight"]
    ]  # fmt: skip
    tools = [
        (tool["tool"], _pattern(tool), tool["calls"], tool["again"] or "",
         f"{tool['exposed_share']:.0%}", tool["declared"], _suggested(tool), tool["why"])
        for tool in report["tools"]
    ]  # fmt: skip
    tables = (
        (RISK_COLUMNS, risk, "no run has work behind its last checkpoint"),
        (FLYING_COLUMNS, flying, "no call is in flight"),
        (TOOL_COLUMNS, tools, "no call was seen"),
        (("BYPASSES THE PROXY", "CONNECTIONS"), list(report["bypass"].items()),
         "nothing was seen to bypass the proxy"),
    )  # fmt: skip
    for columns, rows, empty in tables:
        print_table(columns, rows, empty=empty, is_aside=is_aside)


def summary(report: Mapping[str, Any]) -> str:
    """What a deploy at the moment of the report would do, in two lines."""
    return (
        f"A deploy now would lose {_some(report['lost_steps'], 'step')} under way "
        f"({report['never_saved']} of runs without any checkpoint), double "
        f"{_some(report['doubled'], 'call')} and buy "
        f"{_some(report['bought_again'], 'completion')} again.\n"
        f"Observed {span(report['observed_s'])}, {_some(report['calls'], 'call')}; in "
        f"{report['worst_share']:.0%} of the time or more a deploy would have doubled a call."
    )


def _some(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _pattern(tool: Mapping[str, Any]) -> str:
    return "" if tool["pattern"] == tool["tool"] else str(tool["pattern"])


def _suggested(tool: Mapping[str, Any]) -> str:
    more = "".join(f", {name}" for name in ("record", "upstream_key") if tool[name])
    return f"{tool['effect']}{more}{'' if tool['is_certain'] else ' ?'}"
