"""`coatcheck exec -- CMD`: the client's, which needs nothing of the sidecar; listed here."""

import os
import sys
from collections.abc import Sequence
from typing import Final

import click

EXAMPLE: Final = """\b
Example: coatcheck exec --run order-4711 -- python agent.py
Example: coatcheck exec --queue invoices -- ./agent.sh
"""


def exec_args(command_line: Sequence[str], *, run: str | None, queue: str | None) -> list[str]:
    """The same as a program and its arguments."""
    chosen = [("--run", run), ("--queue", queue)]
    options = [text for name, value in chosen if value for text in (name, value)]
    return [sys.executable, "-m", "coatcheck", "exec", *options, "--", *command_line]


@click.command(epilog=EXAMPLE)
@click.option("--run", metavar="RUN", help="Its name; begun if there is none.  [COATCHECK_RUN_ID]")
@click.option("--queue", metavar="QUEUE", help="Claim whichever run is ready next.")
@click.argument("command_line", nargs=-1, required=True, type=click.UNPROCESSED)
def command(*, run: str | None, queue: str | None, command_line: Sequence[str]) -> None:
    """Run an agent that knows nothing of coatcheck, beside the sidecar of its pod.

    It finds COATCHECK_RUN_ID, COATCHECK_PROXY_URL (so $COATCHECK_PROXY_URL/mail/send) and the
    variables that tools name by `env`. Each start is a new life of the run's agent: what was done
    before is answered from the log. Exit status 0 finishes the run; another one releases it, and
    counts as a crash. On a drain the agent gets SIGTERM.
    """
    args = exec_args(command_line, run=run, queue=queue)
    os.execv(args[0], args)  # noqa: S606 - it is to become the very command that was typed
