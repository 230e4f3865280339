"""What the command line does to runs: it needs the store alone, and never writes to an owned run.

A command for an owned run is put into its owner's inbox, and done when the run's head shows its
id. An unowned run is appended to here, under an epoch of its own: two who try at once are told
apart by the head, as owners are.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core.command import Command, decide_command, decode_command, encode_command
from coatcheck_sidecar.core.deadline import moment_ms
from coatcheck_sidecar.core.doubt import Rules
from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.layout import object_name
from coatcheck_sidecar.core.model import ObjectRef, Status
from coatcheck_sidecar.core.objects import FORMAT_BEFORE, BadObject, Kind, reference, seal
from coatcheck_sidecar.core.ownership import decode_heartbeat, decode_summary
from coatcheck_sidecar.core.record import Commanded, Created, Record, bodies_of
from coatcheck_sidecar.core.retention import NotKept
from coatcheck_sidecar.core.runlog import BODY_BYTES_MAX, RunLog
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.budget import Budget
from coatcheck_sidecar.engine.calls import KEY_MARGIN_S
from coatcheck_sidecar.engine.fleet import inbox_prefix
from coatcheck_sidecar.engine.lane import Lane
from coatcheck_sidecar.engine.lines import Doubt, RunLine, doubts_of, each, has_calls, merged
from coatcheck_sidecar.engine.lookout import Lookout
from coatcheck_sidecar.engine.rebuild import Rebuilt, rebuild
from coatcheck_sidecar.engine.restore import Damaged, Restored, read_head, read_run
from coatcheck_sidecar.engine.rewind import look_up, rewind
from coatcheck_sidecar.engine.settings import Settings
from coatcheck_sidecar.engine.shipper import MARKED, Doors, Shipper, marker_name
from coatcheck_sidecar.engine.upkeep import Upkeep, check_run
from coatcheck_sidecar.ports import Clock, Listed, Store, StoreError

READS_MAX: Final = 16
"""Small objects read at once."""
RUNS_READ_MAX: Final = 4
"""Whole runs read at once: each may bring a state of 64 MiB."""
PAGE: Final = 1_000
"""Names in one answer of a store."""
RUNS_MAX: Final = 1_000_000
"""Verified in one go: a day's work."""
LINES_MAX: Final = 1_000
"""Runs of one listing, unless told otherwise."""
POLL_S: Final = 0.5
"""How often a head is looked at while its owner is to carry out a command."""
TIMEOUT_S: Final = 60.0
"""How long a command is waited for: an owner looks at its inbox every heartbeat."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a command."""

    id: str
    refused: str
    """Why it was not carried out; empty if it was."""
    status: Status | None
    """Of the run afterwards; `None` if that is not known."""


