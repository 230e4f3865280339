"""Carries out the shutdown plan: tells agents to stop, releases runs, waits for what is shipped."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from coatcheck_sidecar.core import drain as core
from coatcheck_sidecar.core.budget import Rate
from coatcheck_sidecar.core.drain import Doing, Latch, OnDrain, Plan, RunPlan, RunView
from coatcheck_sidecar.core.model import CallState
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.engine.shipper import Doors
from coatcheck_sidecar.engine.tasks import TaskSet, happens

HOOK: Final = "preStop"
"""What began a drain when it was the hook of the sidecar itself."""
LOOK_S: Final = 0.5
"""A plan is made anew this often at least: the rate changes, and so does what is unshipped."""
LAST_S: Final = 5.0
"""After SIGTERM a sidecar ships for this long at least, be the deadline over or not: the kubelet
leaves it two seconds, and a process that ships is better killed than gone."""
HOOKS_APART_S: Final = 1.0
"""A pod's hooks start together (0.04 s apart at most were measured): a barrier that is still alone
after that is a container's restart, and no end of a pod."""
TERM_APART_S: Final = 0.5
"""A plain second container has its SIGTERM this soon after its hook, which returns at once."""
MOMENT_S: Final = 2.0
MOMENT_SHARE: Final = 0.25
"""Before the cut no undo begins: the lesser of the two. One that is cut may be in doubt."""
LEFT_S: Final = 2.0
"""What a kubelet leaves between SIGTERM and SIGKILL when the grace is used up."""


@dataclass(frozen=True, slots=True)
class Pod:
    """What a drain sees of its sidecar, and asks of it."""

    keepers: Mapping[str, Keeper]
    """The runs here, those too whose last records are on their way."""
    is_waiting: Callable[[], bool]
    """More may turn up: runs of a former life, or a claim under way."""
    is_awaited: Callable[[Keeper], bool]
    """Its agent knew the sidecar before this one, and may be about to reconnect."""
    rate: Callable[[], Rate]
    close_doors: Callable[[], None]
    """Take no run any more."""
    leave: Callable[[], Awaitable[None]]
    """Nothing is here any more: tell the fleet."""


