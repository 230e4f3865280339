"""Which pod did which step of a run: the agents' own words, read as they are written."""

import json
from pathlib import Path

from examples.demo.witness import What


class Trail:
    """Follows the witness file."""

    def __init__(self, path: Path) -> None:
        self.steps: dict[str, dict[int, str]] = {}
        """By run and step: the pod that had it acknowledged."""
        self._path = path
        self._read_bytes = 0

    def follow(self) -> None:
        """Take in what was written since the last time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.splitlines():
            saying = json.loads(line)
            if saying["what"] == What.ACKNOWLEDGED:
                pod = saying["disk"].rpartition("-")[0]
                self.steps.setdefault(saying["run"], {})[saying["step"]] = pod
