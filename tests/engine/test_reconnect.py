"""A sidecar's restart under a live agent, and connections that break at bad moments."""

import asyncio

import pytest

from coatcheck_sidecar.core.model import CallState, Status
from coatcheck_sidecar.engine.calls import Calls
from coatcheck_sidecar.ports import StoreError
from coatcheck_sidecar.stores.memory_journal import MemoryJournal
from tests.engine.harness import Pod, RefusedError, Wire, Yard, link, until


async def restart(yard: Yard, pod: Pod, *, start: str = "s2") -> Pod:
    """The pod's sidecar died and came back, with the journal that it left."""
    await pod.die()
    assert isinstance(pod.journal, MemoryJournal)
    me = f"{pod.sidecar.me.partition('.')[0]}.{start}"
    return await yard.pod(me, journal=pod.journal.survivors(reboot=False))


async def back(pod: Pod, old: Wire, calls: dict[int, str] | None = None) -> Wire:
    """The same agent on a new connection."""
    wire = await pod.wire(incarnation=old.incarnation)
    resume = {"epoch": old.epoch, "calls": calls or {}}
    await wire.open(old.run, create=False, wait_s=2.0, resume=resume)
    return wire


async def take_over(pod: Pod, run: str = "r1") -> Wire:
    """Own a run once its owner's lease is over."""
    wire = await pod.wire()
    async with asyncio.timeout(5):
        while True:
            try:
                await wire.open(run, wait_s=0.1)
            except RefusedError as error:
                if error.code != "owned_elsewhere":
                    raise
                await asyncio.sleep(0.02)
            else:
                return wire


