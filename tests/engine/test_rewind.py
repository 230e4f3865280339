"""`coatcheck rewind`: an older checkpoint is current again, and what was done stays done."""

import itertools

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.engine.outside import Done, Outside
from coatcheck_sidecar.engine.restore import read_head
from tests.engine.harness import FAST, Pod, RefusedError, Wire, Yard, names, until
from tests.engine.test_damage import noise, spoil
from tests.engine.test_fallback import charged

IDS = itertools.count(1)
"""A command is carried out once under its id."""


async def rewound(yard: Yard, *, to: int = 0, version: str = "", run: str = "r1") -> Done:
    id_ = f"{next(IDS):04x}"
    command = Command(id=id_, run=run, what="rewind", by="ada", why="bad", to=to, name=version)
    out = Outside(yard.store, SystemClock(), settings=FAST)
    return await out.rewind(command, timeout_s=5.0)


async def stepped(agent: Wire, *steps: int) -> None:
    for step in steps:
        await charged(agent, step)
        await agent.commit(b"state %d" % step, level="remote")


async def kept(yard: Yard) -> dict[int, int]:
    """By step: the checkpoint's place in the log."""
    found = await read_head(yard.store, "r1")
    assert found is not None
    return {each.step: each.seq for each in found[0].kept}


async def test_a_released_run_goes_back_and_its_calls_are_not_made_again(
    yard: Yard, pod: Pod
) -> None:
    agent = await pod.agent("r1")
    await stepped(agent, 1, 2, 3)
    await agent.release()
    done = await rewound(yard, to=(await kept(yard))[1])
    assert (done.refused, done.status) == ("", Status.READY)
    again = await pod.wire()
    opened = await again.open("r1")
    assert (opened.attachment, opened.body["step"]) == (b"state 1", 2)
    answer = await again.call(args={"invoice": 2})
    assert answer.body["decision"] == "replay"
    await again.commit(b"state 2b")
    with pytest.raises(RefusedError) as caught:  # it could be the old one in other words
        await again.call(args={"invoice": 33})
    assert caught.value.code == "replay_divergence"
    assert (await again.call(args={"invoice": 3})).body["decision"] == "replay"
    await again.commit(b"state 3b")
    assert (await again.call(args={"invoice": 4})).body["decision"] == "go"
    log = (await yard.log()).state
    assert (log.checkpoint.step, log.checkpoint.step_high) == (3, 3)


async def test_an_agent_at_work_is_stopped_first(yard: Yard, pod: Pod) -> None:
    agent = await pod.agent("r1")
    await stepped(agent, 1, 2, 3)
    done = await rewound(yard, to=(await kept(yard))[2])
    assert (done.refused, done.status) == ("", Status.READY)
    await until(lambda: [push for push in agent.pushes if push.type == "fenced"])
    with pytest.raises(RefusedError, match="fenced"):
        await agent.commit(b"late")
    back = await pod.wire(incarnation=agent.incarnation)  # it doesn't know yet, and comes back
    with pytest.raises(RefusedError, match="fenced"):
        await back.open("r1", create=False, resume={"epoch": agent.epoch, "calls": {}})
    again = await pod.wire()
    assert (await again.open("r1")).attachment == b"state 2"


async def test_the_newest_checkpoint_of_a_release_is_kept(yard: Yard, pod: Pod) -> None:
    first = await pod.agent("r1", code_version="a")
    await stepped(first, 1, 2)
    await first.release()
    second = await pod.agent("r1", code_version="b")
    state = noise(0, 150_000)
    for step in range(3, 11):
        await charged(second, step)
        state = state[:-20_000] + noise(step, 20_000)
        await second.commit(state, level="remote")
    await second.release("error")
    done = await rewound(yard, version="a")
    assert not done.refused
    third = await pod.wire()
    opened = await third.open("r1", code_version="a", wait_s=2.0)
    assert (opened.attachment, opened.body["step"]) == (b"state 2", 3)
    assert (await third.call(args={"invoice": 3})).body["decision"] == "replay"
    done = await rewound(yard, version="nobody")
    assert "no checkpoint of code version 'nobody' is kept of run r1" in done.refused


