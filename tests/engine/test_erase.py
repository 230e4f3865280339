"""`delete` leaves nothing of a run that is over, and touches none that is not."""

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.engine import erase as erase_module
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.ports import StoreError
from tests.engine.harness import Pod, RefusedError, Yard
from tests.engine.test_damage import noise, spoil


async def over(pod: Pod, run: str) -> None:
    agent = await pod.agent(run)
    await agent.commit(noise(0, 150_000), level="remote")
    await agent.finish("the end")
    await agent.drop()


def outside(yard: Yard) -> Outside:
    return Outside(yard.store, SystemClock())


async def test_nothing_is_left_of_it_and_all_of_others(yard: Yard, pod: Pod) -> None:
    for run in ("r1", "r1-2"):
        await over(pod, run)
    await yard.store.put("owners/gone.s1/in/r1-00ff", b"to the one")
    await yard.store.put("owners/gone.s1/in/r1-2-00ff", b"to the other")
    erased = await outside(yard).upkeep.erase("r1")
    assert (erased.objects >= 2, erased.commands) == (True, 1)
    assert not await yard.store.list("runs/r1/")
    assert [e.name for e in await yard.store.list("owners/gone.s1/")] == [
        "owners/gone.s1/in/r1-2-00ff"
    ]
    assert not (await outside(yard).upkeep.verify("r1-2"))[0].faults
    with pytest.raises(Exception, match="there is no run r1"):
        await outside(yard).upkeep.erase("r1")
    again = await pod.agent("r1")
    assert (again.step, again.epoch) == (1, 1)


@pytest.mark.parametrize("how", ["owned", "ready"])
async def test_what_goes_on_is_left_alone(yard: Yard, pod: Pod, how: str) -> None:
    agent = await pod.agent("r1")
    await agent.commit(b"one", level="remote")
    if how == "ready":
        await agent.release()
    before = await yard.store.list("runs/r1/")
    with pytest.raises(Exception, match=rf"is {how}: `coatcheck cancel r1` first"):
        await outside(yard).upkeep.erase("r1")
    assert await yard.store.list("runs/r1/") == before


async def test_it_is_begun_again_where_it_stopped(
    yard: Yard, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    await over(pod, "r1")
    delete, deleted = yard.store.delete, []

    async def fails_late(name: str) -> None:
        deleted.append(name)
        if name == head_name("r1"):
            raise StoreError("the store is away")
        await delete(name)

    with monkeypatch.context() as patch:
        patch.setattr(yard.store, "delete", fails_late)
        with pytest.raises(StoreError):
            await outside(yard).upkeep.erase("r1")
    assert deleted[-1] == head_name("r1")
    wire = await pod.wire()
    with pytest.raises(RefusedError, match="damaged"):  # no agent begins it anew meanwhile
        await wire.open("r1")
    assert (await outside(yard).upkeep.erase("r1")).objects == 1
    assert not await yard.store.list("runs/r1/")


async def test_what_has_no_head_may_be_being_made(
    yard: Yard, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    await over(pod, "r1")
    await yard.store.delete(head_name("r1"))
    with pytest.raises(Exception, match="may be being made"):
        await outside(yard).upkeep.erase("r1")
    monkeypatch.setattr(erase_module, "MADE_S_MAX", 0.0)
    await outside(yard).upkeep.erase("r1")
    assert not await yard.store.list("runs/r1/")


async def test_a_run_with_a_damaged_head_can_be_erased(yard: Yard, pod: Pod) -> None:
    await over(pod, "r1")
    await spoil(yard, head_name("r1"), how="half")
    await outside(yard).upkeep.erase("r1")
    assert not await yard.store.list("runs/r1/")
