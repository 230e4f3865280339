"""Who owns a run: fencing, takeover, queues, the breaker, drains, markers and commands."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.command import Command, encode_command
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.engine import outside as outside_module
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.stores.directory import DirectoryStore
from coatcheck_sidecar.stores.sqlite import SqliteJournal
from tests.engine.harness import Pod, RefusedError, Wire, Yard, link, names, names_are, until
from tests.engine.harness import yard as make_yard


@pytest.fixture(autouse=True)
def _quick_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_module, "POLL_S", 0.01)


async def take_over(pod: Pod, run: str = "r1") -> Wire:
    """Own a run once its owner's lease is over."""
    wire = await pod.wire()
    async with asyncio.timeout(5):
        while True:
            try:
                await wire.open(run, wait_s=0.1)
            except RefusedError as error:
                if error.code not in ("owned_elsewhere", "unavailable"):
                    raise
                await asyncio.sleep(0.02)
            else:
                return wire


# The whole way, over what pods really use


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Yard]:
    """Pods around a directory."""
    async with make_yard(DirectoryStore(tmp_path / "store", clock=SystemClock())) as made:
        yield made


async def test_a_run_moves_from_a_drained_pod_to_another(real: Yard, tmp_path: Path) -> None:
    first = await SqliteJournal.open(tmp_path / "j1", clock=SystemClock())
    second = await SqliteJournal.open(tmp_path / "j2", clock=SystemClock())
    pod, other = await real.pod(journal=first), await real.pod("pod2.s1", journal=second)
    agent = await pod.agent("r1", input=b"\xa2hi")
    state = b""
    for number in range(20):
        go = await agent.call(args={"n": number})
        await agent.outcome(go, result="x" * 5_000)
        state += b"%d " % number * 500
        await agent.commit(state)
    pod.sidecar.drain.begin("test", grace_s=6.0)
    draining = asyncio.ensure_future(pod.sidecar.drain.finish())
    await until(lambda: agent.pushes)
    assert agent.pushes[0].type == "drain"
    await agent.commit(state + b"last")
    await agent.release("draining")
    await draining
    assert await names(real, "ready/") == ["ready/default/r1/1"]
    assert await names(real, "owners/pod1.s1/") == []
    wire = await other.wire()
    reply = await wire.open(None, create=False, wait_s=2.0)
    assert (reply.body["run"], reply.body["step"], reply.body["input"]) == ("r1", 22, b"\xa2hi")
    assert reply.attachment == state + b"last"
    await until(lambda: names_are(real, "ready/", []))
    assert await first.load() == []


# Levels and group commit


