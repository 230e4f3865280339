"""`python -m tests.sim.mutants`: break each rule in turn; the simulation must notice.

The real code is patched from outside: it has no switches. A mutant that no seed catches means that
nobody would notice if somebody broke that rule.
"""

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

from coatcheck._tool import Invoke
from coatcheck_sidecar.core.call_state import with_not_applied
from coatcheck_sidecar.core.head import Head, decode_head
from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.core.model import Call, CallState, Level
from coatcheck_sidecar.core.ownership import encode_summary, summary_of
from coatcheck_sidecar.core.record import CallOutcome, Claimed, Record
from coatcheck_sidecar.core.runlog import RunLog, Verdict, Written
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.core.snapshot import Snapshot
from coatcheck_sidecar.engine.attempts import READS_FROM, Reads
from coatcheck_sidecar.engine.fleet import Fleet
from coatcheck_sidecar.engine.local import LocalLog
from coatcheck_sidecar.engine.shipper import MARKED, Shipper, marker_name
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.ports import StoreError
from coatcheck_sidecar.stores.memory import MemoryStore
from tests.sim.__main__ import HASH_SEED
from tests.sim.chaos import run_seed, sweep_up
from tests.sim.http_mutants import HTTP_MUTANTS, Mutant
from tests.sim.keeping_mutants import KEEPING_MUTANTS
from tests.sim.saga_mutants import SAGA_MUTANTS

SEEDS_MAX: Final = 400
"""In which a mutant must be caught."""
SHIPPER: Final = "coatcheck_sidecar.engine.shipper"


def no_nonce_check() -> AbstractContextManager[Any]:
    """Whatever head stands there is taken for ours."""

    async def settle(self: Shipper, error: Exception) -> None:
        log = self.log
        stored = await self.doors.store.get(head_name(log.state.run))
        if stored is None:
            raise StoreError(str(error))
        seen = decode_head(head_name(log.state.run), stored.data)
        if seen.nonce == log.nonce:
            raise StoreError(str(error))
        chain = log.chain
        written = Written(log.state.seq, chain.base, chain.mid, log.packs, log.kept, 0, log.stones)
        log.written.setdefault(seen.nonce, written)
        self._commit(seen.nonce, stored.tag)

    return patch.object(Shipper, "_settle", settle)


def retry_on_any_refusal() -> AbstractContextManager[Any]:
    """A refused swap is tried again over whatever stands there."""

    def judge(seen: Head | None, *, expected: bytes | None, written: Any) -> Verdict:
        if seen is not None and seen.nonce in written:
            return Verdict.COMMITTED
        return Verdict.UNCHANGED

    return patch(f"{SHIPPER}.judge", judge)


def no_swap_condition() -> AbstractContextManager[Any]:
    """The store takes every swap."""

    async def swap(self: MemoryStore, name: str, data: bytes, *, expected: str | None) -> str:
        return self._keep(name, data)

    return patch.object(MemoryStore, "swap", swap)


def acknowledge_before_the_swap() -> AbstractContextManager[Any]:
    """What is to be remote counts as shipped at once."""

    def shipped(self: Shipper, seq: int) -> "asyncio.Future[None]":
        self.poke()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    return patch.object(Shipper, "shipped", shipped)


def acknowledge_before_the_journal() -> AbstractContextManager[Any]:
    """What is to be kept on the pod counts as written at once."""
    write = LocalLog.write

    def written(
        self: LocalLog, run: str, records: Sequence[Record], *, level: Level
    ) -> "asyncio.Future[None]":
        write(self, run, records, level=level)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    return patch.object(LocalLog, "write", written)


@contextmanager
def reused_object_names() -> Iterator[None]:
    """An object's name has neither epoch nor chance in it."""

    def name(run: str, *, epoch: int, seq: int, random: bytes) -> str:
        return f"runs/{run}/o/{seq}"

    with ExitStack() as stack:
        for module in ("core.runlog", "engine.uploads", "engine.outside"):
            stack.enter_context(patch(f"coatcheck_sidecar.{module}.object_name", name))
        yield


def ship_without_what_precedes() -> AbstractContextManager[Any]:
    """A head leaves out the outcomes that came since the last one."""
    snapshot = RunLog.snapshot

    def thinned(self: RunLog, *, nonce: bytes, random: bytes) -> Snapshot:
        made = snapshot(self, nonce=nonce, random=random)
        records = tuple(
            record
            for record in made.head.records
            if record.seq <= self.shipped_seq or not isinstance(record.event, CallOutcome)
        )
        return replace(made, head=replace(made.head, records=records))

    return patch.object(RunLog, "snapshot", thinned)


@contextmanager
def marker_after_the_head() -> Iterator[None]:
    """A run is said to be ready before it can be found."""
    ship = Shipper._ship

    async def shipped(self: Shipper) -> None:
        await ship(self)
        head = self.log.snapshot(nonce=bytes(16), random=bytes(8)).head
        if head.status in MARKED:
            await self.doors.store.put(marker_name(head), encode_summary(summary_of(head)))

    with patch(f"{SHIPPER}.MARKED", frozenset()), patch.object(Shipper, "_ship", shipped):
        yield


