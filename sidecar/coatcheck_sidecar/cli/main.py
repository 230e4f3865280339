"""Where the command line begins: as a pod starts it, or by click for all else."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Final

INIT: Final = 1
"""The process that the kernel keeps from signals which it has no handler for."""
EXIT_BY_SIGNAL: Final = 128
"""Added to the signal's number, as shells do."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; ends by `SystemExit`."""
    if os.getpid() == INIT:  # else a SIGTERM while we import would be lost, and the grace with it
        signal.signal(signal.SIGTERM, _end)
    given = sys.argv[1:] if args is None else list(args)
    if given == ["sidecar"]:
        # A pod sets its sidecar up by environment and file: there is nothing to parse, and its
        # agents wait for it. Click takes 30 ms.
        from coatcheck_sidecar.cli.start import start

        sys.exit(start({}))
    from coatcheck_sidecar.cli.group import cli

    cli.main(given, prog_name="coatcheck")


def _end(number: int, _frame: FrameType | None) -> None:
    """Nothing is open yet. Who opens something has handlers of its own."""
    os._exit(EXIT_BY_SIGNAL + number)
