"""A saga killed at every point: `python -m tests.e2e.saga --keys honour|ignore --point all`.

A run with ten charges is taken back by real sidecars. Each time the bank has a refund at a given
point, the sidecar that asked for it gets SIGKILL, and loses its data folder; another one goes on,
and is killed at the next refund. What happened is read from the bank's own ledger: each charge is
refunded once, newest first. Where the bank ignores keys the run is held with the refund in doubt,
and somebody looks into the ledger and says so.
"""

import argparse
import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.stores.directory import DirectoryStore
from examples.demo.processes import LOOPBACK, end_in_order
from tests.e2e.real_sidecar import Real, real_sidecar

CHARGES: Final = 10
POINTS: Final = ("came", "applied", "answered", "later")
"""Where a sidecar is killed: its refund came; it is in the ledger; it was answered; a moment on."""
LATER_S_MAX: Final = 0.03
QUICK: Final = {
    "COATCHECK_HEARTBEAT_S": "0.2",
    "COATCHECK_LEASE_S": "1.0",
    "COATCHECK_PAUSE_MAX_S": "0.2",
    "COATCHECK_CLAIM_POLL_S": "0.1",
    "COATCHECK_GRACE_S": "5",
}
KEYED: Final = {"effect": "idempotent", "upstream_key": {"header": "Idempotency-Key"}}
UNDO: Final = {"path": "/refunds", "body": {"charge": "{/id}"}, "of": "POST /charges"}
LIMIT_S: Final = 120.0
RUN: Final = "r1"


@dataclass
class Bank:
    """Takes money and gives it back; what it did is in `refunded`, in order."""

    honours_keys: bool
    charged: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(charge, key) of each refund that was asked for."""
    refunded: list[str] = field(default_factory=list)
    by_key: dict[str, str] = field(default_factory=dict)
    strike: Callable[[str], None] = lambda point: None
    url: str = ""

    async def charge(self, _request: web.Request) -> web.Response:
        self.charged += 1
        return web.json_response({"id": f"ch_{self.charged}"}, status=201)

    async def refund(self, request: web.Request) -> web.StreamResponse:
        charge = str((await request.json())["charge"])
        key = request.headers.get("Idempotency-Key", "")
        self.asked.append((charge, key))
        self.strike("came")
        known = self.by_key.get(key) if self.honours_keys and key else None
        if known is None:
            self.by_key[key] = charge
            self.refunded.append(charge)
        self.strike("applied")
        answer = web.json_response({"refund": charge})
        if request.transport is not None:
            with contextlib.suppress(ConnectionError):
                await answer.prepare(request)
                await answer.write_eof()
        self.strike("answered")
        return answer


@asynccontextmanager
async def open_bank(*, honours_keys: bool) -> AsyncIterator[Bank]:
    """A bank of this process, which no kill reaches."""
    bank = Bank(honours_keys)
    app = web.Application()
    app.add_routes([web.post("/charges", bank.charge), web.post("/refunds", bank.refund)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, LOOPBACK, 0)
    await site.start()
    bank.url = str(site.name)
    try:
        yield bank
    finally:
        await runner.cleanup()


def tools_of(bank: Bank) -> dict[str, dict[str, Any]]:
    """The configuration of each sidecar."""
    effect = KEYED if bank.honours_keys else {"effect": "once"}
    return {"bank": {"upstream": bank.url, "private": True, "undo": UNDO, **effect}}


@dataclass
class Saga:
    """One run that is taken back while sidecars die."""

    folder: Path
    bank: Bank
    point: str
    kills_max: int
    chance: random.Random
    kills: int = 0
    lives: int = 0
    doubts: list[str] = field(default_factory=list)
    """Charges whose refund was in doubt, as an operator found them."""
    real: Real | None = None
    tasks: TaskSet = field(default_factory=lambda: TaskSet(lambda _name, _error: None))

    def __post_init__(self) -> None:
        """One store for all lives."""
        self.store = DirectoryStore(self.folder / "store", clock=SystemClock())
        self.outside = Outside(self.store, SystemClock())

    @asynccontextmanager
    async def life(self) -> AsyncIterator[Real]:
        """A sidecar with a data folder of its own."""
        self.lives += 1
        store = (self.folder / "store").as_uri()
        folder = self.folder / f"pod{self.lives}"
        tools = tools_of(self.bank)
        async with real_sidecar(folder, tools, COATCHECK_STORE=store, **QUICK) as real:
            self.real = real
            yield real

    def strike(self, point: str) -> None:
        """The bank has a refund at this point: kill who asked for it, if it is its turn."""
        if self.kills >= self.kills_max or self.real is None or not self.real.child.is_alive:
            return
        if point == self.point:
            self._kill()
        elif (point, self.point) == ("answered", "later"):
            self.tasks.start(self._kill_soon(), name="kill")

    async def _kill_soon(self) -> None:
        await asyncio.sleep(self.chance.uniform(0, LATER_S_MAX))
        self._kill()

    def _kill(self) -> None:
        if self.real is not None and self.real.child.is_alive and self.kills < self.kills_max:
            self.kills += 1
            self.real.child.kill()

    async def begin(self) -> None:
        """An agent charges, commits and leaves; an operator wants it all taken back."""
        async with self.life() as real:
            agent, url = await real.agent(RUN)
            async with aiohttp.ClientSession() as session:
                for n in range(CHARGES):
                    async with session.post(f"{url}/bank/charges", json={"n": n}) as answer:
                        assert answer.status == 201, await answer.text()
            await agent.commit(b"done", level="remote")
            await agent.release()
            await agent.drop()
            self.bank.strike = self.strike
            command = Command(id="c1", run=RUN, what="compensate", by="ada", why="wrong customer")
            done = await self.outside.command(command, timeout_s=10)
            assert not done.refused, done.refused
            await self._wait(real)

    async def go_on(self) -> None:
        """One life after another, until the run is over."""
        while await self.status() is not Status.COMPENSATED:
            async with self.life() as real:
                await self._wait(real)

    async def _wait(self, real: Real) -> None:
        """Until this sidecar is dead, or the run is over; decide what is in doubt."""
        while real.child.is_alive:
            status = await self.status()
            if status is Status.COMPENSATED:
                return
            if status is Status.HELD:
                await self._decide()
            await asyncio.sleep(0.02)

    async def status(self) -> Status:
        return (await self.outside.show(RUN)).head.status

    async def _decide(self) -> None:
        """As somebody at the bank's desk: the ledger says what took place."""
        state = (await self.outside.show(RUN)).log.state
        for doubt in await self.outside.doubts(RUN):
            (undo,) = (u for u in state.undos.values() if doubt.call.key == f"undo:{u.key}")
            assert undo.body.data is not None
            charge = undo.body.data.decode().split('"')[-2]
            self.doubts.append(charge)
            verdict = "applied" if charge in self.bank.refunded else "not_applied"
            command = Command(
                id=f"v{len(self.doubts)}", run=RUN, what="resolve", by="bob",
                call=doubt.call.number, verdict=verdict, force=True,
            )  # fmt: skip
            await self.outside.command(command, timeout_s=10)

    def faults(self) -> list[str]:
        """What was not as promised."""
        newest_first = [f"ch_{n}" for n in range(CHARGES, 0, -1)]
        found = []
        if self.bank.refunded != newest_first:
            found.append(f"refunded {self.bank.refunded}")
        if self.kills < self.kills_max and self.point != "later":  # then one may take two along
            found.append(f"{self.kills} of {self.kills_max} kills")
        keys: dict[str, set[str]] = {}
        for charge, key in self.bank.asked:
            keys.setdefault(charge, set()).add(key)
        if self.bank.honours_keys and any(len(each) > 1 for each in keys.values()):
            found.append(f"more than one key for a charge: {keys}")
        if self.bank.honours_keys and self.doubts:
            found.append(f"in doubt: {self.doubts}")
        if not self.bank.honours_keys and len(self.bank.asked) != CHARGES:
            found.append(f"asked {len(self.bank.asked)} times")
        return found


