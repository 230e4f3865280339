"""What happens seldom: repeats, ends that a death cut, doors that are closed, stores that stall."""

import asyncio
from dataclasses import replace

import pytest

from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.ports import StoreError
from coatcheck_sidecar.servers.control import ControlServer
from coatcheck_sidecar.stores.memory_journal import MemoryJournal
from tests.engine.harness import FAST, Pod, RefusedError, Wire, Yard, link, names, until


async def next_life(yard: Yard, pod: Pod) -> Pod:
    await pod.die()
    assert isinstance(pod.journal, MemoryJournal)
    link(yard).is_away = False
    return await yard.pod("pod1.s2", journal=pod.journal.survivors(reboot=False))


# Ends that were written here and had not reached the store


@pytest.mark.parametrize(
    ("request_", "body", "status"),
    [
        ("release", {"reason": "left"}, Status.READY),
        ("release", {"reason": "held", "error": "look"}, Status.HELD),
        ("fail", {"error": "no funds"}, Status.FAILED),
        ("finish", {"step": 2}, Status.FINISHED),
        ("wait", {"name": "approval", "step": 2}, Status.PARKED),
    ],
)
async def test_the_next_life_says_it_in_its_place(
    yard: Yard, request_: str, body: dict[str, object], status: Status
) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    link(yard).is_away = True
    await agent.commit(b"one")
    agent.send(request_, body, b"\xc0")
    await asyncio.sleep(0.05)
    await next_life(yard, pod)

    async def is_told() -> bool:
        return (await yard.log()).state.status is status

    await until(is_told)
    assert (await yard.log()).checkpoint_bytes == b"one"


# Repeats


async def test_what_is_said_twice_is_done_once(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    seq = await agent.commit(b"one")
    for level in ("node", "remote"):
        reply = await agent.ask("commit", {"step": 1, "level": level, "schema": 1}, b"one")
        assert (reply.body["seq"], reply.body["step"]) == (seq, 2)
    body = {"step": 2, "state_length": 3}
    twice = [agent.send("finish", body, b"two\xc0") for _ in range(2)]
    first, second = [await reply for reply in twice]
    assert (first.type, first.body) == (second.type, second.body)
    assert (await yard.log()).checkpoint_bytes == b"two"
    other = await pod.agent("r2")
    with pytest.raises(RefusedError, match=r"finish: state_length 9 of 4 bytes"):
        await other.ask("finish", {"step": 1, "state_length": 9}, b"two\xc0")
    with pytest.raises(RefusedError, match="the state is missing"):
        await other.ask("commit", {"step": 1, "level": "node", "schema": 1})


async def test_a_fail_whose_answer_was_lost(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    await agent.ask("fail", {"error": "no funds"})
    await agent.drop()
    wire = await pod.wire(incarnation=agent.incarnation)
    await wire.open("r1", create=False, resume={"epoch": agent.epoch})
    await wire.ask("fail", {"error": "no funds"})
    with pytest.raises(RefusedError, match="fenced"):
        await wire.finish()


# Doors


async def test_only_the_uids_that_are_let_in(yard: Yard) -> None:
    pod = await yard.pod()
    path = yard.folder / "narrow.sock"
    server = ControlServer(pod.sidecar, path, allowed_uids=frozenset({12_345}))
    path.touch()
    with pytest.raises(OSError, match="narrow"):
        await server.start()  # a file that is no socket is nobody's to take away
    path.unlink()
    await server.start()
    wire = await Wire.connect(path)
    await wire.is_lost.wait()
    assert "this uid is not in allowed_uids" in wire.stray[0].body["message"]
    await wire.drop()
    await server.close()


async def test_a_socket_that_a_former_life_left_is_taken_away(yard: Yard) -> None:
    pod = await yard.pod()
    server = ControlServer(pod.sidecar, pod.path)
    await server.start()
    assert pod.path.stat().st_mode & 0o777 == 0o660
    await (await pod.wire()).open("r1")
    await server.close()


# Stores


async def test_a_big_answer_waits_for_a_store_that_stalls(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent()
    go = await agent.call("ask", "idempotent")
    link(yard).is_away = True
    await agent.outcome(go, result="x" * 100_000)
    await until(lambda: pod.notes.of("ship_failed"))
    link(yard).is_away = False
    await agent.commit(b"x", level="remote")


async def test_a_claim_that_meets_an_outage_in_its_swap(yard: Yard) -> None:
    pod = await yard.pod()
    times = 0

    async def twice(name: str) -> None:
        nonlocal times
        times += name == head_name("r1")
        if times in (1, 2):
            raise StoreError("cut")

    link(yard).before_swap = twice
    agent = await pod.agent()
    await agent.commit(b"one", level="remote")
    assert (await yard.log()).state.epoch == 1


async def test_a_run_that_kills_pods_is_held(yard: Yard) -> None:
    pod = await yard.pod()
    await pod.agent()
    await until(lambda: names(yard, "owners/pod1.s1/"))
    await pod.die()
    other = await yard.pod("pod2.s1", settings=replace(FAST, breaker_crashes=1))
    async with asyncio.timeout(5):
        while True:
            with pytest.raises(RefusedError) as caught:
                await other.agent()
            if caught.value.code == "held":
                break
            assert caught.value.code in ("owned_elsewhere", "unavailable")
            await asyncio.sleep(0.05)
    assert (await yard.log()).state.reason.startswith("crash_loop")
    assert await names(yard, "held/") == ["held/default/r1/2"]


async def test_a_tail_whose_delta_does_not_fit_is_set_aside(yard: Yard) -> None:
    """Damage of the row's own checksum aside: the state would be a wrong one."""
    pod = await yard.pod()
    agent = await pod.agent()
    await agent.commit(b"zero" * 1_000, level="remote")
    link(yard).is_away = True
    await agent.commit(b"one" * 1_000)
    await agent.commit(b"two" * 1_000)
    await pod.die()
    link(yard).is_away = False
    assert isinstance(pod.journal, MemoryJournal)
    journal = pod.journal.survivors(reboot=False)
    (_, first), (key, second) = sorted(journal._rows.items())
    journal._rows[key] = second._replace(data=second.data[:40] + b"\0" * 20 + second.data[60:])
    assert first.seq < second.seq
    pod = await yard.pod("pod1.s2", journal=journal)
    agent = await pod.agent(wait_s=1.0)
    assert agent.step == 3
    assert pod.notes.of("damaged") or pod.notes.of("row_damaged")
    assert (await yard.log()).checkpoint_bytes == b"one" * 1_000


async def test_an_owner_that_stands_still_is_reported_stuck(yard: Yard) -> None:
    pod = await yard.pod()
    await pod.agent(step_timeout_s=0.02)
    await asyncio.sleep(0.05)
    assert pod.sidecar.keepers["r1"].summary().stuck
