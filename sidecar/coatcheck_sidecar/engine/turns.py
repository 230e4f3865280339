"""How many requests of a tool are under way at once, and how many wait for their turn."""

import asyncio
from collections import deque

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.tool import Tool


class Turns:
    """The turns of one tool."""

    def __init__(self, tool: Tool) -> None:
        """`tool.concurrency` at once, `tool.queue_max` in the queue."""
        self._tool = tool
        self._free = tool.concurrency
        self._queue: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for a turn; raises `Refusal` if the queue is full."""
        if self._free > 0:
            self._free -= 1
            return
        if len(self._queue) >= self._tool.queue_max:
            raise Refusal(
                ErrorCode.UNAVAILABLE,
                f"{self._tool.name}: {self._tool.concurrency} requests are under way and "
                f"{self._tool.queue_max} wait; raise concurrency or queue_max, or ask later",
                retry=Retry.LATER,
                tool=self._tool.name,
                reason="queue_full",
            )
        waiter = asyncio.get_running_loop().create_future()
        self._queue.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.give_back()
            raise

    def give_back(self) -> None:
        """The next one goes on."""
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
