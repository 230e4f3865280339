"""Pods of sidecar and agent under a modelled kubelet, and evidence of what became of their runs.

Everything is real but the kubelet's decisions: sidecars, agents, a payments server, a model server,
a store. What is asserted comes from files that no kill reaches.
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgpack
from aiohttp import web

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.model import Body, Status
from coatcheck_sidecar.core.record import Created
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.stores.url import open_store
from examples.demo.board import Board, Order
from examples.demo.command import Command
from examples.demo.ledger import Ledger, audit, read_ledger
from examples.demo.model import Model
from examples.demo.oncall import OnCall
from examples.demo.payments import Payments
from examples.demo.pods import Pod, Wiring
from examples.demo.processes import LOOPBACK, free_ports, python
from examples.demo.witness import What as Said
from examples.demo.witness import lost_checkpoints, read_witness
from tests.kubelet.container import Container, Runtime
from tests.kubelet.node import Kubelet
from tests.kubelet.spec import ContainerSpec, HttpGet, Mesh, PodSpec

QUEUE: Final = "drained"
CENTS: Final = 1_250
LOOK_S: Final = 0.1
MARGIN_S: Final = 0.2
"""On one machine little is lost between the kubelet's decision and its signal."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How pods are made."""

    grace_s: int = 10
    is_native: bool = True
    has_hook: bool = True
    """The sidecar's preStop."""
    has_barrier: bool = True
    """The agent's preStop."""
    mesh: Mesh = Mesh.OPEN
    steps: str = "many"
    work_s: str = "0.1-0.3"
    is_pid_1: bool = True
    """Of the agent; False: SIGTERM ends it at once, since it handles none."""
    concurrency: int = 2
    """Runs at once in each agent container."""
    agents: int = 1
    """Agent containers, side by side, each with a barrier of its own."""
    env: Mapping[str, str] = field(default_factory=dict)
    """For sidecars."""
    agent_env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What can be held against the sidecars; `again` are steps that were begun more than once."""

    faults: tuple[str, ...]
    again: int
    charges: int


class CoatPod:
    """One pod, its kubelet, and what its sidecar and agent said."""

    def __init__(self, kubelet: Kubelet, uid: str, *, admin_port: int) -> None:
        self.kubelet, self.uid, self.admin_port = kubelet, uid, admin_port

    @property
    def log(self) -> str:
        """What the sidecar said."""
        return self.kubelet.containers["sidecar"].said

    def noted(self, event: str) -> list[dict[str, Any]]:
        """What the sidecar noted of one kind."""
        whole = self.log[: self.log.rfind("\n") + 1].splitlines()
        notes = [json.loads(line) for line in whole if line.startswith("{")]
        return [note for note in notes if note["event"] == event]

    def count(self, event: str) -> int:
        """How often the sidecar noted an event."""
        return len(self.noted(event))


class World:
    """Servers, a store with runs in it, and pods as they are asked for."""

    def __init__(
        self,
        folder: Path,
        shape: Shape,
        *,
        orders: list[Order],
        store: str,
        env: Mapping[str, str],
        runtime: Runtime,
    ) -> None:
        self.folder, self.shape, self.runtime = folder, shape, runtime
        self.pods: list[CoatPod] = []
        self.ledger, self.witness = folder / "ledger.jsonl", folder / "witness.jsonl"
        self.orders = orders
        self.ports = free_ports(2)
        payments, model = (f"http://{LOOPBACK}:{port}" for port in self.ports)
        self.payments, self.model = payments, model
        self.wiring = Wiring(
            folder=folder / "pods",
            store=store,
            payments=payments,
            model=f"{model}/v1",
            witness=self.witness,
            queue=QUEUE,
            concurrency=shape.concurrency,
            env=env,
        )
        self.store = open_store(store, clock=SystemClock(), environ={**os.environ, **env})
        self.board = Board(self.store, orders)
        self.doubted: set[str] = set()
        """Runs that somebody saw held for a call in doubt."""
        self._numbers = itertools.count(1)
        self._stack = AsyncExitStack()

    async def set_up(self, *, model_delay_s: float) -> None:
        """Servers in this process, since nothing strikes them; and what is to be done."""
        ledger = Ledger(self.ledger)
        self._stack.callback(ledger.close)
        payments = Payments(ledger, honours_keys=True, chance=random.Random(0))
        apps = (payments.application(), Model(delay_s=model_delay_s).application())
        for port, app in zip(self.ports, apps, strict=True):
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            self._stack.push_async_callback(runner.cleanup)
            await runner.setup()
            await web.TCPSite(runner, LOOPBACK, port).start()
        outside = Outside(self.store, SystemClock())
        for order in self.orders:
            created = Created(queue=QUEUE, input=Body(msgpack.packb(order.input)))
            await outside.submit(created, run=order.run)

    async def close(self) -> None:
        await self._stack.aclose()
        await self.store.close()

    async def start_pod(self, **changes: object) -> CoatPod:
        """Another pod, up; `changes` are fields of the shape."""
        shape = replace(self.shape, **changes)  # type: ignore[arg-type]
        wired = Pod(self.wiring, next(self._numbers))
        wired.data.mkdir(parents=True, exist_ok=True)
        kubelet = Kubelet(
            PodSpec(containers=_containers(wired, shape), grace_s=shape.grace_s),
            self.folder / "pods" / wired.name,
            runtime=self.runtime,
        )
        pod = CoatPod(kubelet, wired.uid, admin_port=wired.admin_port)
        self.pods.append(pod)
        await self._stack.enter_async_context(kubelet)
        await kubelet.start()
        return pod

    async def until(self, is_so: Callable[[], bool], *, within_s: float = 20.0) -> None:
        """Look at the heads until something is so. Raises `TimeoutError`."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    await self.look()
                    if is_so():
                        return
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise TimeoutError(f"not so after {within_s:g} s") from None

    async def look(self) -> None:
        """Read the heads."""
        await self.board.refresh()
        self.doubted |= {run for run, row in self.board.rows.items() if row.is_in_doubt}

    def all_at(self, step: int) -> bool:
        """Each run has ended this step."""
        return all(row.step >= step for row in self.board.rows.values())

    def on(self, pod: CoatPod) -> set[str]:
        """Runs that a pod owns."""
        return {run for run, row in self.board.rows.items() if row.is_on(pod.uid)}

    @property
    def is_over(self) -> bool:
        return self.board.is_over

    def verdict(self) -> Verdict:
        """Held against the ledger, the heads, and what agents saw."""
        wanted = {ref: cents for order in self.orders for ref, cents in order.lines}
        money = audit(read_ledger(self.ledger), wanted)
        sayings = read_witness(self.witness)
        rows = self.board.rows.values()
        began = Counter((said.run, said.step) for said in sayings if said.what is Said.BEGAN)
        faults = (
            *(f"charge {ref} is missing" for ref in money.missing),
            *(f"charge {ref} was made twice" for ref in money.doubled),
            *(f"charge {ref} was not ordered like that" for ref in money.stray),
            *lost_checkpoints(sayings),
            *(f"{r.order.run} is {r.status} ({r.reason})" for r in rows if not r.is_over),
            *(f"{r.order.run}: {r.status}" for r in rows if r.status is Status.FAILED),
        )
        again = sum(count - 1 for count in began.values())
        return Verdict(faults, again=again, charges=money.made)

    async def resolve_doubts(self) -> None:
        """Somebody on call, until cancelled."""
        command = Command(self.wiring.store, self.wiring.env)
        oncall = OnCall(command, payments=self.payments)
        while True:
            if any(row.is_in_doubt for row in self.board.rows.values()):
                await oncall.look()
            await asyncio.sleep(1.0)

    def story(self) -> str:
        """Everything there is to look at when a test fails."""
        parts = [
            f"{row.order.run}: {row.status} {row.reason} step {row.step} {row.owner}"
            for row in self.board.rows.values()
        ]
        for pod in self.pods:
            parts.append(f"--- {pod.uid}\n{pod.kubelet.log}")
            parts += [each.said[-4000:] for each in pod.kubelet.containers.values()]
        return "\n".join(parts)