class Drain:
    """The shutdown of one pod: a latch, and a loop that follows the plan."""

    def __init__(self, pod: Pod, *, doors: Doors, tasks: TaskSet) -> None:
        """Nothing happens before `begin`."""
        self.latch: Latch | None = None
        self.plan: Plan | None = None
        self.is_closed = False
        """Nothing is here, and nothing is let in any more, not even who comes back."""
        self.is_released = asyncio.Event()
        """No run is here, and all that there was is shipped."""
        self._pod = pod
        self._clock = doors.clock
        self._settings = doors.settings
        self._observer = doors.observer
        self._budget = doors.budget
        self._tasks = tasks
        self._begun = asyncio.Event()
        self._hooked_s: float | None = None
        """When the sidecar's own hook came, whatever began the drain."""
        self._poke = asyncio.Event()
        self._chosen: dict[str, OnDrain] = {}
        self._releasing: dict[str, asyncio.Task[None]] = {}

    @property
    def is_begun(self) -> bool:
        """The pod drains, and there is no way back."""
        return self.latch is not None

    def begin(self, cause: str, *, grace_s: float | None = None) -> Latch:
        """Begin, or learn of one more reason: the deadline can only move nearer by it.

        `grace_s` is what is left until SIGKILL, if the trigger knows; else the pod's own.
        """
        is_first = self.latch is None
        if cause == HOOK and self._hooked_s is None:
            self._hooked_s = self._clock.monotonic()
        self.latch = core.latch(
            self.latch,
            cause,
            now_s=self._clock.monotonic(),
            grace_s=self._settings.grace_s if grace_s is None else grace_s,
            margin_s=self._settings.margin_s,
        )
        left_s = self.latch.deadline_s - self._clock.monotonic()
        if is_first:
            self._begun.set()
            self._observer.note("drain", cause=cause, deadline_s=round(left_s, 3))
            self._pod.close_doors()
            for keeper in self._pod.keepers.values():
                keeper.drain()
            self._tasks.start(self._follow(self.latch), name="drain")
        self.poke()
        return self.latch

    def has_time(self) -> bool:
        """Something that takes a moment may begin: it ends before what has not stopped is cut."""
        if self.latch is None:
            return True
        cut_s = self.plan.cut_s if self.plan else self.latch.deadline_s
        whole_s = max(0.0, cut_s - self.latch.began_s)
        moment_s = min(MOMENT_S, whole_s * MOMENT_SHARE)
        return self._clock.monotonic() < cut_s - moment_s

    def poke(self) -> None:
        """Something changed that the plan depends on."""
        self._poke.set()

    def signalled(self) -> None:
        """SIGTERM has come, which begins the drain unless its hook did.

        A native sidecar's waits until the agents have gone, and a plain one's follows its hook at
        once. So one that is late and finds agents here says that the grace is used up, which may
        be less than the pod's own (`kubectl delete --now`): there are two seconds left.
        """
        is_late, is_hookless = False, self.latch is None
        if is_hookless:
            self._observer.note("drain_hook_missed")
        elif self._hooked_s is not None:
            is_late = self._clock.monotonic() - self._hooked_s > TERM_APART_S
        has_agents = any(keeper.agent is not None for keeper in self._pod.keepers.values())
        latch = self.begin("SIGTERM", grace_s=LEFT_S if is_late and has_agents else None)
        if is_hookless:
            self.latch = replace(latch, is_hookless=True)

    async def barrier(self) -> bool:
        """Wait until no run is here, or until agents must get their SIGTERM all the same.

        It begins no drain: the kubelet runs an agent's hook for a failed liveness probe too, and
        then the agent is restarted in a pod that stays.
        """
        await happens(self._begun, within_s=HOOKS_APART_S)
        return await self._released(lambda drain: drain.barrier_s)

    async def finish(self) -> bool:
        """Wait until no run is here, or until the deadline and a last while from now on."""
        last_s = self._clock.monotonic() + min(LAST_S, self._settings.grace_s)
        is_released = await self._released(lambda drain: max(drain.deadline_s, last_s))
        if not is_released:
            self._observer.note("drain_cut", runs=len(self._pod.keepers))
        return is_released

    async def _released(self, until: Callable[[Latch], float]) -> bool:
        """Wait for it; a deadline that moves meanwhile counts as it is then."""
        while self.latch is not None and not self.is_released.is_set():
            left_s = until(self.latch) - self._clock.monotonic()
            if left_s <= 0:
                break
            await happens(self.is_released, within_s=min(left_s, LOOK_S))
        return self.is_released.is_set()

    # Following the plan

    async def _follow(self, drain: Latch) -> None:
        """Plan, do, wait for what changes the plan; ends when nothing is here."""
        while self._pod.keepers or self._pod.is_waiting():
            self._poke.clear()
            drain = self.latch or drain
            self.plan = self._planned(drain)
            for run in self.plan.runs:
                self._do(run)
            left_s = self.plan.next_s - self._clock.monotonic()
            await happens(self._poke, within_s=left_s if 0 < left_s < LOOK_S else LOOK_S)
        self.is_closed = True
        await self._pod.leave()
        self.plan = self._planned(drain)
        took_s = self._clock.monotonic() - drain.began_s
        self._observer.note("drained", cause=drain.cause, seconds=took_s)
        self.is_released.set()

    def _planned(self, drain: Latch) -> Plan:
        now_s, rate = self._clock.monotonic(), self._pod.rate()
        views = [self._view(keeper) for keeper in self._pod.keepers.values()]
        puts_max = self._settings.puts_max
        cut_s = core.cut_s(views, drain, rate=rate, now_s=now_s, puts_max=puts_max)
        for view in views:
            stop_s = core.stop_s(view, began_s=drain.began_s, cut_s=cut_s)
            self._chosen.setdefault(view.run, core.chosen(view, now_s=now_s, stop_s=stop_s))
        views = [view.of(self._chosen[view.run]) for view in views]
        return core.plan(views, drain, rate=rate, now_s=now_s, puts_max=puts_max)

    def _view(self, keeper: Keeper) -> RunView:
        return RunView(
            run=keeper.run,
            on_drain=keeper.on_drain,
            has_agent=keeper.agent is not None,
            is_awaited=self._pod.is_awaited(keeper),
            is_over=keeper.is_over,
            is_undoing=keeper.is_undoing,
            is_told=keeper.is_stopping,
            eta_at_s=keeper.eta_at_s,
            boundary_s=keeper.boundary_s,
            unshipped_bytes=keeper.unshipped_bytes,
        )

    def _do(self, plan: RunPlan) -> None:
        keeper = self._pod.keepers.get(plan.run)
        if keeper is None or plan.run in self._releasing:
            return
        if plan.doing is Doing.STOP and not keeper.is_stopping:
            keeper.stop(left_s=max(0.0, plan.until_s - self._clock.monotonic()))
        elif plan.doing in (Doing.RELEASE, Doing.CUT):
            reason = core.DRAINING
            if plan.doing is Doing.CUT:
                reason = f"{core.DRAINING}{core.MARK}{core.CUT}"
                self._observer.note("run_cut", run=plan.run, step=keeper.log.state.step + 1)
            release = self._tasks.start(self._release(keeper, reason), name=f"release {plan.run}")
            self._releasing[plan.run] = release
            release.add_done_callback(lambda _: self._releasing.pop(plan.run, None))

    async def _release(self, keeper: Keeper, reason: str) -> None:
        try:
            await keeper.release(reason)
        except Refusal as error:
            self._observer.note("look_failed", error=error.message)

    # What an operator sees

    def view(self) -> dict[str, Any]:
        """How the shutdown stands: times in seconds from now, sizes in bytes."""
        now_s, rate, drain = self._clock.monotonic(), self._pod.rate(), self.latch
        plan = self._planned(drain) if drain is not None else None
        plans = {run.run: run for run in plan.runs} if plan else {}
        keepers = self._pod.keepers.values()
        view: dict[str, Any] = {
            "draining": drain is not None,
            "released": self.is_released.is_set(),
            "unshipped_bytes": sum(keeper.unshipped_bytes for keeper in keepers),
            "budget_bytes": int(self._budget.allowed_bytes()),
            "bytes_per_s": rate.bytes_per_s,
            "latency_s": rate.latency_s,
            "runs": [self._line(keeper, plans.get(keeper.run), now_s=now_s) for keeper in keepers],
        }
        if drain is None or plan is None:
            return view
        return {
            **view,
            "cause": drain.cause,
            "since_s": now_s - drain.began_s,
            "deadline_s": drain.deadline_s - now_s,
            "barrier_s": drain.barrier_s - now_s,
            "cut_s": plan.cut_s - now_s,
            "ship_s": plan.ship_s,
            "feasible": plan.is_feasible,
        }

    def _line(self, keeper: Keeper, plan: RunPlan | None, *, now_s: float) -> dict[str, Any]:
        doing = plan.doing if plan else Doing.GO_ON
        return {
            "run": keeper.run,
            "on_drain": self._chosen.get(keeper.run, keeper.on_drain).value,
            "doing": doing.value,
            "until_s": plan.until_s - now_s if plan else None,
            "step": keeper.log.state.step + 1,
            "boundary_s": keeper.boundary_s,
            "eta_s": None if keeper.eta_at_s is None else max(0.0, keeper.eta_at_s - now_s),
            "unshipped_bytes": keeper.unshipped_bytes,
            "waits_for": _waits_for(keeper, doing),
        }


def _waits_for(keeper: Keeper, doing: Doing) -> str:
    """What would let the pod go on its way, in words."""
    if doing in (Doing.SHIP, Doing.CUT, Doing.RELEASE):
        return "the store"
    if doing is Doing.AWAIT:
        return "its agent, which may reconnect"
    calls = [c for c in keeper.log.state.calls.values() if c.state is CallState.DISPATCHED]
    if calls:
        return ", ".join(f"{call.tool} (call {call.number})" for call in calls)
    return "its end" if doing is Doing.GO_ON else "its next step boundary"
