"""What a supervisor decides: whether an agent is started again, and what its own exit status is."""

from dataclasses import dataclass, replace
from enum import StrEnum
from signal import Signals
from typing import Final

BACKOFF_BASE_S: Final = 1.0
"""An agent that dies as it starts should not use up the machine."""
BACKOFF_MAX_S: Final = 60.0
"""Nor should one be left dead for long after the cause has gone."""
STEADY_S: Final = 300.0
"""Who lived this long did not die of what killed it before."""
SIGNALLED: Final = 128
"""As a shell says it: 128 and the signal's number."""
EX_TEMPFAIL: Final = 75
"""EX_TEMPFAIL of sysexits.h: the agent ended well, but not all it did is off the machine."""


class Policy(StrEnum):
    """When an agent that ended by itself is started again."""

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Restarts:
    """The policy, and how often it was made use of."""

    policy: Policy = Policy.NO
    restarts_max: int | None = None
    """In a row; one that lived for `STEADY_S` begins a new row."""
    in_a_row: int = 0

    def after(self, status: int, *, lived_s: float) -> tuple["Restarts", float | None]:
        """An agent ended: (what to ask next time, seconds until the next one, or `None`: no)."""
        if self.policy is Policy.NO or (self.policy is Policy.ON_FAILURE and status == 0):
            return self, None
        before = 0 if lived_s >= STEADY_S else self.in_a_row
        if self.restarts_max is not None and before >= self.restarts_max:
            return self, None
        delay_s = min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2.0 ** min(before, 64))
        return replace(self, in_a_row=before + 1), delay_s


def shell_status(returncode: int) -> int:
    """A status as a shell has it; `returncode` is negative for a signal."""
    return returncode if returncode >= 0 else SIGNALLED - returncode


def exit_status(status: int, *, told: Signals | None, is_safe: bool) -> int:
    """What the supervisor exits with, for an agent that ended with `status` (as a shell has it).

    `told` is the signal that stopped it, if one did: to die of that is to do as one is told.
    `is_safe`: every run is released, and what was recorded is in the store.
    """
    if told is not None and status == SIGNALLED + told:
        status = 0
    return EX_TEMPFAIL if status == 0 and not is_safe else status
