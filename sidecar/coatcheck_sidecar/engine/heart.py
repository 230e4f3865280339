"""What an owner owes the fleet: a heartbeat with its runs in it, and an ear for commands."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from coatcheck_sidecar.core.command import Command, decide_command, decode_command
from coatcheck_sidecar.core.doubt import Rules
from coatcheck_sidecar.core.model import Level
from coatcheck_sidecar.core.objects import BadObject
from coatcheck_sidecar.core.ownership import Heartbeat, encode_heartbeat
from coatcheck_sidecar.core.record import Commanded, Event, Failed, Held
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.undo_records import Compensating
from coatcheck_sidecar.engine.calls import KEY_MARGIN_S
from coatcheck_sidecar.engine.fleet import heartbeat_name, inbox_prefix
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.engine.shipper import Doors
from coatcheck_sidecar.ports import StoreError

CLAIMS_GATHER_S: Final = 0.2
"""Claims come in bursts: one heartbeat tells of all."""
COMMANDS_MAX: Final = 100
"""Commands read at one heartbeat; more are read at the next."""


class Heart:
    """Beats for one owner."""

    def __init__(
        self,
        me: str,
        *,
        doors: Doors,
        keepers: Callable[[], Iterable[Keeper]],
        now_ms: Callable[[], int],
    ) -> None:
        """`keepers` are the runs owned at the moment."""
        self.me = me
        self.address = ""
        self.is_draining = False
        self.is_away = False
        """The last beat did not reach the store."""
        self._doors = doors
        self._keepers = keepers
        self._now_ms = now_ms
        self._beat = 0
        self._is_stopped = False
        self._poke = asyncio.Event()

    async def run(self) -> None:
        """Beat for ever, and soon after each claim, so that the fleet knows of it."""
        while True:
            began_s = self._doors.clock.monotonic()
            self._poke.clear()
            await self.beat()
            took_s = self._doors.clock.monotonic() - began_s
            try:
                async with asyncio.timeout(max(0.0, self._doors.settings.heartbeat_s - took_s)):
                    await self._poke.wait()
                    await self._doors.clock.sleep(CLAIMS_GATHER_S)
            except TimeoutError:
                pass

    def poke(self) -> None:
        """There is something that the next heartbeat should say soon."""
        self._poke.set()

    async def beat(self) -> None:
        """One heartbeat, and a look at the inbox; none after `stop`."""
        if self._is_stopped:
            return
        self._beat += 1
        keepers = list(self._keepers())
        runs = tuple(keeper.summary() for keeper in keepers)
        beat = Heartbeat(self.me, self._beat, self.address, self.is_draining, runs)
        try:
            await self._doors.store.put(heartbeat_name(self.me), encode_heartbeat(beat))
            await self._drop_markers(keepers)
            await self.read_inbox(self.me)
        except StoreError as error:
            self._note_away(is_away=True, error=str(error))
        else:
            self._note_away(is_away=False)

    async def _drop_markers(self, keepers: Iterable[Keeper]) -> None:
        """A marker goes once a heartbeat names its run: until then it is all that leads there."""
        for keeper in keepers:
            if keeper.left_marker:
                await self._doors.store.delete(keeper.left_marker)
                keeper.left_marker = ""

    async def drop_marker(self, keeper: Keeper) -> None:
        """A run that is let go of is where its new head says, which has a marker of its own."""
        try:
            await self._drop_markers([keeper])
        except StoreError as error:
            self._doors.observer.note("look_failed", error=str(error))

    def _note_away(self, *, is_away: bool, error: str = "") -> None:
        if is_away and not self.is_away:
            self._doors.observer.note("store_away", error=error)
        elif self.is_away and not is_away:
            self._doors.observer.note("store_back")
        self.is_away = is_away

    async def stop(self) -> None:
        """No more heartbeats: the object goes, so that nobody waits for its lease."""
        self._is_stopped = True
        try:
            await self._doors.store.delete(heartbeat_name(self.me))
        except StoreError as error:
            self._doors.observer.note("heartbeat_failed", error=str(error))

    async def read_inbox(self, owner: str, only: Keeper | None = None) -> None:
        """Carry out commands put for `owner`; raises `StoreError`."""
        prefix = inbox_prefix(owner, only.run if only else "")
        keepers = {keeper.run: keeper for keeper in ([only] if only else self._keepers())}
        for entry in await self._doors.store.list(prefix, limit=COMMANDS_MAX):
            stored = await self._doors.store.get(entry.name)
            if stored is None:
                continue
            try:
                command = decode_command(entry.name, stored.data)
            except BadObject as error:
                self._doors.observer.note("damaged", run="", error=str(error))
                await self._doors.store.delete(entry.name)
                continue
            keeper = keepers.get(command.run)
            if keeper is not None and not keeper.is_over:
                await self.obey(keeper, command)
                await self._doors.store.delete(entry.name)

    async def _take_back(self, keeper: Keeper) -> None:
        """What the run did is to be taken back: its agent stops at its next boundary."""
        if keeper.agent is None:
            await keeper.release("compensate")
        else:
            keeper.stop(left_s=self._doors.settings.grace_s)

    async def obey(self, keeper: Keeper, command: Command) -> str:
        """Append what the command asks for, or why not, which it returns; it is in the head then.

        Raises nothing: a run that was lost meanwhile has its new owner.
        """
        rules = Rules(pause_max_s=self._doors.settings.pause_max_s, key_margin_s=KEY_MARGIN_S)
        state = keeper.log.state
        events: list[Event] = []
        if command.id not in state.commands:
            events = decide_command(state, command, now_ms=self._now_ms(), rules=rules)
        try:
            if events and isinstance(events[-1], Failed | Held):
                await keeper.cancel(*events, by=command.by)
            elif events:
                with keeper.writing(command.call):
                    await keeper.write(*events, level=Level.REMOTE)
            if events and isinstance(events[-1], Compensating):
                await self._take_back(keeper)
        except Refusal as error:
            refused = error.message
        else:
            last = events[-1] if events else None
            refused = last.refused if isinstance(last, Commanded) else ""
        self._doors.observer.note("command", what=command.what, refused=refused)
        return refused
