"""What the commands about manifests share: reading, choosing, telling, showing the difference."""

import sys
from collections.abc import Callable, Sequence
from difflib import unified_diff
from typing import Any, Final, TypeVar

import click

from coatcheck_sidecar.cli.common import EX_DATAERR, EX_REFUSED
from coatcheck_sidecar.core.inject_choice import ANNOTATION
from coatcheck_sidecar.core.inject_edits import Draft
from coatcheck_sidecar.core.inject_text import Rewritten, Select, Told
from coatcheck_sidecar.core.workloads import Workload
from coatcheck_sidecar.core.yaml_nodes import NotYaml

EX_NOINPUT: Final = 66
"""EX_NOINPUT of sysexits.h: a file that is named can't be read."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def manifest_options(command: Decorated) -> Decorated:
    """`-f`, `--only`, `--diff`."""
    for option in (
        click.option("--diff", "is_diff", is_flag=True, help="Show what would change instead."),
        click.option("--only", multiple=True, metavar="KIND/NAME",
                     help="This workload alone, as kubectl names it. Several times: these."),
        click.option("-f", "--filename", "path", required=True, metavar="FILE",
                     help="YAML or JSON, one document or more; - is standard input."),
    ):  # fmt: skip
        command = option(command)
    return command


def read_manifest(path: str) -> str:
    """The text, with its line ends. Ends the command if there is none."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else _bytes_of(path)
        return data.decode()
    except OSError as error:
        raise ended(f"{path}: {error.strerror}", EX_NOINPUT) from error
    except UnicodeDecodeError as error:
        raise ended(f"{path}: is not UTF-8: {error}", EX_DATAERR) from error


def _bytes_of(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def selection(only: Sequence[str]) -> Select:
    """Those named, or all; none that says no by its annotation."""
    wanted = {name.lower() for name in only}

    def is_meant(workload: Workload) -> bool:
        said = Draft(workload.template).at(("metadata", "annotations", ANNOTATION))
        is_out = str(said).lower() == "false"
        return not is_out and (not wanted or str(workload).lower() in wanted)

    return is_meant


def rewritten(path: str, work: Callable[[str], Rewritten]) -> tuple[str, Rewritten]:
    """A file before and after. What can't be done ends the command."""
    text = read_manifest(path)
    try:
        return text, work(text)
    except NotYaml as error:
        mend = " (a Helm template? pipe `helm template` through it)" if "{{" in text else ""
        raise ended(f"{path}: is not YAML: {error}{mend}", EX_DATAERR) from error


def tell(told: Sequence[Told]) -> None:
    """Findings and refusals, on standard error."""
    for one in told:
        for found in one.findings:
            mend = f" What to do: {found.mend}." if found.mend else ""
            click.echo(
                f"{found.severity}: {one.workload}: {found.what}: {found.why}.{mend} "
                f"[{found.code}]",
                err=True,
            )
        if one.refused is not None:
            why = f"{one.workload}: {one.refused.reason}. [{one.refused.code}]"
            click.echo(f"Error: {why}", err=True)


def show(path: str, text: str, *, done: Rewritten, is_diff: bool) -> None:
    """The new text, or the difference, on standard output."""
    if not is_diff:
        click.echo(done.text.encode(), nl=False)
        return
    name = "stdin" if path == "-" else path
    lines = unified_diff(
        text.splitlines(keepends=True), done.text.splitlines(keepends=True), name, name
    )
    for line in lines:
        tail = "" if line.endswith("\n") else "\n\\ No newline at end of file\n"
        click.echo((line + tail).encode(), nl=False)


def finish(path: str, text: str, *, done: Rewritten, is_diff: bool, nothing: str) -> None:
    """Tell and show. A refusal ends the command: no half of a manifest goes into a pipe."""
    tell(done.told)
    if done.is_refused:
        raise click.exceptions.Exit(EX_REFUSED)
    if not done.told:
        raise ended(f"{path}: {nothing}", EX_REFUSED)
    show(path, text, done=done, is_diff=is_diff)


def ended(message: str, status: int) -> click.exceptions.Exit:
    """An error in a line, and how the command ends by it."""
    click.echo(f"Error: {message}", err=True)
    return click.exceptions.Exit(status)
