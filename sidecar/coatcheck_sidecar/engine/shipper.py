"""Ships one run's log: one swap of its head after another, each with all that came meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from coatcheck.wire import ErrorCode
from coatcheck_sidecar.core.budget import Sent, Unsent
from coatcheck_sidecar.core.delta import HEAD_DELTAS_BYTES_MAX
from coatcheck_sidecar.core.head import Head, decode_head, encode_head
from coatcheck_sidecar.core.layout import NAME_RANDOM_BYTES, head_name
from coatcheck_sidecar.core.model import ObjectRef, Status
from coatcheck_sidecar.core.objects import BadObject
from coatcheck_sidecar.core.ownership import encode_summary, summary_of
from coatcheck_sidecar.core.runlog import RECORD_BYTES, RunLog, Verdict, judge
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.snapshot import Snapshot
from coatcheck_sidecar.core.undo import BY_AGENT
from coatcheck_sidecar.engine.budget import Budget
from coatcheck_sidecar.engine.lane import Lane
from coatcheck_sidecar.engine.seal import must_seal, sealed
from coatcheck_sidecar.engine.settings import Settings
from coatcheck_sidecar.engine.tasks import happens
from coatcheck_sidecar.ports import Clock, Observer, Store, StoreError, StoreRefused

NONCE_BYTES: Final = 16
RETRY_BASE_S: Final = 0.1
RETRY_MAX_S: Final = 2.0
"""Back-off while the store is away: short, since guarded calls wait for it."""
DAMAGED_LOOKS_MAX: Final = 3
"""A head that can't be read so often in a row is damaged, and not only badly read."""
PACED_SHARE: Final = 0.5
"""Of what a store wants between two writes: who waits longer for one waits for that."""
MARKED: Final = frozenset({Status.READY, Status.HELD, Status.PARKED, Status.COMPENSATING})
"""Statuses in which nobody owns a run and a marker tells where it is."""


@dataclass(frozen=True, slots=True)
class Doors:
    """What the engine's parts share."""

    store: Store
    clock: Clock
    settings: Settings
    observer: Observer
    gate: asyncio.Semaphore
    """Bounds the puts of the whole pod."""
    background: Lane
    """For ships that nobody waits for, so that they don't stand in the way of the others."""
    budget: Budget
    """What may be unshipped."""


def marker_name(head: Head) -> str:
    """`<status>/<queue>/<run>/<epoch>`: a hint, written before the head that it is of.

    A run that waits for an agent to take something back is where agents look for work.
    """
    place = Status.READY if head.undo == BY_AGENT else head.status
    return f"{place.value}/{head.queue}/{head.run}/{head.epoch}"


def fenced(run: str, epoch: int) -> Refusal:
    """The run has a newer owner."""
    return Refusal(
        ErrorCode.FENCED,
        f"run {run} was claimed by a newer owner; epoch {epoch} is over",
        run=run,
        epoch=epoch,
    )