def orders(runs: int, *, lines: int, kinds: tuple[str, ...]) -> list[Order]:
    """Invoices of so many lines; how payments are made safe in turn."""
    made = []
    for number in range(1, runs + 1):
        run = f"inv-{number:02}"
        refs = tuple((f"{run}/{at}", CENTS + at) for at in range(1, lines + 1))
        made.append(Order(run, kinds[(number - 1) % len(kinds)], refs))
    return made


def _containers(wired: Pod, shape: Shape) -> tuple[ContainerSpec, ...]:
    port = wired.admin_port
    sidecar = ContainerSpec(
        name="sidecar",
        argv=python("coatcheck", "sidecar"),
        env={
            **wired.sidecar_env(),
            "COATCHECK_GRACE_S": str(shape.grace_s),
            "COATCHECK_MARGIN_S": str(MARGIN_S),
            "COATCHECK_LOG_FORMAT": "json",
            **shape.env,
        },
        pre_stop=HttpGet(port, "/drain") if shape.has_hook else None,
        mesh=shape.mesh,
        is_sidecar=shape.is_native,
        startup_url=f"http://{LOOPBACK}:{port}/startupz",
    )
    agents = (
        ContainerSpec(
            name="agent" if number == 1 else f"agent-{number}",
            argv=python("tests.e2e.drain_agent"),
            env={
                **wired.agent_env(),
                "DRAIN_STEPS": shape.steps,
                "DRAIN_WORK_S": shape.work_s,
                **shape.agent_env,
            },
            pre_stop=HttpGet(port, "/drain/barrier") if shape.has_barrier else None,
            mesh=shape.mesh,
            is_pid_1=shape.is_pid_1,
        )
        for number in range(1, shape.agents + 1)
    )
    return (sidecar, *agents)


@asynccontextmanager
async def world(
    shape: Shape,
    *,
    runs: int = 2,
    lines: int = 8,
    kinds: tuple[str, ...] = ("keyed", "probed", "blind"),
    model_delay_s: float = 0.05,
    store: str | None = None,
    env: Mapping[str, str] | None = None,
    runtime: Runtime = Container,
) -> AsyncIterator[World]:
    """Runs are submitted, servers are up, no pod is. `env` is what the store needs."""
    # A socket's path has 107 bytes at most, which a test's own folder may use up.
    folder = Path(tempfile.mkdtemp(prefix="drain-"))
    if store is None:
        (folder / "store").mkdir()
        store = (folder / "store").as_uri()
    made = World(
        folder,
        shape,
        orders=orders(runs, lines=lines, kinds=kinds),
        store=store,
        env=env or {},
        runtime=runtime,
    )
    try:
        await made.set_up(model_delay_s=model_delay_s)
        yield made
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await made.close()
        shutil.rmtree(folder, ignore_errors=True)
