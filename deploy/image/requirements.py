"""Print what the sidecar needs, one requirement a line: python requirements.py PYPROJECT."""

import sys
import tomllib
from pathlib import Path

EXTRA = "sidecar"


def requirements(pyproject: Path) -> list[str]:
    """The dependencies of the client and of the sidecar's extra."""
    project = tomllib.loads(pyproject.read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"][EXTRA]]


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in requirements(Path(sys.argv[1])))
