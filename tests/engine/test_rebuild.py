"""A head that is damaged or gone is made anew of a copy, and the run is held and blind."""

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.rebuild import Rebuilt
from coatcheck_sidecar.engine.restore import read_head
from tests.engine.harness import FAST, Pod, RefusedError, Wire, Yard
from tests.engine.test_damage import CHANGES, noise, spoil
from tests.engine.test_fallback import chained, charged


def outside(yard: Yard) -> Outside:
    return Outside(yard.store, SystemClock(), settings=FAST)


async def rebuilt(yard: Yard) -> Rebuilt:
    return await outside(yard).rebuild("r1", by="ada")


async def let_go_on(yard: Yard, pod: Pod) -> Wire:
    await outside(yard).command(Command(id="0b", run="r1", what="retry", by="ada"))
    agent = await pod.wire()
    await agent.open("r1", wait_s=1.0)
    return agent


@pytest.mark.parametrize("how", ["missing", *CHANGES])
async def test_the_newest_copy_whose_objects_are_there_is_taken(
    yard: Yard, pod: Pod, how: str
) -> None:
    agent, states = await chained(pod)
    await charged(agent, 7)  # after the last object: nobody knows of it then
    await agent.release()
    before = await read_head(yard.store, "r1")
    assert before is not None
    await spoil(yard, head_name("r1"), how=how)
    spoilt = await yard.store.get(head_name("r1"))
    with pytest.raises(RefusedError):
        await (await pod.wire()).open("r1", create=False)
    found = await rebuilt(yard)
    assert found.step == 6
    aside = await yard.store.get(found.aside) if found.aside else None
    assert (aside and aside.data) == (spoilt and spoilt.data)
    after = await read_head(yard.store, "r1")
    assert after is not None
    assert after[0].status is Status.HELD
    assert after[0].epoch > before[0].epoch
    assert "rebuilt from step 6" in after[0].reason
    with pytest.raises(RefusedError, match="held"):
        await pod.agent("r1")
    again = await let_go_on(yard, pod)
    with pytest.raises(RefusedError, match="record_may_be_missing"):
        await again.call(args={"invoice": 7})
    assert (await yard.log()).checkpoint_bytes == states[6]
    (verdict,) = await outside(yard).upkeep.verify("r1")
    assert not verdict.faults


async def test_a_copy_whose_base_is_damaged_too_gives_way_to_an_older_one(
    yard: Yard, pod: Pod
) -> None:
    agent, states = await chained(pod)
    await agent.release()
    before = await read_head(yard.store, "r1")
    assert before is not None
    assert before[0].chain.base is not None
    await spoil(yard, before[0].chain.base.name, how="flipped")
    await spoil(yard, head_name("r1"), how="half")
    assert (await rebuilt(yard)).step == 3
    again = await let_go_on(yard, pod)
    assert again.step == 4
    assert (await yard.log()).checkpoint_bytes == states[3]


async def test_what_can_not_be_rebuilt_is_said(yard: Yard, pod: Pod) -> None:
    with pytest.raises(Refusal, match="there is no run r1"):
        await rebuilt(yard)
    agent = await pod.agent("r1")
    await agent.commit(b"small", level="remote")
    with pytest.raises(Refusal, match="the head of run r1 is whole"):
        await rebuilt(yard)
    await agent.release()
    await spoil(yard, head_name("r1"), how="zeros")
    with pytest.raises(Refusal, match="no object of it has a copy"):
        await rebuilt(yard)


async def test_bodies_and_strangers_are_no_copies(yard: Yard, pod: Pod) -> None:
    agent = await pod.agent("r1", input=b"\xc5\x27\x10" + bytes(10_000))
    await agent.commit(noise(0, 150_000), level="remote")
    go = await agent.call("read", "idempotent", args={"page": 1})
    await agent.outcome(go, result="z" * 10_000)
    await agent.release()
    await yard.store.put("runs/r1/o/notes.txt", b"?")
    await spoil(yard, head_name("r1"), how="missing")
    found = await rebuilt(yard)
    assert (found.step, found.aside) == (1, "")