async def test_a_live_agent_goes_on_after_the_sidecar_restarts(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    await agent.commit(b"one")
    pod = await restart(yard, pod)
    again = await back(pod, agent)
    assert again.epoch > agent.epoch
    assert again.step == 2
    await again.commit(b"two", level="remote")
    assert (await yard.log()).checkpoint_bytes == b"two"
    assert (await yard.log()).state.crashes == 0


async def test_no_run_is_claimed_before_the_stores_time_is_known(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A doubt's time would be the pod's own, and a "no" would settle it as that is put right."""
    now_ms = yard.store.now_ms

    async def unknown() -> int:
        raise StoreError("no answer")

    monkeypatch.setattr(yard.store, "now_ms", unknown)
    pod = await yard.pod()
    wire = await pod.wire()
    with pytest.raises(RefusedError, match="store_unavailable"):
        await wire.open("r1", wait_s=0.1)

    async def ahead() -> int:
        return await now_ms() + 3_600_000

    monkeypatch.setattr(yard.store, "now_ms", ahead)
    await wire.open("r1", wait_s=2.0)
    (first, *_) = (await yard.log()).state.records.values()
    assert first.at_ms > await now_ms() + 3_000_000


async def test_what_was_acknowledged_and_not_shipped_goes_on(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    link(yard).is_away = True
    for state in (b"one", b"two", b"three"):
        await agent.commit(state)
    pod = await restart(yard, pod)
    link(yard).is_away = False
    again = await back(pod, agent)
    assert again.step == 4
    assert (await yard.log()).checkpoint_bytes == b"three"


async def test_it_is_shipped_though_no_agent_comes_back(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    link(yard).is_away = True
    await agent.commit(b"one")
    await restart(yard, pod)
    link(yard).is_away = False

    async def is_shipped() -> bool:
        return (await yard.log()).checkpoint_bytes == b"one"

    await until(is_shipped)


@pytest.mark.parametrize("is_adopted_first", [False, True])
@pytest.mark.parametrize(
    ("life", "state"),
    [
        ("unstarted", CallState.NOT_APPLIED),
        ("running", CallState.DISPATCHED),
        ("done", CallState.DISPATCHED),
        (None, CallState.NOT_APPLIED),
    ],
)
async def test_a_call_stands_as_the_agent_says(
    yard: Yard, is_adopted_first: bool, life: str | None, state: CallState
) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    go = await agent.call(args={"n": 1})
    if is_adopted_first:
        link(yard).is_away = True
        read = await agent.call("look", "idempotent")
        await agent.outcome(read, result=1)
    pod = await restart(yard, pod)
    link(yard).is_away = False
    if is_adopted_first:
        await until(lambda: pod.sidecar.keepers)
    number = go.body["call"]
    again = await back(pod, agent, {number: life} if life else {})
    assert pod.sidecar.keepers["r1"].log.state.calls[number].state is state
    if state is CallState.DISPATCHED:
        await again.outcome(go, result="ok")
        assert (await again.call(args={"n": 1})).body["decision"] == "replay"
    else:
        assert (await again.call(args={"n": 1})).body["decision"] == "go"


async def test_ordinals_go_on_after_a_restart(yard: Yard) -> None:
    """The second equal call of a step stays the second: it is not answered by the first."""
    pod = await yard.pod()
    agent = await pod.agent()
    first = await agent.call(repeats=True)
    await agent.outcome(first, result=1)
    link(yard).is_away = True
    other = await agent.call("note", "idempotent")
    await agent.outcome(other, result=1)
    pod = await restart(yard, pod)
    link(yard).is_away = False
    await until(lambda: pod.sidecar.keepers)
    again = await back(pod, agent)
    second = await again.call(repeats=True)
    assert (second.body["decision"], second.body["call"] != first.body["call"]) == ("go", True)


async def test_a_probe_across_a_restart_was_asked_for(yard: Yard) -> None:
    """An answer that a probe found does not stand in the way of the agent's next call."""
    pod = await yard.pod()
    first = await pod.agent()
    await first.call("pay", args={"n": 1}, probe=True)
    await first.drop()
    await until(lambda: pod.sidecar.keepers["r1"].agent is None)
    agent = await pod.agent()
    probe = await agent.call("pay", args={"n": 1}, probe=True)
    assert probe.body["decision"] == "probe"
    pod = await restart(yard, pod)
    agent = await back(pod, agent)
    body = {"call": probe.body["call"], "attempt": probe.body["attempt"], "applied": True}
    assert (await agent.ask("probed", body, b"\x01")).body["decision"] == "replay"
    assert (await agent.call("pay", args={"n": 2}, probe=True)).body["decision"] == "go"


async def test_a_new_agent_after_a_restart_is_no_resumed_one(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    go = await agent.call()
    pod = await restart(yard, pod)
    await pod.agent()
    state = pod.sidecar.keepers["r1"].log.state
    assert state.calls[go.body["call"]].state is CallState.IN_DOUBT
    assert state.crashes == 1


async def test_an_agent_is_fenced_if_another_had_the_run_meanwhile(yard: Yard) -> None:
    """Its next commit would put its own past over what the other one did."""
    pod = await yard.pod()
    agent = await pod.agent()
    await agent.commit(b"one")
    await agent.drop()
    other = await pod.agent()
    await other.commit(b"two of another")
    with pytest.raises(RefusedError, match="fenced"):
        await back(pod, agent)
    await other.release()
    with pytest.raises(RefusedError, match="fenced"):
        await back(pod, agent)
    last = await pod.agent()
    assert last.step == 3


async def test_an_end_is_acknowledged_again(yard: Yard) -> None:
    """The run finished, and the connection broke before the agent heard so."""
    pod = await yard.pod()
    agent = await pod.agent()
    await agent.finish({"sum": 3})
    pod = await restart(yard, pod)
    again = await pod.wire(incarnation=agent.incarnation)
    reply = await again.open("r1", create=False, resume={"epoch": agent.epoch})
    assert reply.body["status"] == "finished"
    await again.finish({"sum": 3})
    with pytest.raises(RefusedError, match="fenced"):
        await again.commit(b"more")


async def test_a_second_agent_is_told_that_the_run_is_open(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    with pytest.raises(RefusedError, match=r"conflict.*open on another connection"):
        await pod.agent()
    await agent.drop()
    assert (await pod.agent()).epoch == 2


async def test_a_lost_opening_leaves_the_run_to_the_next(yard: Yard) -> None:
    """The agent is killed while its claim is on its way to the store."""
    pod = await yard.pod()
    agent = await pod.agent()
    await agent.release()
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(name: str) -> None:
        if name.endswith("/head"):
            started.set()
            await go_on.wait()

    link(yard).before_swap = slowly
    wire = await pod.wire()
    wire.send("open", {"run": "r1", "queue": "default", "schema": 1, "create": True, "wait_s": 1.0})
    await started.wait()
    await wire.drop()
    go_on.set()
    link(yard).before_swap = None
    await until(lambda: "r1" in pod.sidecar.keepers)
    assert (await pod.agent()).step == 1


async def test_a_connection_lost_while_it_resumes_leaves_no_ghost(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    go = await agent.call()
    await agent.drop()
    await until(lambda: pod.sidecar.keepers["r1"].agent is None)
    swaps = len(link(yard).swaps)
    started = asyncio.Event()

    async def slowly(_: str) -> None:
        if len(link(yard).swaps) > swaps:  # the claim's was the first
            started.set()
            await asyncio.sleep(0.05)

    link(yard).before_swap = slowly
    wire = await pod.wire(incarnation=agent.incarnation)
    body = {"run": "r1", "queue": "default", "schema": 1, "create": False, "wait_s": 1.0}
    calls = {go.body["call"]: "running"}
    wire.send("open", {**body, "resume": {"epoch": agent.epoch, "calls": calls}})
    async with asyncio.timeout(2):
        await started.wait()
    await wire.drop()
    await asyncio.sleep(0.01)
    assert (await pod.agent(wait_s=1.0)).run == "r1"


async def test_a_run_left_while_the_store_is_away_keeps_what_was_acknowledged(yard: Yard) -> None:
    """The agent gives up waiting for its release; its commits must not be forgotten with it."""
    pod = await yard.pod()
    agent = await pod.agent()
    link(yard).is_away = True
    await agent.commit(b"one")
    agent.send("release", {"reason": "left"})
    await asyncio.sleep(0.05)
    await agent.drop()
    await asyncio.sleep(0.05)
    link(yard).is_away = False
    again = await pod.agent(wait_s=5.0)
    assert again.step == 2


async def test_a_run_is_opened_again_only_once_it_was_let_go(yard: Yard) -> None:
    """Else the new claim fences the release, and what the release would have shipped."""
    pod = await yard.pod()
    agent = await pod.agent()
    link(yard).is_away = True
    await agent.commit(b"one")
    agent.send("release", {"reason": "left"})
    await asyncio.sleep(0.02)
    wire = await pod.wire()
    with pytest.raises(RefusedError, match="unavailable"):
        await wire.open("r1")
    link(yard).is_away = False
    await wire.open("r1", wait_s=5.0)
    assert wire.step == 2


async def test_a_diverged_tail_is_set_aside_and_told(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    await agent.commit(b"one", level="remote")
    link(yard).is_away = True
    await agent.commit(b"two, never shipped")
    await pod.die()
    link(yard).is_away = False
    other = await yard.pod("pod2.s1")
    taken = await take_over(other)
    assert taken.step == 2
    await taken.commit(b"two of another")
    pod = await restart(yard, pod)
    journal = pod.journal
    assert isinstance(journal, MemoryJournal)
    await until(lambda: journal.asides)
    assert [row.seq for row in journal.asides[0].rows] == [4]
    assert pod.notes.of("set_aside")[0]["records"] == 1
    assert await journal.load() == []
    await taken.finish()
    assert (await yard.log()).state.status is Status.FINISHED


async def test_a_fenced_runs_tail_is_set_aside_at_once(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    link(yard).is_away = True
    await agent.commit(b"never shipped")
    link(yard).is_away = False
    pod.sidecar.keepers["r1"].shipper.fence()
    journal = pod.journal
    assert isinstance(journal, MemoryJournal)
    await until(lambda: journal.asides)
    assert [push.type for push in agent.pushes] == ["fenced"]


async def test_an_agent_that_leaves_while_its_run_is_opened_anew_does_not_keep_it(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await yard.pod()
    first = await pod.agent()
    await first.drop()
    is_adopting, never = asyncio.Event(), asyncio.Event()

    async def adopt(self: Calls) -> None:
        is_adopting.set()
        await never.wait()

    with monkeypatch.context() as patch:
        patch.setattr(Calls, "adopt", adopt)
        second = await pod.wire()
        opening = asyncio.ensure_future(second.open("r1"))
        await is_adopting.wait()
        await second.drop()
        await until(lambda: pod.sidecar.keepers["r1"].agent is None)
    opening.cancel()
    third = await pod.agent()
    assert third.epoch == first.epoch + 2
