"""Pods that end in every way that a kubelet ends them, in the middle of their runs."""

from typing import Final

import pytest

from tests.e2e import drain_plays as plays
from tests.e2e.drain_plays import Play, play_all
from tests.e2e.drain_world import CoatPod, Shape, World
from tests.kubelet.spec import Mesh, What

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


def missed_its_hook(world: World, pod: CoatPod) -> None:
    assert pod.count("drain_hook_missed") == 1


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
        lines=max(8, grace_s * 4),
        check=was_cut,
    )


HOOKS: Final = [
    Play(name="now", shape=Shape(grace_s=30), trigger=plays.deleted_now, check=freed_in_time),
    Play(
        name="now-stuck",
        shape=Shape(grace_s=30, steps="one"),
        trigger=plays.deleted_now,
        is_in_time=False,
        lines=12,
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
ROLLS: Final = [
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
