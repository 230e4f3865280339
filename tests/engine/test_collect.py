"""Collection deletes what no head names, and nothing else, whoever does what meanwhile."""

import asyncio
from dataclasses import replace

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.engine.collect import collect
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.restore import read_head
from coatcheck_sidecar.engine.sweep import sweep_run
from coatcheck_sidecar.ports import StoreError
from tests.engine.harness import FAST, Pod, Wire, Yard, link, names, until
from tests.engine.test_damage import a_run_with_everything, noise, spoil
from tests.engine.test_fallback import charged


async def sealed_often(agent: Wire, steps: int, *, first: int = 1) -> None:
    """Each state replaces its base, and leaves an object behind."""
    for step in range(first, first + steps):
        await charged(agent, step)
        await agent.commit(noise(step, 60_000), level="remote")


async def whole(yard: Yard, run: str = "r1") -> None:
    (verdict,) = await Outside(yard.store, SystemClock()).upkeep.verify(run)
    assert not verdict.faults


async def test_what_no_head_names_goes_and_all_else_stays(yard: Yard, pod: Pod) -> None:
    agent = await pod.agent("r1")
    await sealed_often(agent, 9)
    before = await names(yard, "runs/r1/o/")
    dry = await collect(yard.store, "r1", grace_s=0.0, is_dry=True)
    assert await names(yard, "runs/r1/o/") == before
    found = await collect(yard.store, "r1", grace_s=0.0)
    assert (found.deleted, found.bytes) == (dry.deleted, dry.bytes)
    after = await names(yard, "runs/r1/o/")
    assert (found.objects, found.deleted) == (len(before), len(before) - len(after))
    assert found.deleted > 3
    await whole(yard)
    assert (await collect(yard.store, "r1", grace_s=0.0)).deleted == 0
    await agent.commit(noise(77, 60_000), level="remote")
    await agent.release()
    assert (await (await pod.wire()).open("r1")).attachment == noise(77, 60_000)
    head = await read_head(yard.store, "r1")
    assert head is not None
    assert {ref.name for k in head[0].kept for ref in (k.base, k.mid) if ref} <= {
        *await names(yard, "runs/r1/o/")
    }


async def test_what_was_written_lately_is_left_alone(yard: Yard, pod: Pod) -> None:
    agent = await pod.agent("r1")
    await sealed_often(agent, 9)
    assert (await collect(yard.store, "r1")).deleted == 0
    assert (await collect(yard.store, "r1", grace_s=0.0)).deleted > 3


async def test_an_upload_under_way_is_not_taken(yard: Yard, pod: Pod) -> None:
    """Of this epoch, at or above the head's floor: it may be named yet. Below it never will be."""
    agent = await pod.agent("r1")
    await sealed_often(agent, 2)
    found = await read_head(yard.store, "r1")
    assert found is not None
    epoch, floor = found[0].epoch, found[0].floor
    assert floor == found[0].seq + 1
    late = [f"runs/r1/o/{epoch}-{floor - 1}-{'0' * 16}", f"runs/r1/o/{epoch - 1}-999-{'0' * 16}"]
    coming = [f"runs/r1/o/{epoch}-{floor}-{'0' * 16}", f"runs/r1/o/{epoch + 1}-1-{'0' * 16}"]
    foreign = "runs/r1/o/notes.txt"
    for name in [*late, *coming, foreign]:
        await yard.store.put(name, b"?")
    await collect(yard.store, "r1", grace_s=0.0)
    left = await names(yard, "runs/r1/o/")
    assert not set(late) & set(left)
    assert {*coming, foreign} <= set(left)


async def test_the_floor_stays_below_an_upload_in_progress(yard: Yard, pod: Pod) -> None:
    agent = await pod.agent("r1")
    keeper = pod.sidecar.keepers["r1"]
    at = keeper.log.state.seq + 1
    keeper.log.uploading["x"] = at
    await sealed_often(agent, 2)
    found = await read_head(yard.store, "r1")
    assert found is not None
    assert found[0].floor == at < found[0].seq
    keeper.log.uploading.clear()
    await agent.commit(b"x", level="remote")
    found = await read_head(yard.store, "r1")
    assert found is not None
    assert found[0].floor == found[0].seq + 1


