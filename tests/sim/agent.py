"""Agents: scripts that drive the real client, with calls of every class."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import coatcheck
from coatcheck.errors import CoatcheckError, InDoubt, NotApplied
from tests.sim.agent_plan import Act, StepPlan
from tests.sim.http_agent import HttpActs
from tests.sim.saga import Refunds
from tests.sim.upstream import SETTLE_S, Trouble

if TYPE_CHECKING:
    from tests.sim.world import Pod, World

KEY_LIFETIME_S: Final = 3600.0
"""Longer than a run of the simulation: that keys expire is tested elsewhere."""
TRIES_MAX: Final = 6
"""How often a script asks again for a call that failed, before it gives the run up."""
QUOTE_S_MAX: Final = 1.0
"""Of a recorded read."""
BALLAST: Final = "x" * 80_000
"""Makes some states big enough for patches, which big ones are sent and kept as."""
BALLAST_EVERY: Final = 3


def _ballast(run: str) -> dict[str, str]:
    is_big = crc32(run.encode()) % BALLAST_EVERY == 0
    return {"ballast": BALLAST} if is_big else {}


class AgentProcess:
    """One agent process of a pod: takes runs by name or from the queue, for ever."""

    def __init__(self, world: "World", pod: "Pod", random: Random) -> None:
        self._world = world
        self._pod = pod
        self._random = random
        self._judge = world.judge
        self._http = HttpActs(world, pod, random)
        self._refunds = Refunds(world, pod)

    async def main(self) -> None:
        """Until the process is killed."""
        self._refunds.declare()
        while True:
            try:
                async with asyncio.timeout(self._random.uniform(3.0, 20.0)):
                    run = await self._take()
            except (CoatcheckError, Trouble, NotApplied, TimeoutError) as error:
                self._world.note("no run", pod=self._pod.uid, why=repr(error)[:160])
                await asyncio.sleep(self._random.uniform(0.1, 1.5))
                continue
            if run is None:
                await asyncio.sleep(1.0)
                continue
            try:
                await self._work(run)
            except (CoatcheckError, Trouble, NotApplied) as error:
                self._world.note("left", run=run.id, why=f"{type(error).__name__}: {error}"[:300])
                self._judge.left(run.id, error)
            await asyncio.sleep(self._random.uniform(0.0, 0.3))

    async def _take(self) -> coatcheck.Run | None:
        options = self._world.saga.options
        if self._random.random() < 0.5:
            async for run in coatcheck.claim_runs(schema=1, **options):
                return run
            return None
        plans = [p for p in self._world.plans.values() if not self._judge.is_final(p.run)]
        if not plans:
            return None
        plan = self._random.choice(plans)
        wait_s = self._random.choice((0.0, 1.0, 5.0))
        run = coatcheck.open_run(plan.run, schema=1, queue=plan.queue, wait_s=wait_s, **options)
        return await run.__aenter__()

    async def _work(self, run: coatcheck.Run) -> None:
        plan = self._world.plans[run.id]
        async with run:
            state = given = run.state or {**_ballast(run.id), "log": []}
            async for step in run.steps():
                number = step.number
                if state is given:
                    self._judge.opened(run.id, run.epoch, pod=self._pod, state=given)
                assert number == len(state["log"]) + 1, (number, state)
                await asyncio.sleep(self._random.uniform(0.0, plan.think_s))
                entry = await self._step(run, step, plan.steps[number - 1])
                state = {**state, "log": [*state["log"], [self._world.token(), *entry]]}
                if number == len(plan.steps):
                    await run.finish({"steps": number}, state=state)
                    self._judge.finished(run.id, run.epoch)
                    return
                level = plan.steps[number - 1].level
                await step.commit(state, durability=level)  # type: ignore[arg-type]
                self._judge.committed(
                    run.id, run.epoch, pod=self._pod, step=number, token=state["log"][-1][0],
                    level=level,
                )  # fmt: skip

    async def _step(self, run: coatcheck.Run, step: coatcheck.Step, plan: StepPlan) -> list[Any]:
        entry: list[Any] = []
        if plan.signal:
            value = await run.wait_for(plan.signal, {"step": step.number})
            self._judge.signalled(run.id, plan.signal, value)
            entry.append(["signal", value])
        if plan.is_parallel:
            done = await asyncio.gather(
                *(self._act(run, step, act) for act in plan.acts), return_exceptions=True
            )
            for value in done:
                if isinstance(value, BaseException):
                    raise value
            return entry + done
        for act in plan.acts:
            entry.append(await self._act(run, step, act))
        return entry

    async def _act(self, run: coatcheck.Run, step: coatcheck.Step, act: Act) -> list[Any]:
        if act.kind.startswith("http-"):
            return await self._http.perform(run, act)
        made: list[str] = []

        async def quote(name: str) -> list[Any]:
            made.append(coatcheck.current_key())
            self._judge.asked(run, made[-1], pod=self._pod)
            await asyncio.sleep(self._random.uniform(0.001, QUOTE_S_MAX))
            return [self._world.token(), "x" * act.filler]

        quoted = await self._ask(
            step.tool(quote, effect="read", record=True), act.name, can_probe=False
        )
        self._note_made(run, made)
        # Below remote a lost node takes what was said, and a key made of that, with it.
        amount = 0 if act.kind == "keyed" else quoted[0]
        receipt = await self._charge(run, step, act, amount=amount)
        return [act.name, quoted[0], receipt]

    async def _charge(
        self, run: coatcheck.Run, step: coatcheck.Step, act: Act, *, amount: int
    ) -> Any:
        made: list[str] = []

        async def charge(name: str, amount: int) -> list[Any]:
            made.append(coatcheck.current_key())
            self._judge.charging(run, made[-1], act=act, pod=self._pod)
            receipt = await self._world.upstream.send(act.kind, name, key=made[-1])
            return [receipt, "y" * act.filler]

        async def look(name: str, amount: int) -> list[Any] | None:
            receipt = await self._world.upstream.probe(name)
            return None if receipt is None else [receipt, ""]

        options: dict[str, Any] = {"effect": "once", "name": f"charge-{act.kind}"}
        match act.kind:
            case "idempotent":
                options |= {"effect": "idempotent"}
            case "keyed" | "shipped":
                options |= {"effect": "idempotent", "key_lifetime_s": KEY_LIFETIME_S}
                options |= {"durability": "remote" if act.kind == "shipped" else "node"}
            case "probed":
                options |= {"probe": look, "probe_settle_s": SETTLE_S}
            case "final-again":
                options |= {"effect": "idempotent"}
            case "business":
                options |= {"key": "/name"}
            case "named":
                options |= {"key": f"charge/{act.name}"}
            case _:
                pass
        call = step.tool(charge, **options, **self._refunds.options_of(act))
        receipt = await self._ask(call, act.name, amount, can_probe="probe" in options)
        self._note_made(run, made)
        return receipt[0]

    def _note_made(self, run: coatcheck.Run, made: list[str]) -> None:
        """The last attempt that was made here was answered, and the answer acknowledged."""
        if made:
            self._judge.acknowledged(run, made[-1], pod=self._pod)

    async def _ask(self, call: Callable[..., Any], *args: Any, can_probe: bool) -> Any:
        """A tool call, asked for again while it fails in a way that allows it."""
        for _ in range(TRIES_MAX - 1):
            try:
                return await call(*args)
            except (Trouble, NotApplied):
                await asyncio.sleep(self._random.uniform(0.1, 0.5))
            except InDoubt:
                if not can_probe:
                    raise
                await asyncio.sleep(self._random.uniform(0.5, 2.0))
        return await call(*args)
