"""Pods on nodes, a store between them, a world to act on; and everything that can go wrong."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from random import Random
from typing import Any, Final
from unittest.mock import patch

import coatcheck._base
import coatcheck._clock
import coatcheck._ops
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.ownership import pod_of
from coatcheck_sidecar.core.undo import SUCCESSOR
from coatcheck_sidecar.engine.settings import Settings
from coatcheck_sidecar.engine.sidecar import Sidecar
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.servers.control import Connection
from coatcheck_sidecar.stores.memory_journal import MemoryJournal
from tests.sim.agent import AgentProcess
from tests.sim.agent_plan import KINDS, RunPlan, plan_run
from tests.sim.http_agent import HTTP_KINDS
from tests.sim.http_door import HttpDoor
from tests.sim.http_front import Front
from tests.sim.http_judge import HttpJudge
from tests.sim.http_server import KEY_MARGIN_S, HttpServer, tools
from tests.sim.journal import MemorySpool, PodJournal
from tests.sim.judge import Judge
from tests.sim.loop import Process, SimClock, VirtualLoop, this_process
from tests.sim.operator import Operator
from tests.sim.pipe import Lane, connect
from tests.sim.saga import TAKEN_BACK, Saga, UndosOfProcess
from tests.sim.saga_judge import SagaJudge
from tests.sim.store import ReachedStore, SharedStore, Weather
from tests.sim.upstream import PAUSE_MAX_S, Habits, Upstream

SETTINGS: Final = Settings(
    heartbeat_s=1.0,
    pause_max_s=PAUSE_MAX_S,
    claim_poll_s=0.5,
    join_wait_s=30.0,
    margin_s=0.5,
)
LEASES_S: Final = (3.0, 3.0, 8.0)
"""The longer one outlasts what a tool's "no" needs to settle, so that it alone must protect."""
COLLECTS_S: Final = (0.3, 2.0, 1e6)
"""How often owners collect: some all the time, some never."""
REWOUND: Final = 0.4
"""The share of runs that somebody sets back."""
KINDS_OF: Final = (KINDS, HTTP_KINDS, KINDS + HTTP_KINDS)
"""Of the calls of a seed's agents."""
MOSTLY_JSON: Final = ("plain", "chunked") * 4 + ("events",)
"""Answers of servers whose calls are taken back by what they said."""
CALM_S_MAX: Final = 240.0
"""With no more faults every run is over within this: the breaker's delays are the longest part."""
SMALL: Final = {
    "coatcheck_sidecar.engine.uploads.BODY_BYTES_MAX": 150,
    "coatcheck_sidecar.engine.outside.BODY_BYTES_MAX": 150,
    "coatcheck_sidecar.core.packs.TAIL_BYTES_MAX": 700,
    "coatcheck_sidecar.core.packs.PACKS_MAX": 2,
    "coatcheck_sidecar.core.past.BYTES_MAX": 3_000,
    "coatcheck_sidecar.core.past.SIGNALS_BYTES_MAX": 300,
    "coatcheck_sidecar.core.delta.HEAD_DELTAS_BYTES_MAX": 300,
}
"""Limits so low that short runs have packs, bodies, mids and new bases."""


class Pod:
    """A pod: a sidecar and its agents, on a node of its own."""

    def __init__(self, uid: str, clock: SimClock) -> None:
        self.uid = uid
        self.clock = clock
        self.socket = f"/{uid}/agent.sock"
        self.http = f"/{uid}/http"
        self.disk = MemoryJournal()
        self.spool = MemorySpool()
        self.starts = 0
        self.reboots = 0
        self.is_gone = False
        self.process: Process | None = None
        self.sidecar: Sidecar | None = None
        self.agents: list[Process | None] = []
        self.front: Front | None = None
        self.lanes: dict[tuple[str, str], Lane] = {}
        """Between processes, for requests over HTTP: a new one does not overtake a hang-up."""

    def losses(self, level: str) -> int:
        """How often what was kept at this level, and no higher, was lost."""
        return self.reboots if level == "process" else 0

    @property
    def processes(self) -> list[Process]:
        """Those that live."""
        every = [self.process, *self.agents]
        return [process for process in every if process is not None and not process.is_dead]


