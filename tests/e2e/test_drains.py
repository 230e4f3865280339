"""Pods that end in every way that a kubelet ends them, in the middle of their runs."""

from typing import Final

import pytest

from tests.e2e import drain_plays as plays
from tests.e2e.drain_plays import Play, play_all
from tests.e2e.drain_world import CoatPod, Shape, World
from tests.kubelet.spec import Mesh, What
from tests.servers import ministack

SHORT_GRACES_S: Final = (1, 3, 10)


def freed_in_time(world: World, pod: CoatPod) -> None:
    """All was off the pod before a SIGKILL; nobody had to wait for a lease."""
    assert pod.count("drained") == 1
    taken = [other.log.count('"takeover"') for other in world.pods]
    assert not any(taken)


def was_cut(world: World, pod: CoatPod) -> None:
    assert pod.count("run_cut") == len(world.board.rows)
    freed_in_time(world, pod)


def held_back(world: World, pod: CoatPod) -> None:
    """The agent's SIGTERM came after its runs were safe, and then ended it."""
    freed_in_time(world, pod)
    assert not pod.kubelet.log.all(What.KILL, "agent")


def both_held_back(world: World, pod: CoatPod) -> None:
    """Each agent container had one of the two runs, and its SIGTERM only after both were safe."""
    held_back(world, pod)
    assert not pod.kubelet.log.all(What.KILL, "agent-2")
    assert len(pod.kubelet.log.all(What.PRE_STOP, "agent-2")) == 1


def missed_its_hook(world: World, pod: CoatPod) -> None:
    assert pod.count("drain_hook_missed") == 1


def was_left_behind(world: World, pod: CoatPod) -> None:
    """A pod on its way out gets no sidecar again: what it had not released is taken over."""
    assert pod.count("drain") == 1
    assert pod.kubelet.containers["sidecar"].starts == 1


def asked_twice(world: World, pod: CoatPod) -> None:
    assert len(pod.kubelet.log.all(What.PRE_STOP, "sidecar")) == 2
    assert pod.count("drain") == 1
    freed_in_time(world, pod)


def does_not_drain(world: World, pod: CoatPod) -> None:
    """A container was restarted: the pod goes on, and its runs in it."""
    assert not pod.count("drain")
    assert pod.kubelet.containers["agent"].starts == 2


def defied(world: World, pod: CoatPod) -> None:
    was_cut(world, pod)
    assert pod.kubelet.log.all(What.KILL, "agent")
    assert "against all orders" not in pod.kubelet.containers["agent"].said


def rolls(*, grace_s: int, is_native: bool) -> Play:
    """An agent without a thought of signals is rolled; a step takes up to 0.7 s."""
    is_in_time = grace_s > 1
    return Play(
        name=f"rolls-{'native' if is_native else 'plain'}-{grace_s}",
        shape=Shape(grace_s=grace_s, is_native=is_native, is_pid_1=False),
        is_in_time=is_in_time,
        check=held_back if is_in_time else lambda world, pod: None,
    )


def stuck(*, grace_s: int, is_native: bool) -> Play:
    """An agent that never comes to a boundary."""
    return Play(
        name=f"stuck-{'native' if is_native else 'plain'}-{grace_s}",
        shape=Shape(grace_s=grace_s, is_native=is_native, steps="one"),
        is_in_time=False,
        lines=8 + grace_s * 3,
        check=was_cut,
    )


