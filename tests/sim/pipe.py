"""Connections within a pod: two transports on the virtual loop, one end in each process."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from tests.sim.loop import Process, VirtualLoop

DELAY_S: Final = (0.00002, 0.0005)
"""A unix socket's."""


@dataclass(slots=True)
class Lane:
    """What is written on it arrives in that order, on however many connections."""

    arrives_s: float = 0.0


class Pipe(asyncio.Transport):
    """One end. What was written before a death still arrives; then the peer sees it closed."""

    def __init__(self, loop: VirtualLoop, random: Random, owner: Process) -> None:
        super().__init__()
        self.lane = Lane()
        self.peer: Pipe
        self.protocol: asyncio.Protocol
        self._loop = loop
        self._random = random
        self._owner = owner
        self._is_closed = False
        owner.ports.append(self)

    def write(self, data: Any) -> None:
        if not self._is_closed:
            self._to_peer(self.peer._receive, bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def _to_peer(self, what: Callable[..., None], *args: Any) -> None:
        delay_s = self._random.uniform(*DELAY_S)
        if self._random.random() < self._loop.slow_reads:
            delay_s += self._random.uniform(0.0, self._loop.slow_s)
        lane = self.lane
        lane.arrives_s = max(lane.arrives_s, self._loop.now_s + delay_s)
        context = self.peer._owner.context
        self._loop.call_at(lane.arrives_s, what, *args, context=context)

    def _receive(self, data: bytes) -> None:
        if not self._is_closed:
            self.protocol.data_received(data)

    def close(self) -> None:
        """Hang up, in good order or by dying: the other side can't tell."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.call_soon(self.protocol.connection_lost, None, context=self._owner.context)
        self._to_peer(self.peer._lost)

    def abort(self) -> None:
        self.close()

    def _lost(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self.protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self._is_closed


def connect(
    loop: VirtualLoop,
    random: Random,
    *,
    ends: tuple[Process, Process],
    factories: tuple[Callable[[], asyncio.BaseProtocol], Callable[[], asyncio.BaseProtocol]],
    lane: Lane | None = None,
) -> tuple[Pipe, asyncio.BaseProtocol]:
    """Join two processes; what the first one's `create_unix_connection` returns.

    `lane` is what the first one shares with its other connections to the second.
    """
    near, far = Pipe(loop, random, ends[0]), Pipe(loop, random, ends[1])
    near.peer, far.peer = far, near
    near.lane = lane or near.lane
    for pipe, factory in zip((near, far), factories, strict=True):
        protocol = factory()
        assert isinstance(protocol, asyncio.Protocol)
        pipe.protocol = protocol
    loop.call_soon(far.protocol.connection_made, far, context=ends[1].context)
    near.protocol.connection_made(near)
    return near, near.protocol
