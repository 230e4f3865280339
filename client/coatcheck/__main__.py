"""The `coatcheck` command, which lives in the sidecar.

An agent that installs the client alone has none of its parts, and is told so.
"""

import importlib
import sys
from typing import Final

EXIT_UNAVAILABLE: Final = 69
"""EX_UNAVAILABLE of sysexits.h: a program that is needed is not there."""

MISSING: Final = "coatcheck: {name!r} is not installed: pip install 'coatcheck[sidecar]' has it"


def main() -> int | None:
    """Run the command line; the exit status, where `None` is 0."""
    # What runs beside the agent needs no more than the client.
    home = "coatcheck._exec" if sys.argv[1:2] == ["exec"] else "coatcheck_sidecar.cli.main"
    try:
        cli = importlib.import_module(home)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("coatcheck.", "coatcheck_sidecar.")):
            raise  # a hole in this distribution, which no extra would fill
        print(MISSING.format(name=error.name), file=sys.stderr)
        return EXIT_UNAVAILABLE
    status: int | None = cli.main()
    return status


if __name__ == "__main__":
    sys.exit(main())