class Shipper:
    """The only writer of its run's head in this process."""

    def __init__(self, log: RunLog, doors: Doors, *, store_format: int | None = None) -> None:
        """Ships nothing before `run` (a loop) or `ship_all` (until all is shipped).

        `store_format` is that of the settings if absent.
        """
        self.log = log
        self.log.keep = doors.settings.keep_checkpoints
        self.log.format = store_format or doors.settings.store_format
        self.doors = doors
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._is_urgent = asyncio.Event()
        self._turns: set[asyncio.Future[bool]] = set()
        """Ours that queue for a place in the background."""
        self._is_uploading = False
        self._uploads: dict[int, asyncio.Future[ObjectRef]] = {}
        self._sent = Sent()
        self._head_bytes = 0
        self._last_s = float("-inf")
        self._failures = 0
        self._damaged_looks = 0
        self.is_fenced = False
        self.is_draining = False
        self.owned_from_s = float("-inf")
        """Boot time just before the last swap that succeeded was sent."""
        self.on_shipped: Callable[[], None] = lambda: None
        self.on_fenced: Callable[[], None] = lambda: None

    def poke(self) -> None:
        """There is something new to ship."""
        self._wake.set()
        self._weigh()

    @property
    def left_bytes(self) -> int:
        """About what is to be put until a head holds all that there is."""
        next_bytes = self._unsent().put_bytes(head_bytes_max=HEAD_DELTAS_BYTES_MAX)
        return self._sent.put_bytes + next_bytes + (self._head_bytes if next_bytes else 0)

    def added_bytes(self, delta_bytes: int, *, state_bytes: int) -> int:
        """About what a checkpoint by such a delta, of such a state, adds to that."""
        unsent = self._unsent()
        before = unsent.put_bytes(head_bytes_max=HEAD_DELTAS_BYTES_MAX)
        more = unsent.more(delta_bytes, state_bytes=state_bytes)
        after = more.put_bytes(head_bytes_max=HEAD_DELTAS_BYTES_MAX)
        return RECORD_BYTES + max(0, after - before)

    def _unsent(self) -> Unsent:
        log, sent = self.log, self._sent
        new_bytes = log.unshipped_deltas_bytes - sent.deltas_bytes
        return Unsent(
            weight=log.unshipped_bytes - sent.weight,
            new_bytes=new_bytes,
            old_bytes=0 if sent.has_sealed else log.deltas_bytes - new_bytes,
            base_bytes=log.base_bytes,
            state_bytes=len(log.checkpoint_bytes),
        )

    def _weigh(self) -> None:
        if self.is_fenced:
            self.doors.budget.forget(self)
        else:
            self.doors.budget.weigh(self, self.left_bytes, shipped_seq=self.log.shipped_seq)

    def urge(self) -> None:
        """What there is must go now: it waits for no interval, and no place in the background."""
        if self.log.unshipped:
            self._is_urgent.set()
            self._wake.set()
            self._pass()

    def adopt(self, seq: int, upload: "asyncio.Future[ObjectRef]") -> None:
        """The body of record `seq` is on its way to an object; its head must wait for it."""
        self._uploads[seq] = upload

    def shipped(self, seq: int) -> Awaitable[None]:
        """Wait until the head holds `seq`; raises `Refusal` (fenced)."""
        future = asyncio.get_running_loop().create_future()
        if self.is_fenced:
            future.set_exception(fenced(self.log.state.run, self.log.state.epoch))
        elif self.log.shipped_seq >= seq:
            future.set_result(None)
        else:
            self._waiters.append((seq, future))
            self._is_urgent.set()
            self._wake.set()
            self._pass()
        return future

    def _pass(self) -> None:
        """Somebody waits: don't queue for a place in the background."""
        for turn in self._turns:
            if not turn.done():
                turn.set_result(False)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place in the background; without one, once somebody waits for what is not shipped."""
        lane = self.doors.background
        turn = lane.enter()
        self._turns.add(turn)
        if self._waiters or self._is_uploading:
            self._pass()
        try:
            has_place = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                lane.leave(after_s=0.0)
            raise
        finally:
            self._turns.discard(turn)
        began_s = self.doors.clock.monotonic()
        try:
            yield
        finally:
            if has_place:
                lane.leave(after_s=self.doors.clock.monotonic() - began_s)

    async def run(self) -> None:
        """Ship until fenced or cancelled."""
        while not self.is_fenced:
            await self._wake.wait()
            await self._pace()
            async with self.place():
                await self._next()
            if self.log.unshipped and not self.is_fenced:
                self._wake.set()
                if self._waiters:
                    self._is_urgent.set()

    async def _next(self) -> None:
        self._wake.clear()
        self._is_urgent.clear()
        if self.log.unshipped:
            await self._attempt()

    async def ship_all(self) -> None:
        """Ship everything there is now; raises `Refusal` (fenced). Not beside `run`."""
        seq = self.log.state.seq
        while self.log.shipped_seq < seq:
            await self._attempt()
            if self.is_fenced:
                raise fenced(self.log.state.run, self.log.state.epoch)

    async def _pace(self) -> None:
        clock = self.doors.clock
        left_s = self._last_s + self.doors.settings.ship_interval_s - clock.monotonic()
        if left_s <= 0 or self._is_urgent.is_set():
            return
        await happens(self._is_urgent, within_s=left_s)

    async def _attempt(self) -> None:
        self._last_s = self.doors.clock.monotonic()
        try:
            await self._ship()
        except StoreError as error:
            self._failures += 1
            self.doors.observer.note("ship_failed", run=self.log.state.run, error=str(error))
            delay_s = min(RETRY_MAX_S, RETRY_BASE_S * 2 ** min(self._failures, 10))
            await self.doors.clock.sleep(delay_s * self.doors.clock.uniform(0.5, 1.0))
        else:
            self._failures = 0

    async def _upload_all(self) -> None:
        """A head waits for its bodies: they must not wait for the head's place."""
        self._is_uploading = True
        self._pass()
        try:
            while self._uploads:
                seq = min(self._uploads)
                self.log.attach(seq, await self._uploads[seq])
                del self._uploads[seq]
        finally:
            self._is_uploading = False

    async def _ship(self) -> None:
        doors, log = self.doors, self.log
        await self._upload_all()
        nonce = doors.clock.random_bytes(NONCE_BYTES)
        weight, deltas_bytes = log.unshipped_bytes, log.unshipped_deltas_bytes
        snapshot = log.snapshot(nonce=nonce, random=doors.clock.random_bytes(NAME_RANDOM_BYTES))
        chain = snapshot.head.chain
        is_wanted = log.must_seal and bool(chain.deltas)
        if is_wanted or must_seal(chain, is_draining=self.is_draining):
            snapshot = await self._seal(snapshot)
        puts = list(snapshot.puts)
        if snapshot.head.status in MARKED:
            marker = encode_summary(summary_of(snapshot.head, in_doubt=len(log.state.in_doubt)))
            puts.append((marker_name(snapshot.head), marker))
        data = encode_head(snapshot.head, encoded=snapshot.encoded)
        put_bytes = len(data) + sum(len(body) for _, body in puts)
        has_sealed = snapshot.head.chain.deltas == ()
        with self._sending(Sent(put_bytes, weight, deltas_bytes, has_sealed), len(data)):
            await asyncio.gather(*(self._put(name, body) for name, body in puts))
            log.remember(snapshot)
            sent_s, sent_boot_s = doors.clock.monotonic(), doors.clock.boottime()
            try:
                async with doors.gate:
                    tag = await doors.store.swap(head_name(log.state.run), data, expected=log.tag)
            except (StoreRefused, StoreError) as error:
                await self._settle(error)
                return
            self.owned_from_s = sent_boot_s
            took_s = doors.clock.monotonic() - sent_s
            doors.observer.note(
                "shipped", run=log.state.run, bytes=put_bytes, puts=len(puts) + 1, seconds=took_s
            )
            apart_s = doors.store.writes_apart_s
            if self._waiters and took_s > apart_s * PACED_SHARE > 0:
                run = log.state.run
                doors.observer.note("store_paced", run=run, seconds=took_s, apart_s=apart_s)
            self._commit(nonce, tag)

    @contextmanager
    def _sending(self, sent: Sent, head_bytes: int) -> Iterator[None]:
        """Have the budget know what is really put for the head that goes now."""
        self._sent, self._head_bytes = sent, head_bytes
        self._weigh()
        try:
            yield
        finally:
            self._sent = Sent()
            self._weigh()

    def _commit(self, nonce: bytes, tag: str) -> None:
        self.log.shipped(nonce, tag=tag)
        seq = self.log.shipped_seq
        for future in [future for wanted, future in self._waiters if wanted <= seq]:
            if not future.done():
                future.set_result(None)
        self._waiters = [(wanted, future) for wanted, future in self._waiters if wanted > seq]
        self.on_shipped()

    async def _settle(self, error: Exception) -> None:
        """A swap was refused or has no clear answer: only the head tells what it means."""
        stored = await self.doors.store.get(head_name(self.log.state.run))
        try:
            name = head_name(self.log.state.run)
            seen = None if stored is None else decode_head(name, stored.data)
        except BadObject as damage:
            self._damaged(damage)
            return
        self._damaged_looks = 0
        match judge(seen, expected=self.log.nonce, written=self.log.written.keys()):
            case Verdict.COMMITTED if seen is not None and stored is not None:
                self._commit(seen.nonce, stored.tag)
            case Verdict.UNCHANGED:
                if stored is not None:
                    self.log.tag = stored.tag
                raise StoreError(f"the head was not swapped: {error}") from error
            case _:
                self.fence()

    def _damaged(self, damage: BadObject) -> None:
        """What stands there is no head: nobody knows who owns the run, and nothing is put over it.

        Raises `StoreError` the first times: it may have been the reading.
        """
        run = self.log.state.run
        self.doors.observer.note("damaged", run=run, error=str(damage))
        self._damaged_looks += 1
        if self._damaged_looks < DAMAGED_LOOKS_MAX:
            raise StoreError(str(damage)) from damage
        self.fence(Refusal(ErrorCode.DAMAGED, f"run {run}: {damage}", run=run))

    def fence(self, why: Refusal | None = None) -> None:
        """This ownership is over: nothing more is shipped, whoever waits is told."""
        self.is_fenced = True
        self._wake.set()
        self._weigh()
        for _, future in self._waiters:
            if not future.done():
                future.set_exception(why or fenced(self.log.state.run, self.log.state.epoch))
        self._waiters.clear()
        self.on_fenced()

    async def _put(self, name: str, data: bytes) -> None:
        async with self.doors.gate:
            await self.doors.store.put(name, data)

    async def _seal(self, snapshot: Snapshot) -> Snapshot:
        random = self.doors.clock.random_bytes(NAME_RANDOM_BYTES)
        bytes_max = self.doors.settings.state_bytes_max
        found, damage = await sealed(snapshot, self.doors.store, bytes_max=bytes_max, random=random)
        if damage is not None:
            self.doors.observer.note("damaged", run=self.log.state.run, error=str(damage))
        return found
