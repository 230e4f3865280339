"""Where the command line begins: as a pod starts it, or by click for all else."""

import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; ends by `SystemExit`."""
    given = sys.argv[1:] if args is None else list(args)
    if given == ["sidecar"]:
        # A pod sets its sidecar up by environment and file: there is nothing to parse, and its
        # agents wait for it. Click takes 30 ms.
        from coatcheck_sidecar.cli.start import start

        sys.exit(start({}))
    from coatcheck_sidecar.cli.group import cli

    cli.main(given, prog_name="coatcheck")
