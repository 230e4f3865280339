"""What goes wrong, and when: all of it decided by the seed."""

import gc
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.engine.fleet import Fleet
from tests.sim.loop import Process, this_process
from tests.sim.world import CALM_S_MAX, Pod, World, virtual_machine

RESTART_S: Final = (0.2, 4.0)
"""How long a container takes to come back."""
GRACE_S: Final = 6.0
"""Of a deploy: less than a run needs, more than a drain does in good weather."""
WINDOW_PAUSE_S: Final = 0.7
"""A pause that meets a tool between clock and write: with the tool's own time below the limit."""
BETWEEN_S: Final = 2.5
"""Between two faults, at strength 1."""
AIM: Final = 0.7
SLOW_S: Final = (0.5, 5.0, 15.0)
"""The longest that a starved process takes to read what came: up to five leases."""
SUSPEND_S_MAX: Final = 12.0
LATE_KILLED: Final = 0.5
"""The share of senders of late requests that don't live to hear of them."""
QUICK_RESTART_S: Final = (0.05, 0.4)
"""So that who comes back can ask before the request arrived."""
MOMENT_KILLED: Final = 0.02
"""The share of a request's stations that somebody does not survive."""
UNDO_KILLED: Final = 0.15
"""The same of requests that take a call back: there are few of them."""
DELAYED: Final = 0.02
"""The share of decisions to send between which and the send something takes long."""
DELAYED_AGAIN: Final = 0.3
"""The same, of decisions to send again: what was known then may be over."""
DELAY_S: Final = (3.0, 12.0)
TOLD_KILLED: Final = 0.01
"""The share of acknowledgements that are a pod's last."""
OVERSLEPT: Final = (1.0, 2.0)
"""In leases."""
WOKEN: Final = 0.5
"""The share of looks at a frozen owner whose lease is over at which it comes back."""
FUSE_MIN, FUSE_MAX = 3, 8_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a seed came to."""

    seed: int
    fault: str
    virtual_s: float
    callbacks: int
    trace: list[tuple[float, str, dict[str, object]]]


class Chaos:
    """Breaks a world until it is to be left alone."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = world.random
        self._thawed_s: dict[str, float] = {}
        self._strength = world.random.choice((0.1, 0.5, 1.0, 1.0, 2.0))
        world.on_start = self._started
        world.upstream.on_late = self._sent_late
        world.judge.on_told = self._told
        world.judge.on_dispatched = self._dispatched
        world.door.on_moment = self._at_moment
        self._set_weather()
        faults: list[tuple[float, Callable[[Pod], None]]] = [
            (4, self._kill_agent),
            (6, self._kill_sidecar),
            (2, self._kill_pod),
            (1, self._reboot),
            (1.5, self._lose_node),
            (3, self._freeze_one),
            (2, self._freeze_pod),
            (2, self._freeze_owner),
            (1, self._suspend),
            (1.5, self._store_away),
            (0.4, self._kill_journal),
            (1.5, self._deploy),
        ]
        self._weights = [weight * world.random.choice((0, 1, 1, 2)) for weight, _ in faults]
        self._faults = [fault for _, fault in faults]

    def _set_weather(self) -> None:
        random, weather, habits = self._random, self._world.weather, self._world.habits
        for name in ("slow", "lost", "lost_answer", "late"):
            share = random.choice((0.0, 0.01, 0.03, 0.1)) * self._strength
            setattr(weather, name, share)
        self._world.loop.slow_reads = random.choice((0.0, 0.0, 0.02, 0.05)) * self._strength
        self._world.loop.slow_s = random.choice(SLOW_S)
        weather.conflict = random.choice((0.0, 0.02, 0.1)) * self._strength
        for name in ("refused", "lost", "lost_answer", "late", "failed_probe"):
            setattr(habits, name, random.choice((0.0, 0.05, 0.15)) * self._strength)
        for name in self._world.server.habits.__slots__:
            share = random.choice((0.0, 0.02, 0.06)) * self._strength
            setattr(self._world.server.habits, name, share)

    def schedule(self, until_s: float) -> None:
        """Faults from now until then."""
        for at_s in self._world.saga.deploys_s(until_s):
            self._world.loop.call_later(at_s, self._strike, self._deploy)
        at_s = 0.0
        while sum(self._weights):
            at_s += self._random.expovariate(self._strength / BETWEEN_S)
            if at_s > until_s:
                break
            fault = self._random.choices(self._faults, self._weights)[0]
            self._world.loop.call_later(at_s, self._strike, fault)

    def _strike(self, fault: Callable[[Pod], None]) -> None:
        """Rather where a run is under way than elsewhere."""
        pods = [pod for pod in self._world.pods if not pod.is_gone]
        busy = [pod for pod in pods if pod.uid in self._world.busy_pods]
        if pods and not self._world.is_calm:
            is_aimed = busy and self._random.random() < AIM
            fault(self._random.choice(busy if is_aimed else pods))

    def calm(self) -> None:
        """No more faults; everything that is down comes back."""
        self._world.note("calm")
        self._world.is_calm = True
        self._world.weather.clear_up()
        self._world.habits.improve()
        self._world.server.habits.improve()
        self._world.loop.slow_reads = 0.0

    # Faults at any await

    def _started(self, pod: Pod, process: Process, is_agent: bool) -> None:
        """Some processes meet their fault after a number of callbacks, wherever that is."""
        if self._world.is_calm or self._random.random() > 0.35 * self._strength:
            return
        callbacks = int(math.exp(self._random.uniform(math.log(FUSE_MIN), math.log(FUSE_MAX))))

        def blow() -> None:
            if self._world.is_calm:
                return
            if self._random.random() < 0.3:
                self._freeze(process)
            else:
                self._world.kill(pod, process)
                self._restart_later(pod)

        process.set_fuse(callbacks, blow)

    def _restart_later(self, pod: Pod, *, within_s: tuple[float, float] = RESTART_S) -> None:
        """Containers that are down come back, each in its time."""
        for index in range(len(pod.agents)):
            self._later(within_s, self._world.start_agent, pod, index)
        self._later(within_s, self._world.start_sidecar, pod)

    def _later(self, within_s: tuple[float, float], work: Callable[..., None], *args: Any) -> None:
        delay_s = self._random.uniform(*within_s)
        self._world.loop.call_later(delay_s, work, *args, context=Context())

    # Faults at the moments that rules are for

    def _sent_late(self, sender: Process) -> None:
        """Some senders are killed as their bytes left, and are back before these arrive."""
        pod = next(pod for pod in self._world.pods if sender in pod.agents)
        if self._world.is_calm or self._random.random() > LATE_KILLED:
            return
        world, index = self._world, pod.agents.index(sender)
        world.loop.call_soon(world.kill, pod, sender, context=Context())
        self._later(QUICK_RESTART_S, world.start_agent, pod, index)

    def _told(self, pod: Pod) -> None:
        """Some pods die as their agent heard that something is kept."""
        if not self._world.is_calm and self._random.random() < TOLD_KILLED * self._strength:
            self._world.loop.call_soon(self._kill_pod, pod, context=Context())

    def _dispatched(self, attempt: int) -> None:
        """Between some decisions and what is sent by them the store, or the sidecar, is away."""
        share = DELAYED_AGAIN if attempt > 1 else DELAYED
        if self._world.is_calm or self._random.random() > share * self._strength:
            return
        delay_s = self._random.uniform(*DELAY_S)
        if self._random.random() < 0.5:
            self._world.note("store away", s=round(delay_s, 3))
            self._world.weather.away_until_s = self._world.loop.now_s + delay_s
        elif not this_process().windows:
            freeze = self._world.freeze
            self._world.loop.call_soon(freeze, this_process(), delay_s, context=Context())

    def _at_moment(self, process: Process, what: str) -> None:
        """Some sidecars, agents, or both die right there, and are back at once."""
        share = UNDO_KILLED if what.startswith("undo") else MOMENT_KILLED
        if self._world.is_calm or self._random.random() > share * self._strength:
            return
        pod = self._world.pod_of(process)
        self._world.note("moment", process=process.name, what=what)
        who = self._random.choice(((process,), pod.agents, (process, *pod.agents)))
        for one in who:
            self._world.loop.call_soon(self._world.kill, pod, one, context=Context())
        self._restart_later(pod, within_s=QUICK_RESTART_S)

    @contextmanager
    def waking(self) -> Iterator[None]:
        """Some frozen owners go on just after somebody saw that their lease is over."""
        look_at = Fleet._look_at

        async def looked_at(fleet: Fleet, name: str) -> None:
            await look_at(fleet, name)
            self._saw(fleet, name)

        with patch.object(Fleet, "_look_at", looked_at):
            yield

    def _saw(self, fleet: Fleet, name: str) -> None:
        for run, watch in self._world.judge.runs.items():
            if watch.head is None or head_name(run) != name:
                continue
            owner = self._world.process_of(watch.head.owner)
            is_over = owner is not None and owner.is_frozen and fleet.is_lapsed(owner.name, run)
            if owner is not None and is_over and self._random.random() < WOKEN:
                self._world.thaw(owner)

    # Faults by the clock

    def _kill_agent(self, pod: Pod) -> None:
        self._world.kill(pod, self._random.choice(pod.agents))
        self._restart_later(pod)

    def _kill_sidecar(self, pod: Pod) -> None:
        self._world.kill(pod, pod.process)
        self._restart_later(pod)

    def _kill_pod(self, pod: Pod) -> None:
        for process in pod.processes:
            self._world.kill(pod, process)
        self._restart_later(pod)

    def _reboot(self, pod: Pod) -> None:
        pod.reboots += 1
        for process in pod.processes:
            self._world.kill(pod, process, is_reboot=True)
        self._restart_later(pod)

    def _lose_node(self, pod: Pod) -> None:
        self._world.note("node lost", pod=pod.uid)
        for process in pod.processes:
            self._world.kill(pod, process)
        self._replace(pod)

    def _replace(self, pod: Pod) -> None:
        pod.is_gone = True
        delay_s = self._random.uniform(*RESTART_S)
        self._world.loop.call_later(delay_s, self._world.new_pod, len(pod.agents))

    def _freeze(self, process: Process) -> None:
        now_s = self._world.loop.now_s
        delay_s = self._random.choice((0.3, 2.0, 12.0)) * self._random.uniform(0.3, 1.0)
        if process.windows:
            if now_s - self._thawed_s.get(process.name, -10.0) < 1.0:
                return
            delay_s = min(delay_s, WINDOW_PAUSE_S)
        self._thawed_s[process.name] = now_s + delay_s
        self._world.freeze(process, delay_s)

    def _freeze_one(self, pod: Pod) -> None:
        if pod.processes:
            self._freeze(self._random.choice(pod.processes))

    def _freeze_owner(self, pod: Pod) -> None:
        """It sleeps through its lease, and its agents ask for things meanwhile."""
        if pod.process is not None:
            delay_s = self._world.settings.lease_s * self._random.uniform(*OVERSLEPT)
            self._world.freeze(pod.process, delay_s)

    def _freeze_pod(self, pod: Pod) -> None:
        for process in pod.processes:
            self._freeze(process)

    def _suspend(self, pod: Pod) -> None:
        """The whole machine sleeps; its monotonic clock does too."""
        if any(process.windows or process.is_frozen for process in pod.processes):
            return
        delay_s = self._random.uniform(0.5, SUSPEND_S_MAX)
        for process in pod.processes:
            self._world.freeze(process, delay_s)
        pod.clock.suspended_s += delay_s

    def _store_away(self, _: Pod) -> None:
        delay_s = self._random.choice((2.0, 8.0, 60.0)) * self._random.uniform(0.3, 1.0)
        self._world.note("store away", s=round(delay_s, 3))
        self._world.weather.away_until_s = self._world.loop.now_s + delay_s

    def _kill_journal(self, pod: Pod) -> None:
        """An I/O error meets a process; the next one opens the file anew."""
        if pod.process is None or pod.process.is_dead:
            return
        self._world.note("journal dies", pod=pod.uid)
        pod.disk.die("EIO")

    def _deploy(self, pod: Pod) -> None:
        """The pod is told to go, and is gone when its grace is over."""
        if pod.process is None or pod.process.is_dead or pod.sidecar is None:
            return
        if not pod.sidecar.is_started:  # a signal is looked at once it has
            return
        self._world.note("deploy", pod=pod.uid)
        self._world.loop.start(pod.process, self._drain(pod))
        self._world.loop.call_later(GRACE_S, self._lose_node, pod)

    async def _drain(self, pod: Pod) -> None:
        assert pod.sidecar is not None
        began = len(self._world.trace)
        pod.sidecar.drain.begin("SIGTERM", grace_s=GRACE_S)
        await pod.sidecar.drain.finish()
        mine = [e for _, e, f in self._world.trace[began:] if f.get("by") == pod.sidecar.me]
        if "drain_cut" not in mine:
            self._world.judge.drained(pod)


def run_seed(seed: int) -> Verdict:
    """One whole life."""
    world = World(seed)
    chaos = Chaos(world)
    chaos_s = world.random.uniform(8.0, 40.0)
    is_small = world.random.random() < 0.5
    with (
        virtual_machine(is_small=is_small),
        world.judge.listening(),
        world.http_judge.listening(),
        chaos.waking(),
    ):
        world.populate()
        chaos.schedule(chaos_s)
        try:
            while not world.is_done and world.loop.now_s < chaos_s and not world.fault:
                world.loop.run(until_s=min(chaos_s, world.loop.now_s + 1.0))
            if not world.fault:
                chaos.calm()
                world.finish(until_s=world.loop.now_s + CALM_S_MAX)
        except Exception as error:  # whatever it is belongs to the seed
            world.found(f"the simulation failed: {error!r}")
    verdict = Verdict(seed, world.fault, world.loop.now_s, world.loop.callbacks, world.trace)
    world.loop.close()
    return verdict


def sweep_up() -> None:
    """Collect dead worlds. Coroutines that never ended complain when they go: nobody listens."""
    before, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    finally:
        sys.unraisablehook = before
