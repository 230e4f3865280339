"""A run whose objects are damaged goes on from what is whole, and fires nothing a second time."""

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core import past
from coatcheck_sidecar.core.model import OutcomeKind, Status
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.restore import read_head
from coatcheck_sidecar.ports import StoreError
from tests.engine.harness import OPEN, Link, Pod, RefusedError, Wire, Yard, link, still_serves
from tests.engine.test_damage import CHANGES, a_run_with_everything, noise, spoil


async def charged(agent: Wire, number: int) -> int:
    """One guarded call, done; its number."""
    go = await agent.call(args={"invoice": number})
    assert go.body["decision"] == "go"
    await agent.outcome(go, result=f"paid {number}")
    return int(go.body["call"])


async def chained(pod: Pod) -> tuple[Wire, dict[int, bytes]]:
    """`r1` with a sealed checkpoint a step: two bases, and mids; each step charged once."""
    agent = await pod.agent("r1", code_version="a")
    states = {0: noise(0, 150_000)}
    for step in range(1, 7):
        await charged(agent, step)
        whole = noise(90, 150_000) if step == 4 else states[step - 1]
        states[step] = whole[:-20_000] + noise(step, 20_000)
        await agent.commit(states[step], level="remote")
    return agent, states


async def step_of(yard: Yard) -> int:
    found = await read_head(yard.store, "r1")
    assert found is not None
    return found[0].step


@pytest.mark.parametrize("how", ["missing", "another", *CHANGES])
@pytest.mark.parametrize("part", ["base", "mid"])
async def test_the_newest_checkpoint_that_is_whole_is_current_again(
    yard: Yard, pod: Pod, part: str, how: str
) -> None:
    agent, states = await chained(pod)
    await agent.release()
    found = await read_head(yard.store, "r1")
    assert found is not None
    chain = found[0].chain
    assert chain.base is not None
    assert chain.mid is not None
    spoilt = chain.base if part == "base" else chain.mid
    bases = [kept.base for kept in found[0].kept if kept.base is not None]
    others = [base.name for base in bases if base != chain.base]
    await spoil(yard, spoilt.name, how=how, other=others[0])
    (verdict,) = await Outside(yard.store, SystemClock()).upkeep.verify("r1")
    assert [fault.name for fault in verdict.faults] == [spoilt.name]
    again = await pod.wire()
    opened = await again.open("r1", wait_s=1.0, code_version="a")
    step = opened.body["step"] - 1
    assert verdict.goes_on == f"it goes on from its checkpoint of step {step}"
    assert opened.attachment == states[step]
    assert step == (3 if part == "base" else 5)
    for redone in range(step + 1, 7):  # each answer is given again, none is asked for anew
        for _ in range(2):
            answer = await again.call(args={"invoice": redone})
            assert answer.body["decision"] == "replay"
        await again.commit(states[redone])
    assert (await again.call(args={"invoice": 7})).body["decision"] == "go"
    (note,) = pod.notes.of("repaired")
    assert (note["run"], note["step"]) == ("r1", step)
    (whole,) = await Outside(yard.store, SystemClock()).upkeep.verify("r1")
    assert not whole.faults
    await still_serves(pod)


async def test_an_answer_that_is_lost_is_said_to_be_lost(yard: Yard, pod: Pod) -> None:
    agent = await pod.agent("r1", input=b"\xa2in")
    await agent.commit(b"one", level="remote")
    go = await agent.call(args={"invoice": 1})
    await agent.outcome(go, result="z" * 10_000)
    await agent.release()
    found = await read_head(yard.store, "r1")
    assert found is not None
    (body,) = found[0].named_objects()
    await spoil(yard, body.name, how="flipped")
    again = await pod.wire()
    opened = await again.open("r1", wait_s=1.0)
    assert (opened.attachment, opened.body["step"]) == (b"one", 2)
    with pytest.raises(RefusedError, match="took place") as caught:
        await again.call(args={"invoice": 1})
    assert caught.value.code == "held"
    call = (await yard.log()).state.calls[go.body["call"]]
    assert call.outcome is not None
    assert call.outcome.kind is OutcomeKind.NOT_RETAINED


async def test_answers_lost_from_packs_leave_all_others(yard: Yard, pod: Pod) -> None:
    names = await a_run_with_everything(yard, pod)
    await spoil(yard, names["body"], how="missing")
    again = await pod.wire()
    await again.open("r1", wait_s=1.0)
    asked = {"n": 7, "pad": "x" * 100}
    answer = await again.call("note", "idempotent", args=asked)
    assert answer.body["decision"] == "replay"
    answer = await again.call("read", "idempotent", args={"page": 1})
    assert answer.body["decision"] == "go"  # it may be sent again, and is