class Outside:
    """Reads runs, and brings commands to them. Every verb may raise `StoreError`."""

    def __init__(self, store: Store, clock: Clock, *, settings: Settings | None = None) -> None:
        """`settings` are those of the sidecars, where they aren't the defaults."""
        self._store = store
        self._clock = clock
        self._settings = settings or Settings()
        self.on_placed: Callable[[], None] = lambda: None
        """Told after a command was put into an owner's inbox."""
        self.lookout = Lookout(store, clock)
        self.upkeep = Upkeep(store, state_bytes_max=self._settings.state_bytes_max)
        self._trouble = _Trouble()
        gate = asyncio.Semaphore(self._settings.puts_max)
        background = Lane(self._settings.puts_max)
        budget = Budget(clock, settings=self._settings, observer=self._trouble)
        self._doors = Doors(store, clock, self._settings, self._trouble, gate, background, budget)

    # Reading

    async def list_runs(self, *, is_all: bool = False, limit: int = LINES_MAX) -> list[RunLine]:
        """Runs by name: those owned or marked, or with `is_all` every head there is."""
        found: dict[str, RunLine] = {}
        for line in [*await self._owned(), *await self._marked(limit)]:
            known = found.get(line.summary.run)
            if known is None or known.summary.epoch <= line.summary.epoch:
                found[line.summary.run] = line
        if is_all:
            names = await self.upkeep.all_runs(limit)
            heads = await each(names, self._read_head, at_once=READS_MAX)
            for head in heads:
                if head is not None:
                    found[head.run] = merged(head, found.get(head.run))
        return sorted(found.values(), key=lambda line: line.summary.run)[:limit]

    async def show(self, run: str) -> Restored:
        """A run whole; raises `Refusal` (not found, damaged), `Damaged`."""
        check_run(run)
        found = await read_run(self._store, run, bytes_max=self._settings.state_bytes_max)
        if found is None:
            raise Refusal(ErrorCode.NOT_FOUND, f"there is no run {run} in {self._store.url}")
        return found

    async def of_heads(
        self, what: Callable[[Head], Answer], *, limit: int = LINES_MAX
    ) -> tuple[list[Answer], bool]:
        """Something of so many readable heads, by run's name; and whether there are more runs."""

        async def read(run: str) -> list[Answer]:
            head = await self._read_head(run)
            return [] if head is None else [what(head)]

        runs = await self.upkeep.all_runs(limit + 1)
        found = await each(runs[:limit], read, at_once=READS_MAX)
        return [answer for one in found for answer in one], len(runs) > limit

    async def doubts(self, run: str | None = None, *, is_all: bool = False) -> list[Doubt]:
        """Calls in doubt, oldest first: of one run, or of all that say they have some.

        With `is_all` also of those that are over, by their heads.
        """
        if run is not None:
            return doubts_of(await self.show(run))
        names = {line.summary.run for line in await self.list_runs() if line.summary.in_doubt}
        if is_all:
            names |= {name for name, has in (await self.of_heads(has_calls))[0] if has}
        runs = await each(sorted(names), self._read_run, at_once=RUNS_READ_MAX)
        found = [
            doubt for restored in runs if restored is not None for doubt in doubts_of(restored)
        ]
        return sorted(found, key=lambda doubt: doubt.call.first_sent_ms)

    async def _owned(self) -> list[RunLine]:
        now_ms = await self._store.now_ms()
        beats = [e for e in await self._listed("owners/") if e.name.endswith("/heartbeat")]

        async def read(entry: Listed) -> list[RunLine]:
            stored = await self._store.get(entry.name)
            silent_s = max(0, now_ms - entry.modified_ms) / 1000
            with suppress(BadObject):
                if stored is not None:
                    beat = decode_heartbeat(entry.name, stored.data)
                    return [RunLine(summary, beat.owner, silent_s) for summary in beat.runs]
            return []

        lines = await each(beats, read, at_once=READS_MAX)
        return [line for owned in lines for line in owned]

    async def _marked(self, limit: int) -> list[RunLine]:
        prefixes = [f"{status.value}/" for status in sorted(MARKED)]
        names = [e.name for p in prefixes for e in await self._listed(p, limit=limit)]

        async def read(name: str) -> RunLine | None:
            stored = await self._store.get(name)
            with suppress(BadObject):
                return None if stored is None else RunLine(decode_summary(name, stored.data))
            return None

        lines = await each(names, read, at_once=READS_MAX)
        return [line for line in lines if line is not None]

    async def _listed(self, prefix: str, *, limit: int | None = None) -> list[Listed]:
        entries: list[Listed] = []
        while limit is None or len(entries) < limit:
            after = entries[-1].name if entries else ""
            page = await self._store.list(prefix, after=after, limit=PAGE)
            entries += page
            if len(page) < PAGE:
                break
        return entries if limit is None else entries[:limit]

    async def _read_head(self, run: str) -> Head | None:
        with suppress(Refusal):
            found = await read_head(self._store, run)
            return None if found is None else found[0]
        return None

    async def _read_run(self, run: str) -> Restored | None:
        with suppress(Refusal, Damaged):
            return await self.show(run)
        return None

    # Writing

    async def submit(
        self,
        created: Created,
        *,
        run: str,
        deadline_s: float | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> bool:
        """Make a run that the next idle agent of its queue takes; `False`: it was there already.

        Raises `Refusal` (conflict) if the run there has another input or queue.
        """
        check_run(run)
        async with self._limit(timeout_s, f"run {run} was not made"):
            while await read_head(self._store, run) is None:
                log, now_ms = RunLog(RunState(run)), await self._store.now_ms()
                made = replace(created, deadline_ms=moment_ms(deadline_s, now_ms=now_ms))
                try:
                    record = log.append(made, at_ms=now_ms)
                    await self._ship(log, [record], store_format=FORMAT_BEFORE)
                except Refusal:  # somebody else made it in this moment: it is compared below
                    continue
                return True
            there = (await self.show(run)).log.state.created
        if _said(there) != _said(created):
            raise Refusal(
                ErrorCode.CONFLICT,
                f"run {run} exists with another input, queue or version; take another name",
                run=run,
            )
        return False

    async def command(self, command: Command, *, timeout_s: float = TIMEOUT_S) -> Done:
        """Have a command carried out, wherever the run is; raises `Refusal`, `Damaged`."""
        check_run(command.run)
        if command.what == "resolve" and not command.at_ms:
            command = await self._dated(command)
        try:
            decode_command("this command", encode_command(command))
        except BadObject as error:  # its owner would throw it away without a word
            raise Refusal(ErrorCode.PROTOCOL_ERROR, str(error)) from error
        placed: dict[str, str] = {}
        waits = f"command {command.id} for run {command.run} was not carried out"
        async with self._limit(timeout_s, waits, placed=placed):
            while (done := await self._look(command, placed)) is None:
                await self._clock.sleep(POLL_S)
        for name in placed.values():
            with suppress(StoreError):
                await self._store.delete(name)
        return done

    async def rewind(self, command: Command, *, timeout_s: float = TIMEOUT_S) -> Done:
        """Stop a run, set it back, and let it go on; raises `Refusal`, `Damaged`."""
        check_run(command.run)
        found = await read_head(self._store, command.run)
        if found is not None:
            bytes_max = self._settings.state_bytes_max
            older = await look_up(self._store, found[0], command=command, bytes_max=bytes_max)
            if isinstance(older, NotKept):
                return Done(command.id, older.why, found[0].status)
        done = await self.command(command, timeout_s=timeout_s)
        if done.refused:
            return done
        restored, now_ms = await self.show(command.run), await self._store.now_ms()
        refused = await rewind(self._doors, restored, command=command, now_ms=now_ms)
        return Done(command.id, refused, restored.log.state.status)

    async def rebuild(self, run: str, *, by: str) -> Rebuilt:
        """Make a damaged head anew; raises `Refusal` (not found, conflict, damaged)."""
        check_run(run)
        return await rebuild(self._doors, run, by=by, now_ms=await self._store.now_ms())

    async def _dated(self, command: Command) -> Command:
        """A decision speaks of what was sent until now: it may be carried out much later."""
        try:
            at_ms = await self._store.now_ms()
            call = (await self.show(command.run)).log.state.calls.get(command.call)
        except StoreError as error:
            why = f"the store does not answer: {error}"
            raise Refusal(ErrorCode.STORE_UNAVAILABLE, why, retry=Retry.LATER) from error
        return replace(command, at_ms=at_ms, attempt=call.attempt if call else 0)

    async def _look(self, command: Command, placed: dict[str, str]) -> Done | None:
        try:
            return await self._bring(command, placed)
        except StoreError as error:
            self._trouble.note("look_failed", error=str(error))
            return None

    async def _bring(self, command: Command, placed: dict[str, str]) -> Done | None:
        """One look at the run; `None`: look again."""
        found = await read_head(self._store, command.run)
        if found is None:
            raise Refusal(ErrorCode.NOT_FOUND, f"there is no run {command.run}")
        head = found[0]
        if command.id in head.commands:
            return Done(command.id, _refused(head, command.id), head.status)
        if head.status is not Status.OWNED:
            return await self._append(command)
        if head.owner not in placed:
            name = f"{inbox_prefix(head.owner, command.run)}{command.id}"
            await self._store.put(name, encode_command(command))
            placed[head.owner] = name
            self.on_placed()
        return None

    async def _append(self, command: Command) -> Done | None:
        restored = await self.show(command.run)
        log, old = restored.log, restored.head
        if old.status is Status.OWNED or command.id in old.commands:
            return None
        log.state.epoch += 1
        now_ms = await self._store.now_ms()
        rules = Rules(pause_max_s=self._settings.pause_max_s, key_margin_s=KEY_MARGIN_S)
        events = decide_command(log.state, command, now_ms=now_ms, rules=rules)
        refused = [e.refused for e in events if isinstance(e, Commanded) and e.refused]
        if refused:
            return Done(command.id, refused[0], old.status)
        try:
            records = [log.append(event, at_ms=now_ms) for event in events]
            await self._ship(log, records, store_format=old.format)
        except Refusal:  # fenced: the run went on, and the next look tells where
            return None
        if old.status in MARKED:
            with suppress(StoreError):
                await self._store.delete(marker_name(old))
        return Done(command.id, "", log.state.status)

    async def _ship(self, log: RunLog, records: Iterable[Record], *, store_format: int) -> None:
        """Marker, objects, head; raises `Refusal` (fenced) if somebody else was quicker.

        A head stays of the format that it was: which sidecars run beside is not known here.
        """
        for record in records:
            for body in bodies_of(record):
                if body.data is not None and len(body.data) > BODY_BYTES_MAX:
                    log.attach(record.seq, await self._put_body(log, record, body=body.data))
        await Shipper(log, self._doors, store_format=store_format).ship_all()

    async def _put_body(self, log: RunLog, record: Record, *, body: bytes) -> ObjectRef:
        random = self._clock.random_bytes(8)
        name = object_name(log.state.run, epoch=record.epoch, seq=record.seq, random=random)
        data = seal(Kind.BODY, body)
        await self._store.put(name, data)
        return reference(name, data)

    @asynccontextmanager
    async def _limit(
        self, timeout_s: float, what: str, *, placed: Mapping[str, str] | None = None
    ) -> AsyncIterator[None]:
        """Give up after `timeout_s` with a sentence that says what is left behind."""
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError as error:
            why = f"{what} within {timeout_s:g} s"
            if placed:
                why += f"; it lies with {', '.join(placed)} and will be once that owner looks"
            elif self._trouble.last:
                why += f": {self._trouble.last}"
            raise Refusal(ErrorCode.UNAVAILABLE, why, retry=Retry.LATER) from error


class _Trouble:
    """Keeps what the shipper last met, for the sentence of a time-out."""

    def __init__(self) -> None:
        self.last = ""

    def note(self, _event: str, /, **fields: object) -> None:
        self.last = str(fields.get("error", self.last))


def _refused(head: Head, command: str) -> str:
    for record in head.records:
        if isinstance(record.event, Commanded) and record.event.command == command:
            return record.event.refused
    return ""


def _said(created: Created) -> tuple[object, ...]:
    data = None if created.input is None else created.input.data
    return (data, created.queue, created.schema, created.code_version, created.pinned)
