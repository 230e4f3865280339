"""`verify` names each object that is not what was written, and finds nothing in what is whole."""

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.restore import read_head
from coatcheck_sidecar.engine.verify import Verdict
from coatcheck_sidecar.ports import Stored
from tests.engine.harness import Pod, RefusedError, Yard
from tests.engine.test_damage import CHANGES, a_run_with_everything, noise, spoil


async def verified(yard: Yard, run: str = "r1") -> Verdict:
    (verdict,) = await Outside(yard.store, SystemClock()).upkeep.verify(run)
    return verdict


async def test_a_run_with_everything_is_whole(yard: Yard, pod: Pod) -> None:
    named = await a_run_with_everything(yard, pod)
    verdict = await verified(yard)
    assert (verdict.faults, verdict.status, verdict.step) == ((), "ready", 4)
    found = await read_head(yard.store, "r1")
    assert found is not None
    older = {ref.name for k in found[0].kept for ref in (k.base, k.mid) if ref is not None}
    assert verdict.objects == 1 + len(older | {*named.values()})
    listed = await yard.store.list("runs/r1/")
    assert verdict.unnamed == len(listed) - verdict.objects
    stored = [await yard.store.get(name) for name in {head_name("r1"), *older, *named.values()}]
    assert verdict.bytes == sum(len(each.data) for each in stored if each is not None)


@pytest.mark.parametrize("part", ["base", "mid", "pack", "body"])
@pytest.mark.parametrize("how", ["missing", "another", *CHANGES])
async def test_each_object_that_is_not_what_was_written_is_named(
    yard: Yard, pod: Pod, part: str, how: str
) -> None:
    named = await a_run_with_everything(yard, pod)
    other = named["mid" if part == "base" else "base"]
    await spoil(yard, named[part], how=how, other=other)
    (fault,) = (await verified(yard)).faults
    assert (fault.name, fault.part) == (named[part], part)
    assert named[part] in fault.why
    goes_on = (await verified(yard)).goes_on
    wire = await pod.wire()
    if part in ("base", "pack"):  # as whoever opens it finds
        assert goes_on == "it is held"
        with pytest.raises(RefusedError, match="damaged"):
            await wire.open("r1")
    else:
        opened = await wire.open("r1", wait_s=1.0)
        assert goes_on == f"it goes on from its checkpoint of step {opened.body['step'] - 1}"


@pytest.mark.parametrize("how", ["missing", "another", *CHANGES])
async def test_a_head_that_is_not_what_was_written_is_named(yard: Yard, pod: Pod, how: str) -> None:
    await a_run_with_everything(yard, pod)
    await (await pod.agent("r2")).release()
    await spoil(yard, head_name("r1"), how=how, other=head_name("r2"))
    verdict = await verified(yard)
    (fault,) = verdict.faults
    assert (fault.name, fault.part, verdict.status) == (head_name("r1"), "head", "")
    assert verdict.unnamed > 3
    both = await Outside(yard.store, SystemClock()).upkeep.verify(None)
    assert {each.run: bool(each.faults) for each in both} == {"r1": True, "r2": False}


async def test_an_object_that_is_dropped_meanwhile_is_no_damage(
    yard: Yard, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await pod.agent("r1")
    for number in range(5):
        await agent.commit(noise(number, 150_000), level="remote")
    get = yard.store.get
    moved: list[str] = []

    async def late(name: str) -> Stored | None:
        if "/o/" in name and not moved:
            moved.append(name)
            for number in range(5, 10):
                await agent.commit(noise(number, 150_000), level="remote")
            await yard.store.delete(name)
        return await get(name)

    monkeypatch.setattr(yard.store, "get", late)
    assert not (await verified(yard)).faults
    assert moved


async def test_what_is_not_there_is_said(yard: Yard) -> None:
    with pytest.raises(Exception, match="there is no run r9"):
        await verified(yard, "r9")
    assert await Outside(yard.store, SystemClock()).upkeep.verify(None) == []
