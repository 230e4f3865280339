"""The kubelet's side of one pod: hooks, signals, restarts, by the rule in `rule.py`.

    async with Kubelet(pod, folder) as kubelet:
        await kubelet.start()
        kubelet.delete()
        await kubelet.wait_gone()
        kubelet.log.at(What.TERM, "agent")

Processes, signals and requests are real. What is modelled is when a real kubelet does what.
"""

import asyncio
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp

from coatcheck_sidecar.engine.tasks import TaskSet
from tests.kubelet import rule
from tests.kubelet.container import Container, Runtime
from tests.kubelet.spec import (
    LOOPBACK,
    ExecHook,
    Hook,
    HttpGet,
    Mesh,
    PodLog,
    PodSpec,
    Restart,
    Sleep,
    What,
)

RUNTIME_TELLS_S: Final = 0.3
"""From a process's end until the kubelet counts its container as gone: 0.2 to 0.3 measured."""
CLEAN_UP_S: Final = 0.15
"""From there to the pod's end, where a container was killed: both together 0.1 to 0.8 measured."""
CLEAN_UP_AFTER_EXIT_S: Final = 0.6
"""The same where all ended by themselves: both together 1.0 in the case measured."""
FINAL_LOOK_S: Final = 1.0
"""From the end of the last main container to the sidecars' hooks, where nothing is restarted."""
RESTART_S: Final = 0.5
"""From a first crash to the restart; no back-off yet."""
BACKED_OFF_S: Final = 2.0
"""What a restart after a back-off takes on top: about 12 s were measured for the first 10."""
BACKOFF_FORGOTTEN_S: Final = 600.0
"""A container that ran for this long starts over with its back-off."""
KUBELET_DOWN_S: Final = 1.3
"""From the kubelet's SIGKILL to its hooks again, as measured; a service manager restarts it."""
STARTUP_POLL_S: Final = 0.1
STARTUP_S_MAX: Final = 30.0
"""Longer than any sidecar takes to start on a busy machine."""