class World:
    """One seed's world. Faults are `chaos.py`'s."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.loop = VirtualLoop()  # type: ignore[abstract]  # what is missing is not asked of it
        lease_s = self.random.choice(LEASES_S)
        collect_s = self.random.choice(COLLECTS_S)
        self.settings = replace(
            SETTINGS, lease_s=lease_s, agent_wait_s=lease_s, collect_s=collect_s
        )
        self.formats = self.random.choice(((2,), (2,), (1, 2)))
        """Of the heads that sidecars write, each in its life."""
        self.fault = ""
        self.trace: list[tuple[float, str, dict[str, object]]] = []
        self.is_calm = False
        self.weather = Weather()
        self.habits = Habits()
        self.shared = SharedStore(self.loop, self.random, self.weather)
        self.judge = Judge(self.shared, on_fault=self.found)
        self.judge.now_s, self.judge.lease_s = self.loop.time, self.settings.lease_s
        self.upstream = Upstream(self.loop, self.random, self.habits)
        self.upstream.on_effect = self.judge.effect
        self.judge.effects = lambda name: getattr(self.upstream.charges.get(name), "effects", 0)
        self.server = HttpServer(self.loop, self.random, self.upstream, token=self.token)
        self.door = HttpDoor(self.loop, self.random, self.server)
        self.http_judge = HttpJudge(self.judge, pod_of=self.pod_of)
        self.http_judge.failed, self.http_judge.said = self.found, self.server.said
        self.door.on_asked, self.door.on_leaving = self.http_judge.asked, self.http_judge.leaving
        self.http_judge.undone_by = self.server.undone_by
        self.saga = Saga(seed)
        self.tools = tools(has_undos=self.saga.is_on)
        if self.saga.is_on:
            self.server.kinds = MOSTLY_JSON
        self.judge.saga = self.saga_judge = SagaJudge(self.judge, self.saga, failed=self.found)
        self.judge.on_new = self._came
        self.plans: dict[str, RunPlan] = {}
        self.pods: list[Pod] = []
        self.on_start: Callable[[Pod, Process, bool], None] = lambda pod, process, is_agent: None
        self._tokens = itertools.count(1)
        self._uids = itertools.count(1)
        self._processes: list[Process] = []

    # What everything here speaks to

    def note(self, event: str, /, **fields: object) -> None:
        """A line of the trace; also what each sidecar's observer is."""
        self.trace.append((self.loop.now_s, event, fields))
        if event == "undo_forward":
            self.saga_judge.told_forward.add(str(fields["run"]))
        if event == "task_failed":
            self.found(f"a task of a sidecar failed: {fields}")

    def found(self, fault: str) -> None:
        """Something that must hold did not: this is the end."""
        if not self.fault:
            self.fault = fault
            self.note("FAULT", what=fault)
        self.loop.is_stopped = True

    def token(self) -> int:
        """A value that nobody gave before."""
        return next(self._tokens)

    def clock(self) -> SimClock:
        """A node's clock: seconds off, and drifting."""
        offset_s, drift = self.random.uniform(-5.0, 5.0), self.random.uniform(-2e-4, 2e-4)
        return SimClock(self.loop, self.random, wall_offset_s=offset_s, drift=drift)

    def process(self, name: str, clock: SimClock) -> Process:
        """A new process; it is held on to, so that what it left is not cleaned up by chance."""
        process = Process(name, clock)
        self._processes.append(process)
        return process

    def process_of(self, owner: str) -> Process | None:
        """The sidecar that an owner's name is of, unless it is gone."""
        living = [pod.process for pod in self.pods if pod.process is not None]
        return next((process for process in living if process.name == owner), None)

    def pod_of(self, process: Process) -> Pod:
        """The pod whose sidecar this is, or was."""
        return next(pod for pod in self.pods if process.name.startswith(f"{pod.uid}."))

    # Pods

    def new_pod(self, agents: int) -> Pod:
        """A pod on a fresh node."""
        pod = Pod(f"pod{next(self._uids)}", self.clock())
        pod.agents = [None] * agents
        self.pods.append(pod)
        self.start_sidecar(pod)
        for index in range(agents):
            self.start_agent(pod, index)
        return pod

    def start_sidecar(self, pod: Pod) -> None:
        """A new process over what the pod's disk holds."""
        if pod.is_gone or (pod.process is not None and not pod.process.is_dead):
            return
        pod.starts += 1
        process = pod.process = self.process(f"{pod.uid}.{pod.starts}", pod.clock)
        pod.sidecar = Sidecar(
            process.name,
            store=ReachedStore(self.shared),
            journal=PodJournal(pod.disk, self.loop, self.random),
            spool=pod.spool,
            clock=pod.clock,
            settings=replace(self.settings, store_format=self.random.choice(self.formats)),
            observer=_Observer(self, process.name),
        )
        pod.front = Front(
            pod.uid, self.door, clock=pod.clock, observer=_Observer(self, process.name),
            judge=self.http_judge, tools=self.tools,
        )  # fmt: skip
        pod.sidecar.undoing.requests = pod.front.undos
        pod.sidecar.on_let_go = pod.front.bindings.unbind
        self.note("start", process=process.name)
        self.loop.start(process, self._run_sidecar(pod, pod.sidecar, pod.front))
        self.on_start(pod, process, False)

    async def _run_sidecar(self, pod: Pod, sidecar: Sidecar, front: Front) -> None:
        await sidecar.start()
        process = this_process()
        tasks = TaskSet(lambda name, error: self.note("task_failed", name=name, error=repr(error)))
        known: set[Connection] = set()

        def accept(factory: Callable[[], Any]) -> Any:
            ends = (this_process(), process)

            def serve() -> Connection:
                return Connection(
                    sidecar, tasks=tasks, known=known, allowed_uids=frozenset(),
                    routes=front.routes,
                )  # fmt: skip

            return connect(self.loop, self.random, ends=ends, factories=(factory, serve))

        def accept_http(factory: Callable[[], Any]) -> Any:
            ends = (this_process(), process)
            lane = pod.lanes.setdefault((ends[0].name, process.name), Lane())
            factories = (factory, lambda: process.context.copy().run(front.serve))
            return connect(self.loop, self.random, ends=ends, factories=factories, lane=lane)

        self.loop.sockets[pod.socket] = accept
        self.loop.sockets[pod.http] = accept_http

    def start_agent(self, pod: Pod, index: int) -> None:
        """A new agent process in the place of a dead one."""
        old = pod.agents[index]
        if pod.is_gone or (old is not None and not old.is_dead):
            return
        process = self.process(f"{pod.uid}-agent{index}", pod.clock)
        pod.agents[index] = process
        self.note("start", process=process.name)
        agent = AgentProcess(self, pod, self.random)
        main = self.loop.start(process, _with_socket(pod.socket, agent))
        main.add_done_callback(self._agent_ended)
        self.on_start(pod, process, True)

    def _agent_ended(self, main: Any) -> None:
        if not main.cancelled() and main.exception() is not None:
            self.found(f"an agent's script failed: {main.exception()!r}")

    def kill(self, pod: Pod, process: Process | None, *, is_reboot: bool = False) -> None:
        """A process is gone, in the middle of whatever it did."""
        if process is None or process.is_dead:
            return
        self.note("kill", process=process.name, reboot=is_reboot)
        process.is_dead = True
        if process is pod.process:
            self.loop.sockets.pop(pod.socket, None)
            self.loop.sockets.pop(pod.http, None)
            with_trimmed = self.random.random() < 0.3
            pod.disk = pod.disk.survivors(reboot=is_reboot, with_trimmed=with_trimmed)
        for port in process.ports:
            port.close()

    def freeze(self, process: Process, delay_s: float) -> None:
        """A process doesn't get to run for a while."""
        if process.is_dead or process.is_frozen:
            return
        self.note("freeze", process=process.name, s=round(delay_s, 3))
        process.is_frozen = True
        self.loop.call_later(delay_s, self.thaw, process)

    def thaw(self, process: Process) -> None:
        """It goes on; a second thaw of the same process does nothing."""
        if process.is_frozen and not process.is_dead:
            self.note("thaw", process=process.name)
            self.loop.thaw(process)

    # A seed's life

    def populate(self) -> None:
        """Runs, pods, and people."""
        random = self.random
        has_signals = random.random() < 0.5
        kinds = random.choice(KINDS_OF)
        for number in range(random.randint(1, 4)):
            plan = plan_run(f"run{number}", random, has_signals=has_signals, kinds=kinds)
            self._intend(self.saga.dress(plan, kinds=kinds))
        for _ in range(random.randint(2, 3)):
            self.new_pod(random.randint(1, 2))
        operator = Operator(self, random)
        person = self.process("person", self.clock())
        self.loop.start(person, operator.decide())
        for plan in self.plans.values():
            for step in plan.steps:
                if step.signal:
                    token = self.judge.sent[plan.run, step.signal] = self.token()
                    self.loop.start(person, operator.signal(plan.run, step.signal, token))
            if random.random() < 0.08:
                self.loop.start(person, operator.cancel(plan.run))
            if random.random() < REWOUND:
                self.loop.start(person, operator.rewind(plan.run))
            if self.saga.is_on and self.saga.random.random() < TAKEN_BACK:
                self.loop.start(person, operator.compensate(plan.run))

    def _intend(self, plan: RunPlan) -> None:
        self.plans[plan.run] = plan
        self.judge.acts[plan.run] = [act.name for act in plan.acts]
        self.saga_judge.plan(plan.run, plan.acts)

    def _came(self, run: str) -> None:
        """A run in the place of another, which nobody planned, is half as long."""
        former = self.plans.get(run.removesuffix(SUCCESSOR))
        if run not in self.plans and former is not None:
            plan = plan_run(run, self.saga.random, has_signals=False)
            plan = replace(plan, steps=plan.steps[: 1 + len(former.steps) // 2])
            self._intend(self.saga.dress(plan, kinds=KINDS))

    @property
    def busy_pods(self) -> set[str]:
        """Those that own a run."""
        heads = [self.judge.watch(run).head for run in self.plans]
        return {pod_of(head.owner) for head in heads if head and head.status is Status.OWNED}

    @property
    def is_done(self) -> bool:
        """Every run is over."""
        return all(self.judge.is_final(run) for run in self.plans)

    def finish(self, *, until_s: float) -> None:
        """Run on in calm until every run is over; a run that isn't by then is a fault."""
        while not self.is_done and self.loop.now_s < until_s and not self.loop.is_stopped:
            self.loop.run(until_s=min(until_s, self.loop.now_s + 1.0))
        for run in self.plans:
            if not self.judge.is_final(run):
                head = self.judge.watch(run).head
                at = "no head" if head is None else f"{head.status.value} {head.reason!r}"
                owner = "" if head is None else f", owner {head.owner}"
                self.found(f"{run} is not over after {CALM_S_MAX:.0f} s of calm: {at}{owner}")
        if self.loop.errors:
            self.found(f"a callback failed: {self.loop.errors[0]}")


class _Observer:
    """A sidecar's observer, into the trace."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name

    def note(self, event: str, /, **fields: object) -> None:
        self._world.note(event, **{"by": self._name, **fields})


async def _with_socket(path: str, agent: AgentProcess) -> None:
    """Each agent process has an environment of its own."""
    this_process().socket = path
    await agent.main()


@contextmanager
def virtual_machine(*, is_small: bool) -> Iterator[None]:
    """The client's clocks, its randomness and its environment are those of the calling process."""
    with ExitStack() as stack:
        clock = coatcheck._clock
        for module, name, value in (
            (clock, "monotonic", lambda: this_process().clock.monotonic()),
            (clock, "boottime", lambda: this_process().clock.boottime()),
            (clock, "random_bytes", lambda count: this_process().clock.random_bytes(count)),
            (clock, "uniform", lambda low, high: this_process().clock.uniform(low, high)),
            (coatcheck._base, "socket_path", lambda: this_process().socket),
            (coatcheck._ops, "UNDOS", UndosOfProcess()),
        ):
            stack.enter_context(patch.object(module, name, value))
        stack.enter_context(patch("coatcheck_sidecar.engine.calls.KEY_MARGIN_S", KEY_MARGIN_S))
        stack.enter_context(patch("coatcheck_sidecar.engine.sweep.GRACE_S", 0.0))
        for target, limit in SMALL.items() if is_small else ():
            stack.enter_context(patch(target, limit))
        yield
