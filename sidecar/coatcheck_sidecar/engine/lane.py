"""A narrow way for work that nobody waits for, which whoever is in a hurry may pass."""

import asyncio
from collections import deque


class Lane:
    """Grants places in order; a place granted must be left again."""

    def __init__(self, width: int, *, share: float = 1.0) -> None:
        """So many may be on the way at once, and each place rests between two of them.

        `share` is the part of its time that a place is taken, above 0 and up to 1.
        """
        self._free = width
        self._rest = 1.0 / share - 1.0
        self._waiting: deque[asyncio.Future[bool]] = deque()

    def enter(self) -> "asyncio.Future[bool]":
        """Done with `True` when there is a place. Who doesn't want it any more ends it itself."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._grant()
        return turn

    def leave(self, *, after_s: float) -> None:
        """Give a place back that was taken for so long."""
        if self._rest:
            asyncio.get_running_loop().call_later(after_s * self._rest, self._back)
        else:
            self._back()

    def _back(self) -> None:
        self._free += 1
        self._grant()

    def _grant(self) -> None:
        while self._free and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._free -= 1
                turn.set_result(True)
