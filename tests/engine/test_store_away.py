"""A store that goes away, a journal that dies, disks that are full."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.model import CallState, Level, Status
from coatcheck_sidecar.engine import sidecar as sidecar_module
from coatcheck_sidecar.stores.directory import DirectoryStore
from coatcheck_sidecar.stores.memory_journal import MemoryJournal
from coatcheck_sidecar.stores.sqlite import SqliteJournal
from tests.engine.harness import RefusedError, Yard, link, still_serves, until
from tests.engine.harness import yard as make_yard

RUNS = 5
DISK_BYTES = 4 << 20


async def is_shipped(yard: Yard, run: str, state: bytes) -> bool:
    return (await yard.log(run)).checkpoint_bytes == state


async def until_shipped(yard: Yard, run: str, state: bytes) -> None:
    await until(lambda: is_shipped(yard, run, state))


async def test_it_starts_while_the_store_is_away_and_says_so(yard: Yard) -> None:
    link(yard).is_away = True
    pod = await yard.pod()
    assert pod.sidecar.is_started
    with pytest.raises(RefusedError, match=r"store_unavailable.*the link is down"):
        await pod.agent("r1", wait_s=0.05)
    wire = await pod.wire()
    with pytest.raises(RefusedError, match=r"store_unavailable"):
        await wire.ask("result", {"run": "r1"})
    opening = wire.send(
        "open", {"run": "r2", "queue": "default", "schema": 1, "create": True, "wait_s": 5.0}
    )
    await until(lambda: pod.notes.of("store_away"))
    link(yard).is_away = False
    assert (await opening).type == "ok"
    await until(lambda: pod.notes.of("store_back"))


async def test_in_the_middle_commits_go_on_and_guarded_calls_wait(yard: Yard) -> None:
    pod = await yard.pod()
    agents = [await pod.agent(f"r{number}") for number in range(RUNS)]
    for agent in agents:
        await agent.commit(b"before", level="remote")
    link(yard).is_away = True
    for number in range(50):
        for agent in agents:
            await agent.commit(b"%d" % number)
    note = await agents[1].call("note", "idempotent")
    await agents[1].outcome(note, result=1)
    guarded = asyncio.ensure_future(agents[0].call())
    remote = asyncio.ensure_future(agents[2].commit(b"far", level="remote"))
    await asyncio.sleep(0.1)
    assert not guarded.done()
    assert not remote.done()
    link(yard).is_away = False
    assert (await guarded).body["decision"] == "go"
    await remote
    for agent in (agents[0], agents[1], agents[3]):
        await until_shipped(yard, agent.run, b"49")
    assert await is_shipped(yard, "r2", b"far")
    assert not pod.notes.of("fenced")


async def test_a_swap_that_lands_and_is_not_answered_is_recognized(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent("r1")
    link(yard).lands_unanswered = 3
    await agent.commit(b"one", level="remote")
    await agent.commit(b"two", level="remote")
    assert (await yard.log()).checkpoint_bytes == b"two"
    assert not pod.notes.of("fenced")


async def test_a_former_lifes_records_wait_for_the_store(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar_module, "ADOPT_RETRY_S", 0.02)
    pod = await yard.pod()
    agents = [await pod.agent(f"r{number}") for number in range(RUNS)]
    link(yard).is_away = True
    for agent in agents:
        await agent.commit(b"kept")
    await pod.die()
    assert isinstance(pod.journal, MemoryJournal)
    pod = await yard.pod("pod1.s2", journal=pod.journal.survivors(reboot=True))
    await until(lambda: len(pod.notes.of("adopt_failed")) > 2 * RUNS)
    link(yard).is_away = False
    for agent in agents:
        await until_shipped(yard, agent.run, b"kept")


async def test_a_reboot_keeps_what_was_acknowledged_at_node(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent("r1")
    link(yard).is_away = True
    await agent.commit(b"one", level="node")
    await agent.commit(b"two", level="process")
    await pod.die()
    assert isinstance(pod.journal, MemoryJournal)
    journal = pod.journal.survivors(reboot=True)
    link(yard).is_away = False
    pod = await yard.pod("pod1.s2", journal=journal)
    assert (await pod.agent("r1", wait_s=1.0)).step == 2


async def test_the_fleet_is_not_taken_over_by_an_outage(yard: Yard) -> None:
    """Nobody may claim because he could not see: the lease runs anew when the store is back."""
    pod, other = await yard.pod(), await yard.pod("pod2.s1")
    agent = await pod.agent("r1")
    await agent.commit(b"one", level="remote")
    link(yard).is_away = True
    await asyncio.sleep(0.6)
    link(yard).is_away = False
    wire = await other.wire()
    with pytest.raises(RefusedError, match="owned_elsewhere"):
        await wire.open("r1", wait_s=0.1)
    await agent.commit(b"two", level="remote")


# The journal


async def test_a_dead_journal_leaves_the_store_alone(yard: Yard) -> None:
    pod = await yard.pod()
    assert isinstance(pod.journal, MemoryJournal)
    agent = await pod.agent("r1")
    pod.journal.die("fsync failed")
    seq = await agent.commit(b"one")
    assert pod.sidecar.keepers["r1"].shipper.log.shipped_seq >= seq
    assert await is_shipped(yard, "r1", b"one")
    go = await agent.call()
    await agent.outcome(go, result=1)
    assert await agent.ask("commit", {"step": 2, "level": "process", "schema": 1}, b"two")
    await agent.drop()
    assert (await pod.agent("r1")).step == 3


async def test_a_journal_that_dies_under_a_commit(yard: Yard) -> None:
    """The commit that met the error is acknowledged once it is in the store."""
    pod = await yard.pod()
    journal = pod.journal
    assert isinstance(journal, MemoryJournal)
    agent = await pod.agent("r1")
    link(yard).is_away = True
    real = journal.append

    def dying(rows: object, *, level: Level) -> "asyncio.Future[None]":
        journal.die("disk full")
        return real([], level=level)

    journal.append = dying  # type: ignore[method-assign]
    commit = asyncio.ensure_future(agent.commit(b"one"))
    await asyncio.sleep(0.05)
    assert not commit.done()
    link(yard).is_away = False
    await commit
    assert await is_shipped(yard, "r1", b"one")


# Disks


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of its own that a test can fill."""
    folder = Path(tempfile.mkdtemp(prefix="cckd"))
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if mount is None or os.geteuid() or subprocess.run(command, check=False).returncode:
        folder.rmdir()
        pytest.skip("this process may not mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()


def fill(folder: Path) -> Path:
    """Take all that is left."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4_096):
                pass
        except OSError:
            pass
    return path


async def test_a_full_disk_under_the_journal(small_disk: Path) -> None:
    """What was acknowledged stays; what comes goes to the store alone, and is told so."""
    async with make_yard() as yard:
        journal = await SqliteJournal.open(small_disk / "j", clock=SystemClock())
        pod = await yard.pod(journal=journal)
        agent = await pod.agent("r1")
        await agent.commit(b"one")
        fill(small_disk)
        state = os.urandom(1_000)
        for _ in range(30):
            state = os.urandom(200_000)
            await agent.commit(state)
        assert await is_shipped(yard, "r1", state) or not journal.is_dead
        await agent.commit(b"last", level="remote")
        await agent.finish({"sum": 3})
        await still_serves(pod)
        assert (await yard.log("r1")).state.status is Status.FINISHED


async def test_a_full_disk_under_the_store(small_disk: Path) -> None:
    """Commits at node go on, guarded calls wait, and all is shipped once there is room."""
    async with make_yard(DirectoryStore(small_disk / "s", clock=SystemClock())) as yard:
        pod = await yard.pod()
        agent = await pod.agent("r1")
        await agent.commit(b"one", level="remote")
        filler = fill(small_disk)
        state = os.urandom(100_000)
        await agent.commit(state)
        guarded = asyncio.ensure_future(agent.call())
        await until(lambda: pod.notes.of("ship_failed"))
        assert not guarded.done()
        assert (await yard.log("r1")).checkpoint_bytes == b"one"
        filler.unlink()
        go = await guarded
        assert await is_shipped(yard, "r1", state)
        await agent.outcome(go, result=1)
        call = pod.sidecar.keepers["r1"].log.state.calls[go.body["call"]]
        assert call.state is CallState.DONE
        await still_serves(pod)