async def play(folder: Path, *, honours_keys: bool, point: str, kills: int, seed: int = 0) -> Saga:
    """One saga, to its end."""
    (folder / "store").mkdir(parents=True)
    async with open_bank(honours_keys=honours_keys) as bank:
        saga = Saga(folder, bank, point, kills, random.Random(seed))
        async with asyncio.timeout(LIMIT_S):
            await saga.begin()
            await saga.go_on()
            await saga.tasks.close()
        return saga


def main() -> int:
    parser = argparse.ArgumentParser("tests.e2e.saga", description=__doc__.partition("\n")[0])
    parser.add_argument("--keys", choices=("honour", "ignore", "both"), default="both")
    parser.add_argument("--point", choices=(*POINTS, "all"), default="all")
    parser.add_argument("--kills", type=int, default=CHARGES)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    end_in_order()
    is_kept = True
    for keys in ("honour", "ignore") if options.keys == "both" else (options.keys,):
        for point in POINTS if options.point == "all" else (options.point,):
            folder = Path(tempfile.mkdtemp(prefix="coatcheck-saga-"))
            began_s = time.monotonic()
            saga = asyncio.run(
                play(
                    folder,
                    honours_keys=keys == "honour",
                    point=point,
                    kills=options.kills,
                    seed=options.seed,
                )
            )
            faults = saga.faults()
            print(
                f"keys {keys}, killed when {point}: {saga.kills} kills, {saga.lives} sidecars, "
                f"{len(saga.bank.asked)} refunds asked for, {len(saga.bank.refunded)} made, "
                f"{len(saga.doubts)} in doubt, {len(faults)} faults, "
                f"{time.monotonic() - began_s:.0f} s",
                flush=True,
            )
            for line in faults:
                print(f"  {line}", flush=True)
            is_kept = is_kept and not faults
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
