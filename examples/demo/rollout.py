"""The second act: every pod is replaced, one after the other, as a kubelet does it.

Both preStop hooks at once: `/drain` of the sidecar, and `/drain/barrier`, which holds back the
agent's SIGTERM until its runs are released. The sidecar's SIGTERM comes when the agent has gone.
The agents handle no signal.
"""

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from examples.demo.pods import GRACE_S, Pod
from examples.demo.processes import Child

LOOK_S: Final = 0.1
PAUSE_S: Final = 1.0
"""From one pod to the next, as a readiness probe's period would have it."""
UP_S: Final = 30.0
"""For a pod that was lost just before the deploy to be back."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """One pod that went in good order."""

    pod: str
    runs: int
    drain_s: float
    """From its hooks until its last run was released, with nothing unshipped."""
    gone_s: float
    """Until both processes had ended."""
    was_killed: bool
    """One of them had to be, at the end of the grace."""


class Rollout:
    """Replaces pods; what it is doing can be looked at."""

    def __init__(self, pods: list[Pod], tell: Callable[[str, str], None]) -> None:
        self.pods = pods
        self.replaced: list[Replaced] = []
        self.is_begun = self.is_over = False
        self.pod: Pod | None = None
        """The one that is going."""
        self.plan: dict[str, Any] = {}
        """What its sidecar says that it will do."""
        self._tell = tell

    def is_busy(self, pod: Pod) -> bool:
        """Its processes are to end, and end."""
        return pod is self.pod

    async def run(self) -> None:
        """Replace them all."""
        self.is_begun = True
        self._tell("plain", f"rolling deploy: {len(self.pods)} pods, one after the other")
        for pod in self.pods:
            self.pod, self.plan = pod, {}
            await self._replace(pod)
            self.pod = None
            await asyncio.sleep(PAUSE_S)
        self.is_over = True

    async def _replace(self, pod: Pod) -> None:
        async with aiohttp.ClientSession() as http:
            await _until_up(http, pod)
        began_s = time.monotonic()
        async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(http, pod))
            barrier = group.create_task(_get(http, f"{pod.admin_url}/drain/barrier"))
            await _get(http, f"{pod.admin_url}/drain")
            await barrier
            drain_s = time.monotonic() - began_s
            watching.cancel()
        kills = [await _ended(pod.agent, began_s), await _ended(pod.sidecar, began_s)]
        done = Replaced(
            pod=pod.name,
            runs=self.plan.get("most", 0),
            drain_s=drain_s,
            gone_s=time.monotonic() - began_s,
            was_killed=any(kills),
        )
        self.replaced.append(done)
        pod.renew()
        self._tell("good", f"{pod.name}: {done.runs} runs released in {drain_s:.1f} s; a new pod")

    async def _watch(self, http: aiohttp.ClientSession, pod: Pod) -> None:
        """What `coatcheck drain --watch` shows."""
        most = 0
        while True:
            try:
                async with http.get(f"{pod.proxy_url}/v1/drain") as reply:
                    view = await reply.json()
            except aiohttp.ClientError:
                view = {}
            most = max(most, len(view.get("runs", ())))
            self.plan = {**view, "most": most}
            await asyncio.sleep(LOOK_S)


async def _until_up(http: aiohttp.ClientSession, pod: Pod) -> None:
    """A deploy waits for a pod to be up before it goes on. Raises `TimeoutError`."""
    async with asyncio.timeout(UP_S):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                return await _get(http, f"{pod.admin_url}/startupz")
            await asyncio.sleep(LOOK_S)


async def _get(http: aiohttp.ClientSession, url: str) -> None:
    async with http.get(url) as reply:
        reply.raise_for_status()


async def _ended(child: Child | None, began_s: float) -> bool:
    """SIGTERM, and SIGKILL at the end of the grace; whether it took that."""
    if child is None:
        return False
    child.send(signal.SIGTERM)
    try:
        await asyncio.to_thread(child.wait, max(0.0, began_s + GRACE_S - time.monotonic()))
    except subprocess.TimeoutExpired:
        child.kill()
        return True
    return False