def claim_without_an_epoch() -> AbstractContextManager[Any]:
    """A new owner goes on under the old one's epoch."""

    def claim(self: RunLog, event: Claimed, *, at_ms: int) -> Record:
        self.state.epoch = max(1, self.state.epoch)
        return self.append(event, at_ms=at_ms)

    return patch.object(RunLog, "claim", claim)


def no_lease_before_a_takeover() -> AbstractContextManager[Any]:
    """A run is taken from an owner that is well."""
    return patch.object(Fleet, "is_lapsed", lambda self, owner, run: True)


def lapsed_by_hearsay() -> AbstractContextManager[Any]:
    """A takeover does not look again at what it judged lapsed."""

    async def is_lapsed(self: Fleet, owner: str, run: str) -> bool:
        return self.is_lapsed(owner, run)

    return patch.object(Fleet, "is_still_lapsed", is_lapsed)


def no_look_at_the_clock() -> AbstractContextManager[Any]:
    """An agent starts guarded calls however late it wakes."""

    def start(self: Invoke) -> Any:
        self._said = {name: said for name, said in self._said.items() if name != "until_boot_s"}
        return begin(self)

    begin = Invoke.start
    return patch.object(Invoke, "start", start)


def no_time_to_settle() -> AbstractContextManager[Any]:
    """A "no" of the upstream counts at once."""

    @contextmanager
    def both() -> Iterator[None]:
        with (
            patch("coatcheck_sidecar.core.doubt.unsettled_s", lambda *_, **__: 0.0),
            patch("coatcheck_sidecar.core.call.unsettled_s", lambda *_, **__: 0.0),
        ):
            yield

    return both()


def no_doubt_after_a_restart() -> AbstractContextManager[Any]:
    """A call whose sender died is taken for not sent."""

    def forget(call: Call, *, at_ms: int) -> Call:
        is_sent = call.state is CallState.DISPATCHED
        return with_not_applied(call, "restarted") if is_sent else call

    return patch("coatcheck_sidecar.core.runstate.with_restart", forget)


def outcomes_of_the_dead_ignored() -> AbstractContextManager[Any]:
    """What a former life kept, and had not shipped, is dropped."""
    return patch("coatcheck_sidecar.engine.claims.hold_against", lambda head, rows: ([], []))


def letting_go_half_way() -> AbstractContextManager[Any]:
    """What an agent asked for ends when its connection does."""

    async def whole(self: TaskSet, work: Any, *, name: str) -> Any:
        return await work

    return patch.object(TaskSet, "whole", whole)


def reads_numbered_alike() -> AbstractContextManager[Any]:
    """A sidecar that comes back numbers reads in flight as its former life did."""
    begin = Reads.__init__

    def init(self: Reads, epoch: int) -> None:
        begin(self, epoch)
        self._last = READS_FROM

    return patch.object(Reads, "__init__", init)


def commands_forgotten() -> AbstractContextManager[Any]:
    """A command's id does not stay in the log: it is carried out once more."""
    apply = RunState.apply

    def forgetful(self: RunState, record: Record) -> None:
        apply(self, record)
        self.commands = ()

    return patch.object(RunState, "apply", forgetful)


MUTANTS: Final[tuple[Mutant, ...]] = (
    no_nonce_check,
    retry_on_any_refusal,
    no_swap_condition,
    acknowledge_before_the_swap,
    acknowledge_before_the_journal,
    reused_object_names,
    ship_without_what_precedes,
    marker_after_the_head,
    claim_without_an_epoch,
    no_lease_before_a_takeover,
    lapsed_by_hearsay,
    no_look_at_the_clock,
    no_time_to_settle,
    no_doubt_after_a_restart,
    outcomes_of_the_dead_ignored,
    letting_go_half_way,
    reads_numbered_alike,
    commands_forgotten,
    *HTTP_MUTANTS,
    *SAGA_MUTANTS,
    *KEEPING_MUTANTS,
)


def hunt(mutant: Mutant, *, first: int, seeds: int) -> tuple[int, str] | None:
    """The seed that caught a mutant, and what it saw; `None` if it survived."""
    for seed in range(first, first + seeds):
        with mutant():
            fault = run_seed(seed).fault
        if seed % 10 == 0:
            sweep_up()
        if fault:
            return seed, fault
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.mutants", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS_MAX)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        command = [sys.executable, "-m", "tests.sim.mutants", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": HASH_SEED})  # noqa: S606
    gc.disable()
    sys.unraisablehook = lambda _: None
    survivors = 0
    for mutant in MUTANTS:
        name = mutant.__name__.replace("_", " ")
        if options.only.replace("_", " ") not in name:
            continue
        caught = hunt(mutant, first=options.first, seeds=options.seeds)
        survivors += caught is None
        told = "SURVIVES" if caught is None else f"caught by seed {caught[0]}: {caught[1][:110]}"
        print(f"{name:32} {told}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
