"""Outlives the supervisor by a moment: kills the agent's processes if it dies without a word.

Run as a script by itself. Each line of its standard input names the process group to guard, 0 for
none; the end of the input is the supervisor's end, by SIGKILL too: the kernel closes its pipes.
"""

import os
import signal
import sys
from contextlib import suppress
from typing import TextIO


def guard(orders: TextIO) -> None:
    """Do as told until nobody is left to tell; then end the group."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    group = 0
    for line in orders:
        group = int(line)
    if group:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    guard(sys.stdin)