async def test_a_held_run_and_a_parked_one_go_on_from_there(yard: Yard, pod: Pod) -> None:
    agent = await pod.agent("r1")
    await stepped(agent, 1, 2)
    with pytest.raises(RefusedError, match="parked"):
        await agent.ask("wait", {"name": "approval", "step": 3, "signals": []}, b"\xc0")
    done = await rewound(yard, to=(await kept(yard))[1])
    assert (done.refused, done.status) == ("", Status.READY)
    assert await names(yard, "parked/") == []
    assert len(await names(yard, "ready/")) == 1
    held = await pod.wire()
    await held.open("r1")
    await held.release("held")
    assert (await yard.log()).state.status is Status.HELD
    done = await rewound(yard, to=(await kept(yard))[1])
    assert (done.refused, done.status) == ("", Status.READY)


async def test_a_signal_that_was_taken_since_is_there_again(yard: Yard, pod: Pod) -> None:
    agent = await pod.agent("r1")
    await agent.commit(b"one", level="remote")
    out = Outside(yard.store, SystemClock(), settings=FAST)
    value = b"\xa3yes"
    await out.command(
        Command(id="0a", run="r1", what="signal", by="bob", name="approval", value=value)
    )
    got = await agent.ask("wait", {"name": "approval", "step": 2, "signals": []}, b"\xc0")
    await agent.commit(b"two", level="remote", signals=[got.body["signal"]])
    await agent.release()
    assert not (await yard.log()).state.signals
    await rewound(yard, to=(await kept(yard))[1])
    again = await pod.wire()
    await again.open("r1")
    same = await again.ask("wait", {"name": "approval", "step": 2, "signals": []}, b"\xc0")
    assert (same.attachment, same.body["signal"]) == (value, got.body["signal"])


async def test_what_can_not_be_gone_back_to_is_refused_with_what_there_is(
    yard: Yard, pod: Pod
) -> None:
    agent = await pod.agent("r1")
    await stepped(agent, 1)
    (seq,) = (await kept(yard)).values()
    done = await rewound(yard, to=seq + 1000)
    assert done.refused == (
        f"no checkpoint at {seq + 1000} is kept of run r1; there are: {seq} (step 1)"
    )
    await agent.commit(b"still its agent's")
    await agent.finish()
    done = await rewound(yard, to=seq)
    assert "is finished" in done.refused
    with pytest.raises(Exception, match="there is no run r9"):
        await rewound(yard, to=1, run="r9")


async def test_a_checkpoint_that_is_damaged_is_no_place_to_go_to(yard: Yard, pod: Pod) -> None:
    agent = await pod.agent("r1")
    for step in range(1, 4):
        await agent.commit(noise(step, 150_000), level="remote")
    await agent.release()
    found = await read_head(yard.store, "r1")
    assert found is not None
    oldest = found[0].kept[0]
    assert oldest.base is not None
    await spoil(yard, oldest.base.name, how="flipped")
    done = await rewound(yard, to=oldest.seq)
    assert f"the checkpoint at {oldest.seq} can't be read: {oldest.base.name}" in done.refused
    assert (await yard.log()).state.status is Status.READY


async def test_a_run_that_somebody_let_go_on_meanwhile_is_not_taken_from_its_owner(
    yard: Yard, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the stop for a rewind and the rewind itself."""
    agent = await pod.agent("r1")
    await stepped(agent, 1, 2)
    to = (await kept(yard))[1]
    taken: list[Wire] = []
    commanded = Outside.command

    async def stopped(out: Outside, command: Command, *, timeout_s: float) -> Done:
        done = await commanded(out, command, timeout_s=timeout_s)
        retry = Command(id="0d", run="r1", what="retry", by="bob")
        await commanded(out, retry, timeout_s=timeout_s)
        taken.append(await (await yard.pod("pod2.s1")).agent("r1"))
        return done

    monkeypatch.setattr(Outside, "command", stopped)
    done = await rewound(yard, to=to)
    assert "run r1 is owned by now, since somebody let it go on" in done.refused
    await taken[0].commit(b"its own", level="remote")
    found = await read_head(yard.store, "r1")
    assert found is not None
    assert (found[0].step, found[0].epoch) == (3, taken[0].epoch)