async def test_levels_say_what_was_waited_for(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    link(yard).is_away = True
    for level in ("process", "node"):
        await agent.commit(b"x", level=level)
    far = asyncio.ensure_future(agent.commit(b"far", level="remote"))
    await asyncio.sleep(0.05)
    assert not far.done()
    link(yard).is_away = False
    await far
    pod.sidecar.keepers["r1"].drain()
    link(yard).is_away = True
    draining = asyncio.ensure_future(agent.commit(b"near"))
    await asyncio.sleep(0.05)
    assert not draining.done()
    link(yard).is_away = False
    await draining


async def test_records_gather_while_a_swap_is_on_its_way(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    gate = asyncio.Event()

    async def slowly(_: str) -> None:
        await gate.wait()

    swaps = len(link(yard).swaps)
    link(yard).before_swap = slowly
    for number in range(200):
        await agent.commit(b"%d" % number, level="process")
    last = asyncio.ensure_future(agent.commit(b"last", level="remote"))
    await asyncio.sleep(0.02)
    gate.set()
    await last
    assert len(link(yard).swaps) - swaps <= 3


async def test_a_call_takes_everything_before_it_along(yard: Yard) -> None:
    """The prefix rule: what the agent acted on is off the pod before the act is."""
    pod = await yard.pod()
    agent = await pod.agent()
    await agent.commit(b"one", level="process")
    note = await agent.call("model", "idempotent")
    await agent.outcome(note, result="do it")
    go = await agent.call()
    log = await yard.log()
    assert log.checkpoint_bytes == b"one"
    assert log.state.calls[note.body["call"]].outcome is not None
    assert go.body["call"] in log.state.calls


# Fencing


async def test_the_first_owners_next_guarded_call_is_refused(yard: Yard) -> None:
    """It was cut off, and does not know that another pod has the run: nothing leaves any more."""
    first = link(yard).twin()
    pod, other = await yard.pod(store=first), await yard.pod("pod2.s1")
    agent = await pod.agent()
    await agent.commit(b"one", level="remote")
    first.is_away = True
    late = asyncio.ensure_future(agent.call())
    taken = await take_over(other)
    assert (taken.step, taken.epoch) == (2, agent.epoch + 1)
    assert not late.done()
    first.is_away = False
    with pytest.raises(RefusedError, match="fenced"):
        await late
    await until(lambda: agent.pushes)
    assert agent.pushes[0].type == "fenced"
    with pytest.raises(RefusedError, match="fenced"):
        await agent.commit(b"two")
    await taken.commit(b"two of another", level="remote")
    log = await yard.log()
    assert (log.state.claimed.owner, log.state.calls) == ("pod2.s1", {})
    assert pod.notes.of("set_aside")


async def test_a_run_owned_elsewhere_says_where(yard: Yard) -> None:
    pod, other = await yard.pod(), await yard.pod("pod2.s1")
    await pod.agent("r1", address="http://10.0.0.7:8080")
    wire = await other.wire()
    await asyncio.sleep(0.1)
    with pytest.raises(RefusedError, match="owned_elsewhere") as caught:
        await wire.open("r1", wait_s=5.0)
    assert caught.value.body["address"] == "http://10.0.0.7:8080"


async def test_schema_and_pinned_are_refused(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent("r1", schema=1, code_version="a", pinned=True)
    await agent.commit(b"one")
    await agent.release()
    with pytest.raises(RefusedError, match=r"schema_mismatch.*pinned to code version 'a'"):
        await pod.agent("r1", schema=1, code_version="b")
    with pytest.raises(RefusedError, match="schema_mismatch"):
        await pod.agent("r1", schema=2, code_version="a")
    wire = await pod.wire()
    with pytest.raises(RefusedError, match="nothing is ready"):
        await wire.open(None, schema=1, code_version="b")
    assert (await pod.agent("r1", code_version="a")).step == 2


async def test_a_pinned_run_is_for_its_own_version_in_its_first_step_too(yard: Yard) -> None:
    pod = await yard.pod()
    mine: dict[str, Any] = {"schema": 3, "code_version": "a"}
    agent = await pod.agent("r1", pinned=True, **mine)
    await agent.drop()
    await until(lambda: pod.sidecar.keepers["r1"].agent is None)
    with pytest.raises(RefusedError, match="pinned to code version 'a'"):
        await pod.agent("r1", schema=3, code_version="b")
    assert (await pod.agent(None, **mine)).run == "r1"


async def test_a_finished_run_opened_again_gives_its_result(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    await agent.ask("finish", {"step": 1, "state_length": 2}, b"st" + msgpack.packb({"sum": 3}))
    wire = await pod.wire()
    reply = await wire.open("r1")
    assert (reply.body["status"], msgpack.unpackb(reply.attachment or b"")) == (
        "finished", {"sum": 3},
    )  # fmt: skip
    with pytest.raises(RefusedError, match="not_found: there is no run r9"):
        await wire.ask("result", {"run": "r9"})
    with pytest.raises(RefusedError, match="not_found"):
        await (await pod.wire()).open("r9", create=False)
    failed = await pod.agent("r2")
    await failed.ask("fail", {"error": "no funds"})
    assert (await failed.ask("result", {"run": "r2"})).body["error"] == "no funds"


# Releases, parking, signals


async def test_a_marker_is_written_before_the_head_it_is_of(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    seen: list[list[str]] = []

    async def look(_: str) -> None:
        seen.append([n for n in link(yard).puts if n.startswith("ready/")])

    link(yard).before_swap = look
    await agent.release()
    assert seen[-1] == ["ready/default/r1/1"]


async def test_a_parked_run_is_woken_by_its_signal(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent("r1", queue="q")
    with pytest.raises(RefusedError, match="parked until it is signalled 'approval'"):
        await agent.ask("wait", {"name": "approval", "step": 1}, b"\xa4who?")
    assert await names(yard, "parked/") == ["parked/q/r1/1"]
    with pytest.raises(RefusedError, match=r"parked.*coatcheck signal"):
        await pod.agent("r1")
    outside = Outside(yard.store, SystemClock())
    signal = Command(id="c1", run="r1", what="signal", by="ann", name="approval", value=b"\xc3")
    assert (await outside.command(signal)).status is Status.READY
    wire = await pod.wire()
    await wire.open(None, queue="q", create=False, wait_s=2.0)
    reply = await wire.ask("wait", {"name": "approval", "step": 1})
    assert reply.attachment == b"\xc3"
    again = await wire.ask("wait", {"name": "approval", "step": 1})
    assert again.body["signal"] == reply.body["signal"]
    await wire.commit(b"x", signals=[reply.body["signal"]], level="remote")
    assert (await yard.log()).state.signals == {}
    with pytest.raises(RefusedError, match="parked"):
        await wire.ask("wait", {"name": "approval", "step": 2})


# Commands for an owned run


async def test_commands_reach_the_owner_through_its_inbox(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    outside = Outside(yard.store, SystemClock())
    signal = Command(id="c1", run="r1", what="signal", by="ann", name="go", value=b"\x01")
    assert (await outside.command(signal, timeout_s=5)).refused == ""
    assert (await agent.ask("wait", {"name": "go", "step": 1})).attachment == b"\x01"
    refused = await outside.command(Command(id="c2", run="r1", what="retry", by="ann"))
    assert "not held" in refused.refused
    cancel = Command(id="c3", run="r1", what="cancel", by="ann", why="typo")
    assert (await outside.command(cancel)).status is Status.CANCELLED
    await until(lambda: agent.pushes)
    with pytest.raises(RefusedError, match="fenced"):
        await agent.commit(b"x")
    assert await names(yard, "owners/pod1.s1/in/") == []


async def test_a_claimer_reads_its_predecessors_inbox(yard: Yard) -> None:
    pod, other = await yard.pod(), await yard.pod("pod2.s1")
    agent = await pod.agent()
    await agent.commit(b"one", level="remote")
    await pod.die()
    command = Command(id="c1", run="r1", what="signal", by="ann", name="go", value=b"\x01")
    await yard.store.put("owners/pod1.s1/in/r1-c1", encode_command(command))
    taken = await take_over(other)
    await until(lambda: other.sidecar.keepers["r1"].log.state.signals)
    assert (await taken.ask("wait", {"name": "go", "step": 2})).attachment == b"\x01"
    assert await names(yard, "owners/pod1.s1/in/") == []
