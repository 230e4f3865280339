"""What happens to one pod in the middle of its runs, and what must be so afterwards."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from examples.demo.ledger import read_ledger
from tests.e2e.drain_world import CoatPod, Shape, World, world
from tests.kubelet.spec import What
from tests.servers import S3Server

UP_S: Final = 60.0
"""For a dozen interpreters that start at once on a busy machine."""
BEFORE_S: Final = 0.2
"""Between the trigger and what strikes in the middle of it."""
DOWN_S: Final = 0.6
"""How long the kubelet is away: shorter than any step that it is away in."""
SLOW_S: Final = 90.0
"""For runs to end after the pod is gone: the lease, and what is left of their lines."""
PLAY_S: Final = 140.0
"""All of it: below the limit of a test, so that what hangs tells its story."""

Trigger = Callable[[World, CoatPod], Awaitable[None]]
Check = Callable[[World, CoatPod], None]


async def deleted(_: World, pod: CoatPod) -> None:
    pod.kubelet.delete()


async def deleted_now(_: World, pod: CoatPod) -> None:
    pod.kubelet.delete(1)


async def deleted_with_5(_: World, pod: CoatPod) -> None:
    pod.kubelet.delete(5)


async def forced(_: World, pod: CoatPod) -> None:
    pod.kubelet.delete(force=True)


async def kubelet_restarted(_: World, pod: CoatPod) -> None:
    """The kubelet dies while agents are on their way to the next boundary."""
    pod.kubelet.delete()
    await asyncio.sleep(BEFORE_S)
    await pod.kubelet.restart_kubelet(DOWN_S)


async def wedged(_: World, pod: CoatPod) -> None:
    """The agent's liveness probe fails: not the pod ends, only this container."""
    pod.kubelet.kill_liveness("agent", grace_s=2)


async def out_of_memory(_: World, pod: CoatPod) -> None:
    pod.kubelet.oom("agent")


async def out_of_memory_while_draining(_: World, pod: CoatPod) -> None:
    pod.kubelet.delete()
    await asyncio.sleep(BEFORE_S)
    pod.kubelet.containers["agent"].kill()


async def sidecar_dies_while_draining(_: World, pod: CoatPod) -> None:
    pod.kubelet.delete()
    await asyncio.sleep(BEFORE_S)
    pod.kubelet.containers["sidecar"].kill()


async def sidecar_dies_before(world: World, pod: CoatPod) -> None:
    """It is back, and takes up its former life's runs, when the drain begins."""
    pod.kubelet.crash("sidecar")
    async with asyncio.timeout(UP_S):
        while pod.log.count('"started"') < 2:  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(BEFORE_S)
    await asyncio.sleep(BEFORE_S)
    pod.kubelet.delete()


@dataclass(frozen=True, kw_only=True)
class Play:
    """One scenario."""

    name: str
    shape: Shape
    trigger: Trigger = deleted
    is_replaced: bool = True
    """Another pod is started as this one is struck."""
    is_in_time: bool = True
    """Every agent reaches a boundary: no step is begun again, nobody is cut or killed."""
    check: Check = lambda world, pod: None
    lines: int = 6
    kinds: tuple[str, ...] = ("keyed", "probed", "blind")


async def play(what: Play, *, server: S3Server | None = None) -> None:
    """From the first claim to the last result. Raises `AssertionError` with the whole story."""
    kinds = what.kinds if what.is_in_time else ("keyed", "probed")
    store = server.make_bucket(what.name) if server else None
    async with world(
        what.shape,
        runs=2,
        lines=what.lines,
        kinds=kinds,
        store=store,
        env=server.env if server else {},
    ) as stage:
        try:
            async with asyncio.timeout(PLAY_S):
                await _perform(what, stage)
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"{what.name}: {error}\n{stage.story()}") from error


async def _perform(what: Play, stage: World) -> None:
    old = await stage.start_pod()
    await stage.until(lambda: _is_under_way(stage, old), within_s=UP_S)
    async with asyncio.TaskGroup() as group:
        if what.is_replaced:
            group.create_task(stage.start_pod())
        await what.trigger(stage, old)
        if old.kubelet.is_terminating:
            await old.kubelet.wait_gone(what.shape.grace_s * 2 + UP_S)
    await stage.until(lambda: stage.is_over, within_s=SLOW_S)
    _judge(what, stage)
    what.check(stage, old)


def _is_under_way(stage: World, pod: CoatPod) -> bool:
    """All runs are here, and each has paid for something."""
    paid = {charge.ref.partition("/")[0] for charge in read_ledger(stage.ledger)}
    return stage.on(pod) == paid == stage.board.rows.keys()


def _judge(what: Play, stage: World) -> None:
    verdict = stage.verdict()
    assert not verdict.faults
    assert verdict.charges == len(stage.board.rows) * what.lines
    assert not stage.doubted
    if not what.is_in_time:
        return
    assert verdict.again == 0
    for pod in stage.pods:
        assert not pod.count("run_cut")
        assert not pod.count("drain_cut")
        assert not pod.kubelet.log.all(What.KILL, "sidecar")


async def play_all(plays: list[Play], *, server: S3Server | None = None) -> None:
    """All at once: each is mostly waiting. In a directory, or in a bucket each."""
    async with asyncio.TaskGroup() as group:
        for each in plays:
            group.create_task(play(each, server=server), name=each.name)
