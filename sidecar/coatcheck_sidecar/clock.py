"""The system's clock and randomness: the one place that reads either."""

import asyncio
import random
import secrets
import time


class SystemClock:
    """Implements `ports.Clock` on the machine's clocks."""

    def monotonic(self) -> float:
        """Seconds of CLOCK_MONOTONIC."""
        return time.monotonic()

    def boottime(self) -> float:
        """Seconds of CLOCK_BOOTTIME, which goes on while the machine sleeps (Linux)."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    async def sleep(self, delay_s: float) -> None:
        """Wait at least this long."""
        await asyncio.sleep(delay_s)

    def random_bytes(self, count: int) -> bytes:
        """From the system's generator."""
        return secrets.token_bytes(count)

    def uniform(self, low: float, high: float) -> float:
        """Jitter needs no secrecy."""
        return random.uniform(low, high)
