"""`coatcheck doctor`."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from coatcheck_sidecar.cli.common import EX_DATAERR, json_option, print_json
from coatcheck_sidecar.config import Config, load_config
from coatcheck_sidecar.config_sources import ConfigError
from coatcheck_sidecar.core.doctor import examine, sorted_findings
from coatcheck_sidecar.core.doctor_grace import grace_fits
from coatcheck_sidecar.core.doctor_pod import error
from coatcheck_sidecar.core.inject_choice import Finding, Severity
from coatcheck_sidecar.core.workloads import Workload, workloads_of

PARTS: Final = ("settings", "store", "data", "socket", "hooks")
EXAMPLE: Final = """\b
Example: coatcheck doctor -f deployment.yaml
In a pod: kubectl exec POD -c coatcheck -- coatcheck doctor --agent-uid 1000 --agent-gid 65532
"""


@dataclass(frozen=True, slots=True)
class Patient:
    """What was looked at, and what was found."""

    name: str
    findings: Sequence[Finding]


class Agent(NamedTuple):
    """Who is to open the socket; nobody in particular, without a `uid`."""

    uid: int | None
    gids: tuple[int, ...]


@click.command(epilog=EXAMPLE)
@click.option("-f", "--file", "files", multiple=True, metavar="FILE",
              help="Look at this manifest, not at this pod; - reads stdin.")  # fmt: skip
@click.option("--only", multiple=True, type=click.Choice(PARTS),
              help="Look at this alone. Without a sidecar: --only store.  [all]")  # fmt: skip
@click.option("--agent-uid", type=click.IntRange(min=0), help="May this user open the socket?")
@click.option("--agent-gid", "agent_gids", type=click.IntRange(min=0), multiple=True,
              help="A group of the agent's, also one of supplementalGroups.")  # fmt: skip
@click.option("--config", "config_file", metavar="FILE", help="The sidecar's settings.")
@json_option
def command(
    *,
    files: tuple[str, ...],
    only: tuple[str, ...],
    agent_uid: int | None,
    agent_gids: tuple[int, ...],
    config_file: str | None,
    is_json: bool,
) -> None:
    """Say what is wrong with a manifest, or with this pod: what, why it bites, and the mend.

    With -f nothing but the file is read. Without it the sidecar's own settings are taken from the
    environment, so run it in the sidecar's container: its store is raced, measured and tested for
    how far the credentials reach (small objects are written and deleted again), and no drain is
    begun. The exit status is 1 if there is an error.
    """
    if files:
        patients = [patient for name in files for patient in _of_file(name)]
    else:
        wanted = only or PARTS
        agent = Agent(agent_uid, agent_gids)
        patients = [Patient("this pod", _live(config_file, wanted, agent=agent))]
    errors = sum(one.severity is Severity.ERROR for p in patients for one in p.findings)
    if is_json:
        print_json({"errors": errors, "patients": [_plain(patient) for patient in patients]})
    else:
        _print(patients)
    sys.exit(1 if errors else 0)


def _plain(patient: Patient) -> Mapping[str, Any]:
    return {"name": patient.name, "findings": [asdict(one) for one in patient.findings]}


def _print(patients: Sequence[Patient]) -> None:
    for patient in patients:
        said = "" if patient.findings else ": nothing to say"
        click.echo(f"{patient.name}{said}")
        for one in patient.findings:
            click.echo(f"  {one.severity.value:<8} {one.what}  [{one.code}]")
            click.echo(f"           {one.why}")
            if one.mend:
                click.echo(f"           -> {one.mend}")


# A manifest


def _of_file(name: str) -> Iterator[Patient]:
    import yaml

    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text()
        documents = list(yaml.safe_load_all(text))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as failure:
        click.echo(f"Error: {name}: {failure}", err=True)
        sys.exit(EX_DATAERR)
    workloads = [workload for document in documents for workload in workloads_of(document)]
    if not workloads:
        click.echo(f"Error: {name}: there is no pod template in it", err=True)
        sys.exit(EX_DATAERR)
    for workload in workloads:
        findings = examine(workload.template, is_pod=_is_made(workload))
        yield Patient(f"{name}: {workload}", findings)


def _is_made(workload: Workload) -> bool:
    """A pod that the API server has: no webhook will be asked any more."""
    spec = workload.template.get("spec")
    has_node = isinstance(spec, Mapping) and bool(spec.get("nodeName"))
    return workload.kind == "Pod" and (has_node or "status" in workload.template)


# This pod


def _live(config_file: str | None, wanted: Sequence[str], *, agent: Agent) -> Sequence[Finding]:
    try:
        config = load_config({}, environ=os.environ, config_file=config_file)
    except ConfigError as wrong:
        return [
            error(
                "settings",
                what=f"{one.source}: {one.key}: {one.problem}",
                why="the sidecar ends with status 64",
                mend="`coatcheck sidecar --help` lists the settings",
            )
            for one in wrong.mistakes
        ]
    looks = _looks(config, agent)
    return sorted_findings(one for part in PARTS if part in wanted for one in looks[part]())


def _looks(config: Config, agent: Agent) -> Mapping[str, Callable[[], Iterator[Finding]]]:
    from coatcheck_sidecar.cli import doctor_here as here

    return {
        "settings": lambda: grace_fits(config.grace_s, margin_s=config.margin_s),
        "store": lambda: iter(asyncio.run(_of_store(config))),
        "data": lambda: here.of_folder(config),
        "socket": lambda: here.of_socket(config, agent_uid=agent.uid, agent_gids=agent.gids),
        "hooks": lambda: here.of_hooks(config, environ=os.environ),
    }


async def _of_store(config: Config) -> list[Finding]:
    from coatcheck_sidecar.cli.doctor_store import of_store
    from coatcheck_sidecar.clock import SystemClock

    return [finding async for finding in of_store(config, clock=SystemClock())]
