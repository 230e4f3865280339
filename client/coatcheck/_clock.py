"""The machine's clocks and randomness: the one place of the client that reads either."""

import time
from random import uniform  # jitter needs no secrecy
from secrets import token_bytes as random_bytes
from time import monotonic, sleep

__all__ = ["boottime", "monotonic", "random_bytes", "sleep", "uniform"]

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS has no CLOCK_BOOTTIME


def boottime() -> float:
    """Seconds since boot, suspended time included; the same for all processes of a node."""
    return time.clock_gettime(_BOOTTIME)
