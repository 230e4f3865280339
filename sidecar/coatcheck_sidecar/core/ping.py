"""What AgentCore asks every few seconds: is this microVM at work, and since when.

Its HTTP contract: `GET /ping` answers `{"status": ..., "time_of_last_update": <unix seconds>}`.
`HealthyBusy` keeps an idle session's microVM alive. Without the time it is reaped all the same, and
a time that moves with each answer says that it has only just become what it is.
"""

from dataclasses import dataclass
from typing import Final

HEALTHY: Final = "Healthy"
BUSY: Final = "HealthyBusy"


@dataclass(frozen=True, slots=True)
class Ping:
    """A status, and when it came about."""

    status: str
    since_s: int
    """Unix time."""

    def body(self) -> dict[str, str | int]:
        """The answer, as JSON has it."""
        return {"status": self.status, "time_of_last_update": self.since_s}


def look(last: Ping | None, *, runs: int, now_s: int) -> Ping:
    """How things stand while `runs` runs are in flight. Its time is that of the last change."""
    status = BUSY if runs else HEALTHY
    return last if last is not None and last.status == status else Ping(status, now_s)