@pytest.mark.parametrize("part", ["head", "pack"])
async def test_nothing_goes_by_a_head_or_pack_that_can_not_be_read(
    yard: Yard, pod: Pod, part: str
) -> None:
    named = await a_run_with_everything(yard, pod)
    name = {"head": head_name("r1"), **named}[part]
    await spoil(yard, name, how="flipped")
    before = await names(yard, "runs/r1/")
    found = await collect(yard.store, "r1", grace_s=0.0)
    assert found.deleted == 0
    assert name in found.left
    assert await names(yard, "runs/r1/") == before


async def test_what_has_no_head_is_left_alone(yard: Yard) -> None:
    await yard.store.put(f"runs/r1/o/1-1-{'0' * 16}", b"?")
    found = await collect(yard.store, "r1", grace_s=0.0)
    assert (found.objects, found.deleted) == (1, 0)
    assert "coatcheck delete" in found.left
    assert (await collect(yard.store, "r2")).left == ""


async def test_a_collector_that_was_stopped_deletes_nothing_that_lives(
    yard: Yard, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It listed and read long ago; owners changed and the run was set back since."""
    agent = await pod.agent("r1")
    await sealed_often(agent, 6)
    delete, go_on = yard.store.delete, asyncio.Event()

    async def stopped(name: str) -> None:
        if "/o/" in name:
            await go_on.wait()
        await delete(name)

    monkeypatch.setattr(yard.store, "delete", stopped)
    zombie = asyncio.ensure_future(collect(yard.store, "r1", grace_s=0.0))
    await asyncio.sleep(0.05)
    await sealed_often(agent, 3, first=7)
    await agent.release()
    other = await yard.pod("pod2.s1")
    taken = await other.agent("r1")
    await sealed_often(taken, 3, first=10)
    go_on.set()
    assert (await zombie).deleted > 0
    await whole(yard)
    await taken.release()
    assert (await (await pod.wire()).open("r1")).attachment == noise(12, 60_000)


async def test_two_collectors_at_once_do_no_harm(yard: Yard, pod: Pod) -> None:
    agent = await pod.agent("r1")
    await sealed_often(agent, 9)
    both = await asyncio.gather(*(collect(yard.store, "r1", grace_s=0.0) for _ in range(2)))
    assert all(not each.left for each in both)
    await whole(yard)


async def test_answers_that_may_be_given_again_stay(yard: Yard, pod: Pod) -> None:
    """Bodies of calls that are over, in packs and in the head, as long as a run can go back."""
    agent = await pod.agent("r1")
    await agent.commit(noise(0, 60_000), level="remote")
    for step in range(3):
        for number in range(20):
            go = await agent.call(args={"n": number, "step": step, "pad": "x" * 100})
            await agent.outcome(go, result="y" * (10_000 if number == 7 else 300))
        await agent.commit(noise(0, 60_000) + bytes([step]), level="remote")
    await agent.release()
    found = await read_head(yard.store, "r1")
    assert found is not None
    assert found[0].packs
    await collect(yard.store, "r1", grace_s=0.0)
    out = Outside(yard.store, SystemClock())
    command = Command(id="0f", run="r1", what="rewind", by="ada", to=found[0].kept[0].seq)
    assert not (await out.rewind(command)).refused
    again = await pod.wire()
    await again.open("r1")
    for step in range(3):
        for number in range(20):
            asked = {"n": number, "step": step, "pad": "x" * 100}
            assert (await again.call(args=asked)).body["decision"] == "replay"
        await again.commit(b"s%d" % step)


async def test_an_owner_collects_its_own_runs(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, collect_s=0.05))
    agent = await pod.agent("r1")
    await sealed_often(agent, 3)
    await until(lambda: pod.notes.of("collected"))
    assert pod.notes.of("collected")[-1]["run"] == "r1"
    link(yard).is_away = True
    assert await sweep_run(pod.sidecar.doors, "r1") is None
    link(yard).is_away = False
    assert pod.notes.of("look_failed")


async def test_a_store_that_goes_away_in_the_middle_leaves_the_rest_for_the_next_time(
    yard: Yard, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await pod.agent("r1")
    await sealed_often(agent, 9)
    delete = yard.store.delete
    gone: list[str] = []

    async def away(name: str) -> None:
        if len(gone) == 2:
            raise StoreError("not now")
        gone.append(name)
        await delete(name)

    with monkeypatch.context() as patch:
        patch.setattr(yard.store, "delete", away)
        with pytest.raises(StoreError):
            await collect(yard.store, "r1", grace_s=0.0)
    assert (await collect(yard.store, "r1", grace_s=0.0)).deleted > 0
    await whole(yard)
