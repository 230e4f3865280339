"""People outside: one who decides doubts by the ledger, one who signals, one who cancels."""

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgpack

from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.model import UNDO_KEY, Call, CallClass, CallState, Status
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.restore import Damaged
from coatcheck_sidecar.ports import StoreError
from tests.sim.compare import restored_state
from tests.sim.saga import AT_S, charge_of
from tests.sim.store import ReachedStore
from tests.sim.upstream import BEFORE_WRITE_S, PAUSE_MAX_S, SETTLE_S, UNDO

if TYPE_CHECKING:
    from tests.sim.world import World

LEDGER_WAIT_S: Final = SETTLE_S + BEFORE_WRITE_S + PAUSE_MAX_S
"""A ledger's "no" counts when nothing can be on its way any more."""
AT_A_DOUBT: Final = 0.7
"""The share of those that are to be taken back just then."""
PATIENCE_S: Final = 15.0
"""How long a person waits for a command before giving it again."""


class Operator:
    """Looks at every run, and commands through the store alone."""

    def __init__(self, world: "World", random: Random) -> None:
        self._world = world
        self._random = random
        self._struck: set[str] = set()
        """Runs that were seen with something irreversible in doubt."""
        self._first_seen_s: dict[tuple[str, int, int], float] = {}
        clock = world.process("operator", world.clock()).clock
        self._outside = Outside(ReachedStore(world.shared), clock, settings=world.settings)
        self._loop = world.loop

    async def decide(self) -> None:
        """Resolve doubts, let held runs go on."""
        while True:
            await asyncio.sleep(self._random.uniform(0.5, 2.0))
            for run in list(self._world.plans):
                await self._look(run)

    async def _look(self, run: str) -> None:
        head = self._world.judge.watch(run).head
        if head is None or head.status.is_final:
            return
        state = restored_state(head, self._world.shared.peek)
        if isinstance(state, str):
            return
        if run not in self._struck and any(call.is_irreversible for call in state.in_doubt):
            self._struck.add(run)
            if self._random.random() < AT_A_DOUBT:
                await self._bring(self._taking_back(run))
        for call in state.in_doubt:
            seen_s = self._first_seen_s.setdefault(
                (run, call.number, call.attempt), self._loop.now_s
            )
            if self._loop.now_s - seen_s > LEDGER_WAIT_S:
                await self._resolve(run, call)
        if head.status is Status.HELD and not state.in_doubt:
            await self._bring(Command(id=self._id(), run=run, what="retry", by="operator"))

    async def _resolve(self, run: str, call: Call) -> None:
        charges, upstream = self._world.judge.charges, self._world.upstream
        name = charges.get(call.upstream_key, "")
        if call.is_undo:
            name = UNDO + charge_of(charges, run, call.key.removeprefix(UNDO_KEY))
        receipt = upstream.receipt(name)
        verdict = self._random.choice(("not_applied", "retry")) if receipt is None else "applied"
        # There is no request to retry, or it was refused, and is again by whoever saves answers.
        is_by_hand = not call.attempt or (
            call.state is CallState.DONE and call.call_class is CallClass.KEYED
        )
        if call.is_undo and receipt is None and is_by_hand:
            verdict, receipt = "applied", upstream.charge("undo-by-hand", name, key="")
        value = None if receipt is None else msgpack.packb([receipt, ""])
        self._first_seen_s.pop((run, call.number, call.attempt), None)
        await self._bring(
            Command(
                id=self._id(),
                run=run,
                what="resolve",
                by="operator",
                call=call.number,
                verdict=verdict,
                value=value,
            )
        )

    async def signal(self, run: str, name: str, value: int) -> None:
        """Send a signal until it is known to have come; the same command each time."""
        await asyncio.sleep(self._random.uniform(0.0, 40.0))
        data = msgpack.packb(value)
        command = Command(
            id=self._id(), run=run, what="signal", by="somebody", name=name, value=data
        )
        while not await self._bring(command):
            if self._world.judge.is_final(run):
                return
            await asyncio.sleep(self._random.uniform(0.2, 2.0))

    async def cancel(self, run: str) -> None:
        """Cancel a run at some moment."""
        await asyncio.sleep(self._random.uniform(2.0, 40.0))
        await self._bring(Command(id=self._id(), run=run, what="cancel", by="somebody"))

    async def rewind(self, run: str) -> None:
        """Set a run back to some checkpoint that is kept, twice perhaps."""
        for _ in range(self._random.randint(1, 2)):
            await asyncio.sleep(self._random.uniform(0.5, 8.0))
            head = self._world.judge.watch(run).head
            if head is None or not head.kept:
                continue
            to = self._random.choice(head.kept).seq
            command = Command(id=self._id(), run=run, what="rewind", by="somebody", to=to)
            await self._bring(command, self._outside.rewind)

    async def compensate(self, run: str) -> None:
        """Have what a run did taken back; the same command until it is known to have come."""
        await asyncio.sleep(self._random.uniform(*AT_S))
        command = self._taking_back(run)
        while not await self._bring(command):
            if self._world.judge.is_final(run):
                return
            await asyncio.sleep(self._random.uniform(0.2, 2.0))

    def _taking_back(self, run: str) -> Command:
        then = self._random.choice(("", "end", "resubmit"))
        command = Command(id=self._id(), run=run, what="compensate", by="somebody", then=then)
        self._world.saga_judge.asked_for.add(command.id)
        return command

    async def _bring(self, command: Command, how: Any = None) -> bool:
        try:
            done = await (how or self._outside.command)(command, timeout_s=PATIENCE_S)
        except (Refusal, StoreError, Damaged) as error:
            self._world.note("command failed", run=command.run, what=command.what, why=str(error))
            return False
        self._world.note(
            "commanded", run=command.run, what=command.what, call=command.call,
            verdict=command.verdict, refused=done.refused,
        )  # fmt: skip
        return True

    def _id(self) -> str:
        return self._random.randbytes(6).hex()
