"""The machine's clocks and randomness: the one place of the client that reads either."""

import random
import secrets
import time

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS has no CLOCK_BOOTTIME


def monotonic() -> float:
    """Seconds, for waits inside this process."""
    return time.monotonic()


def boottime() -> float:
    """Seconds since boot, suspended time included; the same for all processes of a node."""
    return time.clock_gettime(_BOOTTIME)


def sleep(delay_s: float) -> None:
    """Block this thread."""
    time.sleep(delay_s)


def random_bytes(count: int) -> bytes:
    """From the system's generator."""
    return secrets.token_bytes(count)


def uniform(low: float, high: float) -> float:
    """Jitter, which needs no secrecy."""
    return random.uniform(low, high)
