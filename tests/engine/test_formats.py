"""Sidecars of two formats side by side: a run goes from one to the other and back."""

from dataclasses import replace

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core import objects
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.record import Created
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.restore import read_head
from tests.engine.harness import FAST, RefusedError, Yard
from tests.engine.test_damage import noise
from tests.engine.test_fallback import charged


async def format_of(yard: Yard) -> tuple[int, int]:
    """Of the head, and how many checkpoints it names."""
    found = await read_head(yard.store, "r1")
    assert found is not None
    return found[0].format, len(found[0].kept)


async def test_a_run_goes_from_one_format_to_the_other_and_back(yard: Yard) -> None:
    pods = {
        number: await yard.pod(f"pod{number}.s1", settings=replace(FAST, store_format=number))
        for number in (1, 2)
    }
    state, step = noise(0, 60_000), 0
    for number, kept in ((1, 1), (2, 3), (1, 1), (2, 3)):
        agent = await pods[number].agent("r1")
        assert agent.step == step + 1
        for _ in range(3):
            step += 1
            await charged(agent, step)
            state = state[:-20_000] + noise(step, 20_000)
            await agent.commit(state, level="remote")
        written, there = await format_of(yard)
        assert written == number
        assert there >= kept
        if number == 1:
            assert there == 1
        await agent.release()
        assert (await yard.log()).checkpoint_bytes == state
    last = await pods[1].agent("r1")
    assert (await last.call(args={"invoice": step + 1})).body["decision"] == "go"


async def test_who_reads_only_the_older_format_leaves_a_newer_head_alone_and_says_so(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = await yard.pod("pod2.s1")
    agent = await new.agent("r1")
    await agent.commit(b"one", level="remote")
    await agent.release()
    before = await read_head(yard.store, "r1")
    with monkeypatch.context() as patch:
        patch.setattr(objects, "FORMAT", 1)
        old = await yard.pod("pod1.s1", settings=replace(FAST, store_format=1))
        wire = await old.wire()
        with pytest.raises(RefusedError, match=r"takes a reader of 2.*upgrade it") as caught:
            await wire.open("r1", wait_s=0.3)
        assert (caught.value.code, caught.value.body["retry"]) == ("unavailable", "later")
    assert await read_head(yard.store, "r1") == before
    assert (await (await new.wire()).open("r1")).attachment == b"one"


async def test_whoever_comes_from_outside_leaves_a_head_in_its_format(yard: Yard) -> None:
    """The command line does not know which sidecars run: a head that it made new would be lost."""
    out = Outside(yard.store, SystemClock(), settings=FAST)
    await out.submit(Created(), run="r1")
    assert (await format_of(yard))[0] == 1
    for number in (1, 2):
        pod = await yard.pod(f"pod{number}.s1", settings=replace(FAST, store_format=number))
        agent = await pod.agent("r1")
        await agent.commit(b"state", level="remote")
        await agent.release()
        signal = Command(id=f"0{number}", run="r1", what="signal", by="bob", name="go")
        await out.command(signal)
        assert (await format_of(yard))[0] == number
