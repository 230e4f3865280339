"""The world that agents act on: a payments ledger that counts what really happened.

A request takes time on its way; it arrives even if its sender died meanwhile. Answers get lost.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, TypeVar

from coatcheck import NotApplied
from tests.sim.loop import Process, VirtualLoop, this_process

FLIGHT_S: Final = (0.01, 1.4)
"""How long a request may be on its way."""
LATE_S: Final = (1.2, 1.45)
"""How long one is that something on the way held up."""
LATE_PROBED: Final = 6.0
"""So much oftener those of tools with a probe: what that may conclude depends on them."""
LOST_FINAL: Final = 6.0
"""So much oftener the answers of what is irreversible: a doubt of it stands in the way."""
SETTLE_S: Final = 1.5
"""What tools with a probe declare: longer than any flight."""
BEFORE_WRITE_S: Final = 0.2
"""A tool's own work between its look at the clock and its write."""
PATIENCE_S: Final = 4.0
"""How long a tool waits for its answer."""
RESET_S: Final = (0.0, 0.3)
"""When the sender of a late request is told that its connection is gone."""
PAUSE_MAX_S: Final = 1.0
"""The longest pause that agents' processes are allowed between look and write."""

Value = TypeVar("Value")
UNDO: Final = "undo/"
"""How the name of a charge begins that takes another one back."""
ONCE: Final = frozenset(
    {"once", "probed", "business", "named", "http-probed", "http-once", "final", "http-final"}
    | {"undo-once", "undo-probed", "undo-http-probed", "undo-http-once"}
)
KEYED: Final = frozenset(
    {"keyed", "shipped", "http-keyed", "http-fading"}
    | {"undo-keyed", "undo-http-keyed", "undo-http-fading"}
)


class Trouble(Exception):  # noqa: N818 - says what is the case
    """A tool got no answer: it may or may not have acted."""


@dataclass(slots=True)
class Charge:
    """What the ledger knows of one logical charge."""

    tool: str
    effects: int = 0
    keys: set[str] = field(default_factory=set)
    """Upstream keys under which it was honoured, where the server looks at keys."""
    receipt: int = 0


@dataclass(slots=True)
class Habits:
    """How often requests fare badly."""

    refused: float = 0.0
    """Known not to have left."""
    lost: float = 0.0
    lost_answer: float = 0.0
    late: float = 0.0
    """Held up on their way, and still there when their sender is told of a reset, or is killed."""
    failed_probe: float = 0.0

    def improve(self) -> None:
        """Everything arrives and is answered."""
        self.refused = self.lost = self.lost_answer = self.late = self.failed_probe = 0.0


class Upstream:
    """One server for all tools."""

    def __init__(self, loop: VirtualLoop, random: Random, habits: Habits) -> None:
        self.habits = habits
        self.charges: dict[str, Charge] = {}
        self.names: dict[int, str] = {}
        """By receipt: what was charged."""
        self.on_effect: Callable[[str, Charge], None] = lambda name, charge: None
        self.on_late: Callable[[Process], None] = lambda sender: None
        """A request left, and will be on its way for a while."""
        self._loop = loop
        self._random = random
        self._nobody = Context()
        self._serial = 0

    async def send(self, tool: str, name: str, *, key: str) -> int:
        """Charge `name`; its receipt. Raises `NotApplied`, `Trouble`."""
        process = this_process()
        process.windows += 1
        await asyncio.sleep(self._random.uniform(0.0, BEFORE_WRITE_S))
        process.windows -= 1
        chance, habits = self._random.random(), self.habits
        if chance < habits.refused:
            raise NotApplied("connection refused")
        answer: asyncio.Future[int] = self._loop.create_future()
        if chance > habits.refused + habits.lost:
            weight = LATE_PROBED if tool in ("probed", "undo-probed") else 1.0
            is_late = self._random.random() < habits.late * weight
            loss = habits.lost_answer * (LOST_FINAL if tool.startswith("final") else 1.0)
            is_answered = not is_late and self._random.random() >= loss
            self._loop.call_later(
                self._flight_s(is_late=is_late), self._arrive, tool, name, key,
                answer if is_answered else None, context=self._nobody,
            )  # fmt: skip
            if is_late:
                self.on_late(process)
                await asyncio.sleep(self._random.uniform(*RESET_S))
                raise Trouble("connection reset")
        return await self._wait(answer)

    def _flight_s(self, *, is_late: bool = False) -> float:
        if is_late:
            return self._random.uniform(*LATE_S)
        return self._random.uniform(*FLIGHT_S) * self._random.random()

    async def probe(self, name: str) -> int | None:
        """The receipt of a charge, if there is one. Raises `Trouble`."""
        answer: asyncio.Future[int | None] = self._loop.create_future()
        if self._random.random() >= self.habits.failed_probe:
            self._loop.call_later(self._flight_s(), self._look, name, answer, context=self._nobody)
        return await self._wait(answer)

    async def _wait(self, answer: "asyncio.Future[Value]") -> Value:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await answer
        except TimeoutError:
            raise Trouble("no answer") from None

    def _arrive(self, tool: str, name: str, key: str, answer: "asyncio.Future[int] | None") -> None:
        receipt = self.charge(tool, name, key=key)
        if answer is not None:
            self._answer(answer, receipt)

    def charge(self, tool: str, name: str, *, key: str) -> int:
        """It happens, unless this key was honoured before; the receipt."""
        charge = self.charges.setdefault(name, Charge(tool))
        if tool not in KEYED or key not in charge.keys:
            self._serial += 1
            charge.effects += 1
            charge.receipt = self._serial
            self.names[self._serial] = name
            charge.keys.add(key)
            self.on_effect(name, charge)
        return charge.receipt

    def _look(self, name: str, answer: "asyncio.Future[int | None]") -> None:
        self._answer(answer, self.receipt(name))

    def _answer(self, answer: "asyncio.Future[Any]", value: int | None) -> None:
        delay_s = self._random.uniform(0.005, 0.3)
        self._loop.call_later(delay_s, _tell, answer, value, context=self._nobody)

    def receipt(self, name: str) -> int | None:
        """What an operator reads in the ledger."""
        charge = self.charges.get(name)
        return charge.receipt if charge is not None and charge.effects else None

    def receipt_of(self, key: str) -> int | None:
        """The same, by upstream key."""
        found = (charge for charge in self.charges.values() if key in charge.keys)
        return next((charge.receipt for charge in found), None)


def _tell(answer: "asyncio.Future[Any]", value: int | None) -> None:
    if not answer.done():
        answer.set_result(value)
