"""What else was measured of a real kubelet, each fact with real processes; all at once."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Final

import pytest

from examples.demo.processes import free_ports
from tests.kubelet.node import Kubelet
from tests.kubelet.probes import Probes
from tests.kubelet.spec import ContainerSpec, HttpGet, Mesh, PodSpec, Restart, Sleep, What

pytestmark = pytest.mark.alone

NEAR_S: Final = 0.5
GONE_S: Final = 20.0
Fact = Callable[[Probes], Coroutine[None, None, None]]
facts: list[Fact] = []


def fact(check: Fact) -> Fact:
    """Collected, so that all take as long as the longest."""
    facts.append(check)
    return check


def near(seconds: float) -> object:
    return pytest.approx(seconds, abs=NEAR_S)


def a_pod(probes: Probes, *, grace_s: int) -> PodSpec:
    """Agent and native sidecar that never end by themselves."""
    containers = (probes.container("sidecar", is_sidecar=True), probes.container("agent"))
    return PodSpec(containers=containers, grace_s=grace_s)


def alone(container: ContainerSpec, grace_s: int) -> PodSpec:
    return PodSpec(containers=(container,), grace_s=grace_s, backoff_s=(0.5,))


@pytest.mark.timeout(60)
async def test_every_fact(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        for check in facts:
            folder = tmp_path / check.__name__
            folder.mkdir()
            group.create_task(check(Probes(folder)), name=folder.name)


@fact
async def force_leaves_one_second_for_hooks_and_three_in_all(probes: Probes) -> None:
    agent = probes.container("agent", pre_stop=probes.hook("agent", 9))
    sidecar = probes.container("sidecar", is_sidecar=True)
    pod = PodSpec(containers=(sidecar, agent), grace_s=30)
    async with Kubelet(pod, probes.folder) as kubelet:
        await probes.start(kubelet)
        kubelet.delete(0, force=True)
        await kubelet.wait_gone(GONE_S)
    assert kubelet.log.at(What.OBJECT_GONE) == near(0)
    assert kubelet.log.at(What.PRE_STOP, "agent") == near(0)
    for name in kubelet.containers:
        assert kubelet.log.at(What.TERM, name) == near(1)
        assert kubelet.log.at(What.KILL, name) == near(3)


@fact
async def a_second_shorter_delete_shortens_nothing(probes: Probes) -> None:
    async with Kubelet(alone(probes.container("agent"), grace_s=4), probes.folder) as kubelet:
        await probes.start(kubelet)
        kubelet.delete()
        await asyncio.sleep(1)
        kubelet.delete(1)
        await kubelet.wait_gone(GONE_S)
    assert kubelet.log.at(What.KILL, "agent") == near(4)
    assert len(kubelet.log.all(What.TERM, "agent")) == 1


@fact
async def after_a_restart_of_the_kubelet_the_shorter_grace_counts(probes: Probes) -> None:
    async with Kubelet(alone(probes.container("agent"), grace_s=30), probes.folder) as kubelet:
        await probes.start(kubelet)
        kubelet.delete()
        kubelet.delete(2)
        await kubelet.restart_kubelet(0.5)
        await kubelet.wait_gone(GONE_S)
    assert kubelet.log.at(What.KILL, "agent") == near(2.5)


@fact
async def a_liveness_failure_concerns_its_container_alone(probes: Probes) -> None:
    agent = probes.container("agent", pre_stop=probes.hook("agent", 1))
    sidecar = probes.container("sidecar", is_sidecar=True, pre_stop=probes.hook("sidecar", 0))
    pod = PodSpec(containers=(sidecar, agent), grace_s=30)
    async with Kubelet(pod, probes.folder) as kubelet:
        await probes.start(kubelet)
        kubelet.kill_liveness("agent", grace_s=3)
        await probes.wait_up("agent", times=2)
    log = kubelet.log
    assert [log.at(what, "agent") for what in (What.PRE_STOP, What.TERM)] == [near(0), near(1)]
    assert [log.at(what, "agent") for what in (What.KILL, What.START)] == [near(3), near(3.5)]
    assert not [each for each in log.seen if each.name == "sidecar"]


@fact
async def out_of_memory_runs_no_hook_and_restarts_with_a_back_off(probes: Probes) -> None:
    agent = probes.container("agent", pre_stop=probes.hook("agent", 1))
    async with Kubelet(alone(agent, grace_s=2), probes.folder) as kubelet:
        await probes.start(kubelet)
        kubelet.oom("agent")
        await probes.wait_up("agent", times=2)
        assert kubelet.log.at(What.START, "agent") == near(0.5)
        kubelet.oom("agent")
        await probes.wait_up("agent", times=3)
        assert kubelet.log.at(What.START, "agent") == near(2.5)
    assert not probes.hook_lines("agent")


@fact
async def a_crashed_sidecar_is_restarted_but_not_in_a_pod_that_ends(probes: Probes) -> None:
    async with Kubelet(a_pod(probes, grace_s=3), probes.folder) as kubelet:
        await probes.start(kubelet)
        kubelet.crash("sidecar")
        await probes.wait_up("sidecar", times=2)
        assert kubelet.log.at(What.START, "sidecar") == near(0.5)
        assert kubelet.containers["agent"].is_running
        kubelet.delete()
        kubelet.containers["sidecar"].kill()
        await kubelet.wait_gone(GONE_S)
    assert not kubelet.log.all(What.START, "sidecar")
    assert kubelet.log.at(What.EXIT, "sidecar") == near(0)
    assert kubelet.log.at(What.KILL, "agent") == near(3)


@fact
async def an_exec_hook_outlives_the_grace_until_its_container_is_killed(probes: Probes) -> None:
    short = probes.container("short", pre_stop=probes.hook("short", 2))
    long = probes.container("long", pre_stop=probes.hook("long", 3.5))
    pod = PodSpec(containers=(short, long), grace_s=1)
    async with Kubelet(pod, probes.folder) as kubelet:
        await probes.start(kubelet)
        kubelet.delete()
        await kubelet.wait_gone(GONE_S)
        assert [kubelet.log.at(What.TERM, name) for name in ("short", "long")] == [near(1)] * 2
        await asyncio.sleep(1)
    assert probes.hook_lines("short") == ["began", "ended"]
    assert probes.hook_lines("long") == ["began"]


@fact
async def an_http_hook_is_waited_for_whatever_it_says(probes: Probes) -> None:
    (port,) = free_ports(1)
    flags = ("--port", str(port), "--answers-after-s", "2", "--status", "500")
    agent = probes.container("agent", pre_stop=HttpGet(port, "/drain/barrier"))
    sidecar = probes.container("sidecar", is_sidecar=True, flags=flags)
    async with Kubelet(PodSpec(containers=(sidecar, agent), grace_s=4), probes.folder) as kubelet:
        await probes.start(kubelet)
        kubelet.delete()
        await kubelet.wait_gone(GONE_S)
    assert len(probes.notes("sidecar", "asked")) == 1
    assert kubelet.log.at(What.TERM, "agent") == near(2)
    notes = [each.note for each in kubelet.log.seen if each.what is What.PRE_STOP_OVER]
    assert notes == ["status 500"]


@fact
async def a_hook_that_a_mesh_blocks_never_arrives(probes: Probes) -> None:
    (port,) = free_ports(1)
    hook = HttpGet(port, "/drain")
    hurt = [probes.container(mesh, pre_stop=hook, mesh=mesh, exits_after_term_s=0) for mesh in Mesh]
    served = probes.container("served", flags=("--port", str(port)), exits_after_term_s=0)
    async with Kubelet(PodSpec(containers=(served, *hurt), grace_s=2), probes.folder) as kubelet:
        await probes.start(kubelet)
        kubelet.delete()
        await kubelet.wait_gone(GONE_S)
    assert kubelet.log.at(What.TERM, Mesh.REFUSES) == near(0)
    assert kubelet.log.at(What.TERM, Mesh.DROPS) == near(2)
    assert len(probes.notes("served", "asked")) <= 1  # that of the open one


@fact
async def a_hook_that_nobody_serves_is_over_at_once(probes: Probes) -> None:
    (port,) = free_ports(1)
    agent = probes.container("agent", pre_stop=HttpGet(port, "/drain"), exits_after_term_s=0)
    async with Kubelet(alone(agent, grace_s=9), probes.folder) as kubelet:
        await probes.start(kubelet)
        kubelet.delete()
        await kubelet.wait_gone(GONE_S)
    assert kubelet.log.at(What.TERM, "agent") == near(0)


@fact
async def pid_1_without_a_handler_ignores_term(probes: Probes) -> None:
    sleeper = ("/bin/sleep", "60")
    pod = PodSpec(
        containers=(
            ContainerSpec(name="bare", argv=sleeper, pre_stop=Sleep(1)),
            ContainerSpec(name="init", argv=sleeper, is_pid_1=False),
        ),
        grace_s=2,
    )
    async with Kubelet(pod, probes.folder) as kubelet:
        await kubelet.start()
        kubelet.delete()
        await kubelet.wait_gone(GONE_S)
    assert kubelet.log.at(What.TERM, "bare") == near(1)
    assert kubelet.log.at(What.KILL, "bare") == near(3)
    assert kubelet.log.at(What.EXIT, "init") == near(0)


@fact
async def an_agent_that_is_done_takes_its_sidecar_along(probes: Probes) -> None:
    job = ContainerSpec(name="agent", argv=("/bin/sleep", "1"))
    hook = probes.hook("sidecar", 1)
    sidecar = probes.container("sidecar", is_sidecar=True, pre_stop=hook, exits_after_term_s=0)
    pod = PodSpec(containers=(sidecar, job), grace_s=9, restart=Restart.NEVER)
    async with Kubelet(pod, probes.folder) as kubelet:
        await kubelet.start()
        await kubelet.wait_gone(GONE_S)
    assert kubelet.log.at(What.PRE_STOP, "sidecar") == near(1)
    assert kubelet.log.at(What.TERM, "sidecar") == near(2)


@fact
async def the_agent_starts_once_its_sidecar_is_up(probes: Probes) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/startupz"
    flags = ("--port", str(port), "--answers-after-s", "0.5")
    sidecar = probes.container("sidecar", is_sidecar=True, flags=flags, startup_url=url)
    pod = PodSpec(containers=(probes.container("agent"), sidecar), grace_s=1)
    async with Kubelet(pod, probes.folder) as kubelet:
        await probes.start(kubelet)
        up_s = kubelet.log.since(probes.notes("sidecar", "up")[0])
        assert kubelet.log.at(What.START, "agent") >= up_s + 0.5
    with pytest.raises(OSError, match="refused"):  # nothing is left when the block is over
        socket.create_connection(("127.0.0.1", port))