class Kubelet:
    """What a node's kubelet does about one pod."""

    def __init__(self, pod: PodSpec, folder: Path, *, runtime: Runtime = Container) -> None:
        """What containers say goes to `<name>.log` in `folder`."""
        self.pod, self.log = pod, PodLog()
        self.containers = {
            spec.name: runtime(spec, folder, log=self.log, on_exit=self._on_exit)
            for spec in pod.containers
        }
        self.is_terminating = False
        self._is_down = False
        self.errors: list[BaseException] = []
        self._grace_s = pod.grace_s
        self._crashes = dict.fromkeys(self.containers, 0)
        self._started_s = dict.fromkeys(self.containers, 0.0)
        self._gone = asyncio.Event()
        self._inboxes: list[asyncio.Queue[rule.Event]] = []
        self._work = TaskSet(self._on_error)
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.is_terminating = True
        await self._work.close()
        await self._http.close()
        for container in self.containers.values():
            container.close()
        if self.errors and error is None:
            raise self.errors[0]

    def _on_error(self, name: str, error: BaseException) -> None:
        self.errors.append(error)
        self._gone.set()

    # -- what happens to a pod ----------------------------------------------------------------

    async def start(self) -> None:
        """Start native sidecars one after another, each when the last is up; then the others."""
        order = sorted(self.containers.values(), key=lambda each: not each.spec.is_sidecar)
        for container in order:
            self._start(container.spec.name)
            if container.spec.is_sidecar and container.spec.startup_url:
                await self._wait_started(container.spec.startup_url)

    def delete(self, grace_s: int | None = None, *, force: bool = False) -> None:
        """`kubectl delete`, `--grace-period=N`, `--now` (1), `--force`; an eviction too.

        A second one changes nothing about kills that are under way.
        """
        asked_s = 0 if force else self.pod.grace_s if grace_s is None else grace_s
        if self.is_terminating:
            self._grace_s = min(self._grace_s, asked_s)
            return
        self.log.trigger()
        if asked_s == 0:
            self.log.say(What.OBJECT_GONE)
        self._terminate(asked_s)

    def kill_liveness(self, name: str, grace_s: int | None = None) -> None:
        """A liveness probe has failed: its hook, TERM, KILL at the probe's grace; restarted."""
        self.log.trigger()
        member = rule.Member(name, has_hook=self.containers[name].spec.pre_stop is not None)
        wanted_s = self.pod.grace_s if grace_s is None else grace_s
        self._work.start(self._end([member], wanted_s), name=f"liveness of {name}")

    def crash(self, name: str) -> None:
        """SIGKILL that no kubelet sent: out of memory, or a crash. No hook; restarted in place."""
        self.log.trigger()
        self.containers[name].kill()

    oom = crash

    async def restart_kubelet(self, down_s: float = KUBELET_DOWN_S) -> None:
        """Kill the kubelet. Processes and hooks go on; kills under way are begun all over."""
        self.log.say(What.KUBELET_DOWN)
        self._is_down = True
        await self._work.close()
        self._inboxes.clear()
        await asyncio.sleep(down_s)
        self.log.say(What.KUBELET_UP)
        self._is_down = False
        if self.is_terminating:
            self._terminate(self._grace_s)
            return
        for name, container in self.containers.items():
            if not container.is_running:
                self._work.start(self._after_exit(name), name=f"restart of {name}")

    async def wait_gone(self, timeout_s: float | None = None) -> None:
        """Until the pod is gone. Raises `TimeoutError`, or what went wrong in here."""
        async with asyncio.timeout(timeout_s):
            await self._gone.wait()
        if self.errors:
            raise self.errors[0]

    # -- the rule, performed --------------------------------------------------------------------

    def _terminate(self, grace_s: int) -> None:
        self.is_terminating, self._grace_s = True, grace_s
        members = [
            rule.Member(
                container.spec.name,
                is_sidecar=container.spec.is_sidecar,
                has_hook=container.spec.pre_stop is not None,
                is_gone=not container.is_running,
            )
            for container in self.containers.values()
        ]
        self._work.start(self._end_pod(members, grace_s), name="end of the pod")

    async def _end_pod(self, members: list[rule.Member], grace_s: int) -> None:
        await self._end(members, grace_s)
        is_killed = any(each.exit_status == -signal.SIGKILL for each in self.containers.values())
        await asyncio.sleep(CLEAN_UP_S if is_killed else CLEAN_UP_AFTER_EXIT_S)
        self.log.say(What.POD_GONE)
        self._gone.set()

    async def _end(self, members: list[rule.Member], grace_s: int) -> None:
        inbox: asyncio.Queue[rule.Event] = asyncio.Queue()
        self._inboxes.append(inbox)
        decision = rule.begin(members, grace_s, now_s=time.monotonic())
        while True:
            for effect in decision.effects:
                self._perform(effect, inbox)
            if decision.termination.is_over:
                break
            event = await _next(inbox, until_s=decision.termination.next_s)
            decision = rule.decide(decision.termination, event, now_s=time.monotonic())
        self._inboxes.remove(inbox)

    def _perform(self, effect: rule.Effect, inbox: asyncio.Queue[rule.Event]) -> None:
        container = self.containers[effect.name]
        match effect:
            case rule.RunHook(name):
                self._work.start(self._run_hook(container, inbox), name=f"hook of {name}")
            case rule.SendTerm():
                container.term()
            case rule.SendKill():
                container.kill()

    async def _run_hook(self, container: Container, inbox: asyncio.Queue[rule.Event]) -> None:
        name, hook = container.spec.name, container.spec.pre_stop
        assert hook is not None
        self.log.say(What.PRE_STOP, name)
        note = await self._hook(container, hook)
        self.log.say(What.PRE_STOP_OVER, name, note=note)
        inbox.put_nowait(rule.HookOver(name))

    async def _hook(self, container: Container, hook: Hook) -> str:
        match hook:
            case ExecHook(argv):
                return f"status {await container.run(*argv)}"
            case Sleep(seconds):
                await asyncio.sleep(seconds)
                return "slept"
            case HttpGet():
                return await self._get(hook, container.spec.mesh)

    async def _get(self, hook: HttpGet, mesh: Mesh) -> str:
        if mesh is Mesh.DROPS:
            await asyncio.Event().wait()
        if mesh is Mesh.REFUSES:
            return "refused by the mesh"
        url = f"http://{LOOPBACK}:{hook.port}{hook.path}"
        try:
            async with self._http.get(url, headers=hook.headers) as reply:
                return f"status {reply.status}"
        except aiohttp.ClientError as error:
            return f"failed: {type(error).__name__}"

    # -- starts and restarts ----------------------------------------------------------------------

    def _start(self, name: str) -> None:
        self._started_s[name] = time.monotonic()
        self.containers[name].start()

    def _on_exit(self, name: str) -> None:
        if not self._is_down:
            self._work.start(self._after_exit(name), name=f"exit of {name}")

    async def _after_exit(self, name: str) -> None:
        """Tell who waits for it; restart it, if nobody ends the pod meanwhile."""
        ended_s = time.monotonic()
        await asyncio.sleep(RUNTIME_TELLS_S)
        for inbox in self._inboxes:
            inbox.put_nowait(rule.Gone(name))
        if self.is_terminating:
            return
        if not self._is_restarted(name):
            await self._end_if_done(name)
            return
        if ended_s - self._started_s[name] >= BACKOFF_FORGOTTEN_S:
            self._crashes[name] = 0
        delay_s = self._delay_s(self._crashes[name])
        self._crashes[name] += 1
        await asyncio.sleep(ended_s + delay_s - time.monotonic())
        if not self.is_terminating:
            self._start(name)

    def _delay_s(self, crashes: int) -> float:
        if crashes == 0:
            return RESTART_S
        backoff_s = self.pod.backoff_s
        return backoff_s[min(crashes, len(backoff_s)) - 1] + BACKED_OFF_S

    def _is_restarted(self, name: str) -> bool:
        container = self.containers[name]
        if container.spec.is_sidecar or self.pod.restart is Restart.ALWAYS:
            return True
        return self.pod.restart is Restart.ON_FAILURE and container.exit_status != 0

    async def _end_if_done(self, name: str) -> None:
        """The last main container has ended for good: the sidecars' end begins a moment later."""
        mains = [each for each in self.containers.values() if not each.spec.is_sidecar]
        if any(each.is_running or self._is_restarted(each.spec.name) for each in mains):
            return
        self.log.trigger()
        await asyncio.sleep(FINAL_LOOK_S - RUNTIME_TELLS_S)
        if not self.is_terminating:
            self._terminate(self.pod.grace_s)

    async def _wait_started(self, url: str) -> None:
        async with asyncio.timeout(STARTUP_S_MAX):
            while True:
                try:
                    async with self._http.get(url) as reply:
                        if reply.ok:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(STARTUP_POLL_S)


async def _next(inbox: asyncio.Queue[rule.Event], *, until_s: float | None) -> rule.Event:
    """What happens next: an event, or the time that was waited for."""
    wait_s = None if until_s is None else max(0.0, until_s - time.monotonic())
    try:
        async with asyncio.timeout(wait_s):  # wait_for may swallow the end of the kubelet
            return await inbox.get()
    except TimeoutError:
        return rule.Tick()