HOOKS: Final = [
    Play(name="now", shape=Shape(grace_s=30), trigger=plays.deleted_now, check=freed_in_time),
    Play(
        name="now-stuck",
        shape=Shape(grace_s=30, steps="one", env={"COATCHECK_MARGIN_S": "1"}),
        trigger=plays.deleted_now,
        is_in_time=False,
        lines=24,
        check=was_cut,
    ),
    Play(name="forced", shape=Shape(grace_s=30), trigger=plays.forced, check=freed_in_time),
    Play(
        name="mesh-refuses-native",
        shape=Shape(grace_s=3, mesh=Mesh.REFUSES),
        is_in_time=False,
        check=missed_its_hook,
    ),
    Play(
        name="mesh-refuses-plain",
        shape=Shape(grace_s=8, mesh=Mesh.REFUSES, is_native=False),
        check=missed_its_hook,
    ),
]
STRIKES: Final = [
    Play(
        name="kubelet-restarted",
        shape=Shape(grace_s=8, work_s="2.5-3"),
        trigger=plays.kubelet_restarted,
        lines=3,
        check=asked_twice,
    ),
    Play(
        name="kubelet-restarted-plain",
        shape=Shape(grace_s=8, work_s="2.5-3", is_native=False),
        trigger=plays.kubelet_restarted,
        lines=3,
        check=asked_twice,
    ),
    Play(
        name="wedged",
        shape=Shape(),
        trigger=plays.wedged,
        lines=14,
        is_replaced=False,
        is_in_time=False,
        check=does_not_drain,
    ),
    Play(
        name="out-of-memory",
        shape=Shape(),
        trigger=plays.out_of_memory,
        lines=14,
        is_replaced=False,
        is_in_time=False,
        check=does_not_drain,
    ),
]
DEATHS: Final = [
    Play(
        name="out-of-memory-while-draining",
        shape=Shape(work_s="0.5-1"),
        trigger=plays.out_of_memory_while_draining,
        is_in_time=False,
        check=freed_in_time,
    ),
    Play(
        name="sidecar-dies-while-draining",
        shape=Shape(grace_s=3, work_s="0.5-1"),
        trigger=plays.sidecar_dies_while_draining,
        is_in_time=False,
        check=was_left_behind,
    ),
    Play(name="sidecar-dies-before", shape=Shape(), trigger=plays.sidecar_dies_before, lines=12),
    Play(
        name="deaf",
        shape=Shape(grace_s=3, steps="deaf"),
        is_in_time=False,
        lines=16,
        check=defied,
    ),
]
TWO_AGENTS: Final = Play(
    name="two-agents",
    shape=Shape(agents=2, concurrency=1, is_pid_1=False),
    check=both_held_back,
)
ROLLS: Final = [
    TWO_AGENTS,
    *(rolls(grace_s=grace_s, is_native=True) for grace_s in SHORT_GRACES_S),
    rolls(grace_s=3, is_native=False),
]


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    "together",
    [ROLLS, HOOKS, STRIKES, DEATHS],
    ids=["rolls", "hooks", "strikes", "deaths"],
)
async def test_nothing_is_lost_and_nothing_done_twice(together: list[Play]) -> None:
    await play_all(together)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("grace_s", [1, 2, 5, 10, 20, 30, 60])
async def test_any_grace_is_enough_to_lose_nothing(grace_s: int) -> None:
    await play_all(
        [
            make(grace_s=grace_s, is_native=native)
            for make in (rolls, stuck)
            for native in (True, False)
        ]
    )


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_hooks_that_are_lost_on_their_way_cost_time_and_nothing_else() -> None:
    shapes = {"native": Shape(grace_s=3, mesh=Mesh.DROPS)}
    shapes["plain"] = Shape(grace_s=3, mesh=Mesh.DROPS, is_native=False)
    shapes["stuck"] = Shape(grace_s=3, mesh=Mesh.DROPS, steps="one")
    await play_all(
        [
            Play(
                name=f"drops-{name}",
                shape=shape,
                is_in_time=False,
                check=missed_its_hook,
                lines=20,
            )
            for name, shape in shapes.items()
        ]
    )


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_an_agent_that_dies_of_sigterm_without_a_barrier_repeats_a_step_and_no_charge() -> (
    None
):
    shape = Shape(has_barrier=False, is_pid_1=False, work_s="0.5-1")
    fails = Play(name="no-barrier", shape=shape, is_in_time=False, check=freed_in_time)
    shorter = Play(
        name="grace-period-5",
        shape=Shape(grace_s=30, steps="one"),
        trigger=plays.deleted_with_5,
        is_in_time=False,
        lines=24,
        check=was_cut,
    )
    await play_all([fails, shorter])


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_the_same_on_s3() -> None:
    with ministack() as server:
        await play_all(ROLLS, server=server)
        await play_all([*HOOKS[:2], *DEATHS[-1:]], server=server)