async def test_a_lost_input_holds_the_run(yard: Yard, pod: Pod) -> None:
    agent = await pod.agent("r1", input=b"\xc5\x27\x10" + bytes(10_000))
    await agent.release()
    found = await read_head(yard.store, "r1")
    assert found is not None
    (body,) = found[0].named_objects()
    await spoil(yard, body.name, how="missing")
    with pytest.raises(RefusedError, match="damaged: run r1 is held"):
        await (await pod.wire()).open("r1")


async def test_a_run_that_is_over_is_not_written_to(yard: Yard, pod: Pod) -> None:
    agent = await pod.agent("r1")
    await agent.commit(noise(0, 150_000), level="remote")
    await agent.finish("the end")
    found = await read_head(yard.store, "r1")
    assert found is not None
    assert found[0].chain.base is not None
    await spoil(yard, found[0].chain.base.name, how="missing")
    with pytest.raises(RefusedError, match="damaged"):
        await (await pod.wire()).open("r1")
    assert await read_head(yard.store, "r1") == found
    (verdict,) = await Outside(yard.store, SystemClock()).upkeep.verify("r1")
    assert verdict.goes_on == "it is over"


async def test_calls_beyond_the_horizon_are_in_doubt_and_never_new(
    yard: Yard, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base that is left is older than the records that are kept."""
    monkeypatch.setattr(past, "BYTES_MAX", 500)
    agent = await pod.agent("r1")
    state = noise(0, 150_000)
    for step in range(1, 13):
        await charged(agent, step)
        state = noise(90, 150_000) if step == 3 else state
        state = state[:-20_000] + noise(step, 20_000)
        await agent.commit(state, level="remote")
    await agent.release()
    found = await read_head(yard.store, "r1")
    assert found is not None
    head = found[0]
    assert head.chain.base is not None
    assert head.kept[0].base != head.chain.base
    assert head.kept[0].seq < head.horizon
    await spoil(yard, head.chain.base.name, how="missing")
    again = await pod.wire()
    step = (await again.open("r1", wait_s=1.0)).body["step"]
    assert step == head.kept[0].step + 1
    with pytest.raises(RefusedError, match="record_may_be_missing") as caught:
        await again.call(args={"invoice": step})
    assert caught.value.code == "in_doubt"
    answer = await again.call("note", "idempotent", args={})
    assert answer.body["decision"] == "go"
    checkpoint = (await yard.log()).state.checkpoint
    assert (checkpoint.step_high, checkpoint.blind) == (12, 12)


async def test_a_store_that_goes_away_meanwhile_changes_nothing(
    yard: Yard, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _ = await chained(pod)
    await agent.release()
    found = await read_head(yard.store, "r1")
    assert found is not None
    assert found[0].chain.mid is not None
    await spoil(yard, found[0].chain.mid.name, how="missing")
    swap = Link.swap

    async def away(self: Link, name: str, data: bytes, *, expected: str | None) -> str:
        if name == "runs/r1/head" and link(yard).is_away is False:
            raise StoreError("not now")
        return await swap(self, name, data, expected=expected)

    with monkeypatch.context() as patch:
        patch.setattr(Link, "swap", away)
        wire = await pod.wire()
        opening = wire.send("open", {**OPEN, "run": "r1", "wait_s": 3.0})
        while not pod.notes.of("ship_failed"):
            await SystemClock().sleep(0.01)
    reply = await opening
    assert (reply.type, reply.body["step"]) == ("ok", 6)


async def test_two_who_find_the_damage_at_once_write_one_head(yard: Yard, pod: Pod) -> None:
    agent, states = await chained(pod)
    await agent.release()
    found = await read_head(yard.store, "r1")
    assert found is not None
    assert found[0].chain.mid is not None
    await spoil(yard, found[0].chain.mid.name, how="missing")
    other = await yard.pod("pod2.s1")
    wires = [await pod.wire(), await other.wire()]
    asked = {**OPEN, "run": "r1", "wait_s": 2.0}
    replies = [await sent for sent in [wire.send("open", asked) for wire in wires]]
    codes = sorted(reply.body.get("code", "ok") for reply in replies)
    assert codes == ["ok", "owned_elsewhere"]
    (won,) = (reply for reply in replies if reply.type == "ok")
    assert won.attachment == states[5]
    head = await read_head(yard.store, "r1")
    assert head is not None
    assert head[0].status is Status.OWNED
