"""A fleet, its work, and the kills: everything but how it looks."""

import asyncio
import collections
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import msgpack

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.model import Body
from coatcheck_sidecar.core.record import Created
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.stores.url import open_store
from examples.demo.board import Board, Order
from examples.demo.chaos import Chaos
from examples.demo.command import Command, CommandFailedError
from examples.demo.ledger import Charge, read_ledger
from examples.demo.meters import Meters
from examples.demo.oncall import OnCall
from examples.demo.pods import Blow, Pod, Wiring
from examples.demo.processes import LOOPBACK, Child, free_ports, python
from examples.demo.rollout import Rollout
from examples.demo.witness import read_witness, steps_again

QUEUE: Final = "demo"
TICK_S: Final = 0.1
BOARD_S: Final = 0.3
"""Heads are read this often."""
METERS_S: Final = 0.5
ONCALL_S: Final = 1.0
"""How long somebody on call takes to look again; a real one takes longer."""
READY_S: Final = 20.0
RESTART_S: Final = 1.0
"""A process that ended by itself is started again after that, as a kubelet would."""
CRASHES_MAX: Final = 20
"""More is no bad luck: the demo gives up and shows what they said."""
NEWS_MAX: Final = 200
STRIKES: Final = {
    Blow.AGENT: "kill -9 of the agent",
    Blow.SIDECAR: "kill -9 of the sidecar",
    Blow.POD: "kill -9 of agent and sidecar",
    Blow.NODE: "node lost: agent, sidecar and disk",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to happen."""

    seed: int
    pods: int = 4
    runs: int = 12
    lines: int = 30
    """Charges a run."""
    concurrency: int = 3
    """Runs that an agent has at once."""
    strike_every_s: float = 3.0
    strike_s: float = 40.0
    """No kills after that, so that it ends."""
    strikes_max: int = 10_000
    is_rolled: bool = False
    """After the kills every pod is replaced, one after the other."""
    limit_s: float = 180.0
    honours_keys: bool = True
    kinds: tuple[str, ...] = ("keyed", "probed", "blind")
    """How payments are made safe, in turn; `keyed` only where keys are honoured."""
    levels: str = "node"
    model_delay_s: float = 0.25


@dataclass(frozen=True, slots=True)
class News:
    """Something to tell: `mood` is `bad`, `good` or `plain`."""

    at_s: float
    mood: str
    text: str


@dataclass
class Place:
    """Where all of it is: a folder outside the pods, and a store."""

    folder: Path
    store: str
    env: Mapping[str, str] = field(default_factory=dict)


def orders(plan: Plan) -> list[Order]:
    """The invoices to settle; the three kinds of payment in turn."""
    chance = random.Random(plan.seed)
    kinds = [kind for kind in plan.kinds if plan.honours_keys or kind != "keyed"]
    made = []
    for number in range(1, plan.runs + 1):
        run = f"inv-{number:02}"
        lines = ((f"{run}/{at}", chance.randint(100, 9_999)) for at in range(1, plan.lines + 1))
        made.append(Order(run, kinds[(number - 1) % len(kinds)], tuple(lines)))
    return made


class Scenario:
    """Runs a plan at a place."""

    def __init__(self, plan: Plan, place: Place) -> None:
        self.plan, self.place = plan, place
        self.orders = orders(plan)
        self.news: collections.deque[News] = collections.deque(maxlen=NEWS_MAX)
        self.crashes: list[str] = []
        """Processes that ended though nobody killed them."""
        self.recoveries_s: list[float] = []
        """From a kill to the run's next owner."""
        self.completions = 0
        self.is_settled = False
        """All runs are over; else time is out."""
        self.ledger, self.witness = place.folder / "ledger.jsonl", place.folder / "witness.jsonl"
        self._hit_s: dict[str, float] = {}
        self._dead_s: dict[str, float] = {}
        self._began_s = time.monotonic()
        self._payments_port, self._model_port = free_ports(2)
        self._payments = f"http://{LOOPBACK}:{self._payments_port}"
        self._model = f"http://{LOOPBACK}:{self._model_port}"
        self._servers: list[Child] = []
        wiring = Wiring(
            folder=place.folder / "pods",
            store=place.store,
            payments=self._payments,
            model=real_model() or f"{self._model}/v1",
            witness=self.witness,
            queue=QUEUE,
            levels=plan.levels,
            concurrency=plan.concurrency,
            env=place.env,
        )
        self.pods = [Pod(wiring, number) for number in range(1, plan.pods + 1)]
        chance = random.Random(plan.seed)
        self.chaos = Chaos(self.pods, chance=chance, every_s=plan.strike_every_s)
        self.rollout = Rollout(self.pods, self.tell)
        self.steps_again_before = 0
        """Steps that were begun more than once when the rolling deploy began."""
        self.command = Command(place.store, place.env)
        self.oncall = OnCall(self.command, payments=self._payments)
        self._store = open_store(
            place.store, clock=SystemClock(), environ={**os.environ, **place.env}
        )
        self.board = Board(self._store, self.orders)
        self.meters = Meters()

    @property
    def now_s(self) -> float:
        """Seconds since the pods were started."""
        return time.monotonic() - self._began_s

    def charges(self) -> list[Charge]:
        """The ledger as it is."""
        return read_ledger(self.ledger)

    async def run(self, watch: Callable[[], None]) -> None:
        """From an empty store to the last run; `watch` is called at each tick."""
        try:
            await self._set_up()
            self._began_s = time.monotonic()
            for pod in self.pods:
                pod.start()
            await self._live(watch)
        finally:
            for pod in self.pods:
                pod.stop()
            await self._count_completions()
            for server in self._servers:
                server.kill()
            await self._store.close()

    async def _set_up(self) -> None:
        keys = "honour" if self.plan.honours_keys else "ignore"
        payments = ["--port", str(self._payments_port), "--ledger", str(self.ledger)]
        payments += ["--keys", keys, "--seed", str(self.plan.seed)]
        model = ["--port", str(self._model_port), "--delay-s", str(self.plan.model_delay_s)]
        for name, args in (("payments", payments), ("model", model)):
            log = self.place.folder / f"{name}.log"
            self._servers.append(Child(python(f"examples.demo.{name}", *args), env={}, log=log))
        await wait_for_http(f"{self._payments}/charges?ref=none")
        await wait_for_http(f"{self._model}/count")
        # What `coatcheck submit` does; a dozen processes to say it would take longer than the runs.
        outside = Outside(self._store, SystemClock())
        for order in self.orders:
            created = Created(queue=QUEUE, input=Body(msgpack.packb(order.input)))
            await outside.submit(created, run=order.run)

    async def _live(self, watch: Callable[[], None]) -> None:
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._strike(over, watch))
            if self.plan.is_rolled:
                group.create_task(self._roll(over))
            group.create_task(self._every(BOARD_S, self._look_at_heads, over))
            group.create_task(self._every(METERS_S, self._look_at_meters, over))
            group.create_task(self._every(ONCALL_S, self._look_at_doubts, over))
        await self.board.refresh()
        await self.meters.read(self.pods)
        self.is_settled = self.board.is_over
        watch()

    async def _every(
        self, pause_s: float, look: Callable[[], Awaitable[None]], over: asyncio.Event
    ) -> None:
        while not over.is_set():
            await look()
            await asyncio.sleep(pause_s)

    async def _strike(self, over: asyncio.Event, watch: Callable[[], None]) -> None:
        while self.now_s < self.plan.limit_s and not (self.board.is_over and self._is_rolled):
            if len(self.crashes) > CRASHES_MAX or self.board.is_stuck:
                break
            now_s = self.now_s
            is_time = now_s < self.plan.strike_s
            if is_time and len(self.chaos.strikes) < self.plan.strikes_max:
                self._strike_one(now_s)
            for pod in self.chaos.replace(now_s):
                self.tell("plain", f"{pod.name} is back")
            self._restart_the_dead()
            watch()
            await asyncio.sleep(TICK_S)
        over.set()

    @property
    def _is_rolled(self) -> bool:
        return self.rollout.is_over or not self.rollout.is_begun

    async def _roll(self, over: asyncio.Event) -> None:
        """Replace the pods once the kills are over and every run has its owner again."""
        while not over.is_set():
            is_down = any(map(self.chaos.is_down, self.pods))
            # A run whose agent was killed stays its sidecar's until the next agent claims it.
            is_hit = any(not self.board.rows[run].is_over for run in self._hit_s)
            is_calm = self.now_s >= self.plan.strike_s and not is_down and not is_hit
            if is_calm and self.board.is_owned(pod.uid for pod in self.pods):
                self.steps_again_before = steps_again(read_witness(self.witness))
                await self.rollout.run()
                return
            await asyncio.sleep(TICK_S)

    def _strike_one(self, now_s: float) -> None:
        strike = self.chaos.strike(now_s)
        if strike is None:
            return
        runs = self.board.hit(strike.uid)
        self._hit_s.update(dict.fromkeys(runs, now_s))
        text = f"{STRIKES[strike.blow]} ({', '.join(runs) or 'no run'})"
        self.tell("bad", f"{strike.pod}: {text}")

    def _restart_the_dead(self) -> None:
        for pod in self.pods:
            if self.chaos.is_down(pod) or self.rollout.is_busy(pod):
                self._dead_s.pop(pod.name, None)
            elif pod.name in self._dead_s:
                if self.now_s >= self._dead_s[pod.name] + RESTART_S:
                    del self._dead_s[pod.name]
                    pod.start()
            else:
                self._find_the_dead(pod)

    def _find_the_dead(self, pod: Pod) -> None:
        for child in pod.died_by_itself():
            what = "sidecar" if child is pod.sidecar else "agent"
            said = f"{pod.name}: its {what} ended by itself with status {child.exit_status}"
            self.crashes.append(f"{said}\n{child.last_words()}")
            self.tell("bad", said)
            self._dead_s[pod.name] = self.now_s

    async def _look_at_heads(self) -> None:
        for before, after in await self.board.refresh():
            run = after.order.run
            if after.epoch > before.epoch and run in self._hit_s:
                self.recoveries_s.append(self.now_s - self._hit_s.pop(run))
            if after.is_over:
                self.tell("good", f"{run} is {after.status}, after {after.epoch} owners")
            elif after.is_in_doubt and not before.is_in_doubt:
                self.tell("bad", f"{run}: a charge is in doubt, the run is held")
            elif before.epoch and after.epoch > before.epoch:
                where = pod_of(after.owner)
                self.tell("plain", f"{run} goes on at step {after.step + 1} on {where}")

    async def _look_at_meters(self) -> None:
        await self.meters.read(self.pods)

    async def _look_at_doubts(self) -> None:
        if not any(row.is_in_doubt for row in self.board.rows.values()):
            return
        try:
            for verdict in await self.oncall.look():
                found = f"it was made: {verdict.charge}" if verdict.charge else "it was not made"
                self.tell("good", f"on call: {verdict.ref}: {found}; resolved")
        except (CommandFailedError, TimeoutError, aiohttp.ClientError) as error:
            self.tell("bad", f"on call: {error}")

    async def _count_completions(self) -> None:
        if real_model() is not None:
            return  # its makers send the bill
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{self._model}/count") as reply:
                self.completions = int((await reply.json())["completions"])
        except (aiohttp.ClientError, OSError):
            self.tell("bad", "the model server did not say how many completions it sold")

    def tell(self, mood: str, text: str) -> None:
        """Add to the news."""
        self.news.append(News(self.now_s, mood, text))


def pod_of(owner: str) -> str:
    """`pod-2` of the owner `pod-2-1.6f3a`."""
    return owner.partition(".")[0].rpartition("-")[0]


def real_model() -> str | None:
    """The base URL of a real model, if there is one to be used."""
    given = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
    return given[0] if all(given) else None


async def wait_for_http(url: str) -> None:
    """Until a server answers. Raises `TimeoutError`."""
    async with asyncio.timeout(READY_S), aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.get(url):
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)
