"""The flush budget over a link that can be reckoned with: who waits, for what, and who is told."""

import asyncio
import os
from dataclasses import replace
from typing import Any

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.budget import ASSUMED, Rate
from coatcheck_sidecar.engine.budget import PROBE_BYTES_MIN, Budget, Measured
from coatcheck_sidecar.engine.settings import OFF, WARN
from coatcheck_sidecar.ports import StoreError, StoreRefused
from tests.engine.harness import (
    FAST,
    Link,
    Notes,
    Pod,
    RefusedError,
    Wire,
    Yard,
    names_are,
    until,
    yard,
)

BYTES_PER_S = 400_000
LATENCY_S = 0.005
STATE_BYTES = 140_000
"""0.35 s of the link: one fits the budget of 252 KB, two don't."""
SLOW = replace(FAST, grace_s=1.0, margin_s=0.1, heartbeat_s=5.0, lease_s=20.0)


class SlowLink(Link):
    """Bytes go one after another, and each write takes a round trip beside."""

    def __init__(self) -> None:
        super().__init__()
        self._free_s = 0.0

    async def _carry(self, size: int) -> None:
        loop = asyncio.get_running_loop()
        self._free_s = max(self._free_s, loop.time()) + size / BYTES_PER_S
        await asyncio.sleep(self._free_s - loop.time() + LATENCY_S)

    async def put(self, name: str, data: bytes) -> None:
        await self._carry(len(data))
        await super().put(name, data)

    async def swap(self, name: str, data: bytes, *, expected: str | None) -> str:
        await self._carry(len(data))
        return await super().swap(name, data, expected=expected)


class Slow:
    """A pod behind such a link, which it has measured or is told of."""

    def __init__(self, yard: Yard, pod: Pod) -> None:
        self.yard, self.pod = yard, pod
        self.budget = pod.sidecar.budget

    @property
    def waits(self) -> list[dict[str, object]]:
        return self.pod.notes.of("budget_waited")

    async def shipped(self, run: str = "r1") -> int:
        return (await self.yard.log(run)).state.step

    def left_bytes(self, run: str = "r1") -> int:
        return self.pod.sidecar.keepers[run].unshipped_bytes


async def slow_pod(yard: Yard, **more: Any) -> Slow:
    pod = await yard.pod(settings=replace(SLOW, **more))
    if pod.sidecar.settings.flush_budget != OFF:
        await until(lambda: pod.sidecar.budget.link.measured_s > 0)
    setattr(pod.sidecar.budget, "rate", lambda: Rate(BYTES_PER_S, LATENCY_S))  # noqa: B010
    return Slow(yard, pod)


def state() -> bytes:
    return os.urandom(STATE_BYTES)


@pytest.fixture
async def slow_yard() -> Any:
    async with yard(SlowLink()) as made:
        yield made


async def took_s(work: Any) -> float:
    began_s = asyncio.get_running_loop().time()
    await work
    return asyncio.get_running_loop().time() - began_s


async def test_a_probe_measures_the_link_and_leaves_nothing(slow_yard: Yard) -> None:
    pod = await slow_yard.pod(settings=SLOW)
    await until(lambda: pod.sidecar.budget.rate() != ASSUMED)
    rate = pod.sidecar.budget.rate()
    assert 0.6 * BYTES_PER_S < rate.bytes_per_s < 1.1 * BYTES_PER_S
    assert pod.sidecar.drain.view()["bytes_per_s"] == rate.bytes_per_s
    await until(lambda: names_are(slow_yard, "probe/", []))
    await pod.agent()
    await until(lambda: LATENCY_S < pod.sidecar.budget.rate().latency_s < ASSUMED.latency_s)


async def test_a_second_state_waits_until_the_first_is_off_the_pod(slow_yard: Yard) -> None:
    slow = await slow_pod(slow_yard)
    agent = await slow.pod.agent()
    assert await took_s(agent.commit(state())) < 0.1
    assert await slow.shipped() == 0
    assert await took_s(agent.commit(state())) > 0.15
    assert await slow.shipped() == 1
    assert slow.left_bytes() >= STATE_BYTES
    assert len(slow.waits) == 1


async def test_what_alone_exceeds_the_budget_is_acknowledged_when_it_is_remote(
    slow_yard: Yard,
) -> None:
    slow = await slow_pod(slow_yard)
    agent, other = await slow.pod.agent(), await slow.pod.agent("r2")
    await other.commit(state())
    big = asyncio.ensure_future(agent.commit(os.urandom(3 * STATE_BYTES)))
    await asyncio.sleep(0.1)
    # It is not even on its way: what was acknowledged goes first.
    assert slow.left_bytes() == 0
    small = asyncio.ensure_future(other.commit(b"small"))
    await big
    assert (await slow.shipped(), await slow.shipped("r2")) == (1, 2)
    await small


async def test_what_was_granted_goes_first_though_it_is_not_written_yet(
    slow_yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = await slow_pod(slow_yard)
    agent, other = await slow.pod.agent(), await slow.pod.agent("r2")
    local, written = slow.pod.sidecar._local, asyncio.get_running_loop().create_future()
    monkeypatch.setattr(local, "write", lambda *_, **__: written)
    first = asyncio.ensure_future(agent.commit(state()))
    await until(lambda: slow.left_bytes() >= STATE_BYTES)
    monkeypatch.undo()
    second = asyncio.ensure_future(other.commit(state()))
    await asyncio.sleep(0.1)
    assert slow.left_bytes("r2") == 0
    written.set_result(None)
    await first
    await second
    assert await slow.shipped() == 1


async def test_small_states_never_wait(slow_yard: Yard) -> None:
    slow = await slow_pod(slow_yard)
    agent = await slow.pod.agent()
    for number in range(50):
        await agent.commit(b"%d" % number)
    assert not slow.waits


async def test_a_warning_says_what_would_be_lost(slow_yard: Yard) -> None:
    slow = await slow_pod(slow_yard, flush_budget=WARN)
    agent = await slow.pod.agent()
    assert await took_s(agent.commit(state())) < 0.1
    assert not slow.pod.notes.of("budget_broken")
    for _ in range(3):
        assert await took_s(agent.commit(state())) < 0.1
    assert len(slow.pod.notes.of("budget_broken")) == 3
    (warning,) = slow.pod.notes.of("budget_warning")
    unshipped, budget = warning["unshipped_bytes"], warning["budget_bytes"]
    assert isinstance(unshipped, int)
    assert isinstance(budget, int)
    assert unshipped > budget > STATE_BYTES
    go = await agent.call("look", "read")
    await agent.outcome(go)
    assert len(slow.pod.notes.of("budget_broken")) > 3
    await slow.pod.agent("r2", wait_s=0.0)
    assert not slow.waits


async def test_off_does_not_look(slow_yard: Yard) -> None:
    slow = await slow_pod(slow_yard, flush_budget=OFF)
    agent = await slow.pod.agent()
    for _ in range(4):
        assert await took_s(agent.commit(state())) < 0.1
    await slow.pod.agent("r2", wait_s=0.0)
    assert not slow.waits
    assert not slow.pod.notes.of("budget_broken")
    assert not [name for name in link_of(slow).puts if name.startswith("probe/link")]


def link_of(slow: Slow) -> Link:
    assert isinstance(slow.yard.store, Link)
    return slow.yard.store


async def test_an_outcome_that_breaks_the_budget_is_acknowledged_when_it_is_remote(
    slow_yard: Yard,
) -> None:
    slow = await slow_pod(slow_yard)
    agent = await slow.pod.agent()
    go = await agent.call("write", "idempotent")
    assert not slow.waits
    await agent.outcome(go, result=os.urandom(3 * STATE_BYTES))
    log = await slow.yard.log()
    assert next(iter(log.state.calls.values())).outcome is not None
    assert len(slow.waits) == 1


async def test_a_run_that_can_not_be_carried_is_not_claimed(slow_yard: Yard) -> None:
    slow = await slow_pod(slow_yard)
    agent = await slow.pod.agent()
    await agent.commit(os.urandom(STATE_BYTES + 100_000))
    with pytest.raises(RefusedError, match="no room for one more") as refused:
        await slow.pod.agent("r2", wait_s=0.1)
    assert (refused.value.code, refused.value.body["retry"]) == ("unavailable", "later")
    with pytest.raises(RefusedError, match="nothing is ready"):
        await slow.pod.agent(None, wait_s=0.0)
    await slow.pod.agent("r2", wait_s=5.0)
    assert await slow.shipped() == 1


async def waiting(slow: Slow, agent: Wire) -> "asyncio.Future[int]":
    """A commit that waits, since another one fills the budget."""
    await agent.commit(state())
    last = asyncio.ensure_future(agent.commit(state()))
    await asyncio.sleep(0.1)
    assert not last.done()
    return last


async def test_who_waits_when_its_agent_comes_back_appends_nothing(slow_yard: Yard) -> None:
    slow = await slow_pod(slow_yard)
    agent = await slow.pod.agent()
    last = await waiting(slow, agent)
    keeper = slow.pod.sidecar.keepers["r1"]
    await keeper.claim(keeper.log.state.claimed)
    with pytest.raises(RefusedError, match="fenced"):
        await last
    assert keeper.log.state.step == 1


async def test_who_waits_when_the_run_is_cut_appends_nothing(slow_yard: Yard) -> None:
    slow = await slow_pod(slow_yard)
    agent = await slow.pod.agent()
    last = await waiting(slow, agent)
    slow.pod.sidecar.drain.begin("force", grace_s=0.0)
    with pytest.raises((RefusedError, ConnectionError)):
        await last
    assert await slow.pod.sidecar.drain.finish()
    assert await slow.shipped() == 1


async def test_a_drain_that_begins_meanwhile_makes_it_remote(slow_yard: Yard) -> None:
    slow = await slow_pod(slow_yard)
    agent = await slow.pod.agent()
    last = await waiting(slow, agent)
    assert slow.budget.allowed_bytes() > STATE_BYTES
    slow.pod.sidecar.drain.begin("preStop", grace_s=2.5)
    assert slow.budget.allowed_bytes() > 2 * STATE_BYTES
    await last
    assert await slow.shipped() == 2
    assert slow.left_bytes() == 0


async def test_what_a_former_life_acknowledged_goes_before_what_is_new(slow_yard: Yard) -> None:
    slow = await slow_pod(slow_yard)
    agent = await slow.pod.agent()
    await agent.commit(os.urandom(STATE_BYTES + 100_000))
    assert await slow.shipped() == 0
    await slow.pod.die()
    again = Slow(slow_yard, await slow_yard.pod("pod1.s2", journal=slow.pod.journal, settings=SLOW))
    setattr(again.budget, "rate", lambda: Rate(BYTES_PER_S, LATENCY_S))  # noqa: B010
    await until(lambda: again.budget._owed)
    with pytest.raises(RefusedError, match="no room"):
        await again.pod.agent("r2", wait_s=0.0)
    await until(lambda: not again.budget._owed)
    assert await slow.shipped() == 1
    await again.pod.agent("r2", wait_s=0.0)


async def test_an_unused_link_is_probed_and_a_used_one_is_not() -> None:
    async with yard() as fast:
        pod = await fast.pod(settings=replace(FAST, budget_probe_s=0.2))
        store = fast.store
        assert isinstance(store, Link)

        def probes() -> int:
            return store.puts.count("probe/link-pod1.s1")

        await until(lambda: probes() >= 3)
        agent = await pod.agent()
        await agent.commit(os.urandom(PROBE_BYTES_MIN * 2), level="remote")
        before = probes()
        for _ in range(15):
            await agent.commit(os.urandom(PROBE_BYTES_MIN * 2), level="remote")
            await asyncio.sleep(0.03)
        assert probes() <= before + 1
        store.is_away = True
        await asyncio.sleep(0.3)
        assert not pod.notes.of("task_failed")


async def test_only_what_was_answered_is_measured() -> None:
    clock, store = SystemClock(), Link()
    budget = Budget(clock, settings=FAST, observer=Notes())
    measured = Measured(store, link=budget.link, clock=clock, observer=Notes())
    store.is_away = True
    with pytest.raises(StoreError):
        await measured.put("a", bytes(PROBE_BYTES_MIN))
    with pytest.raises(StoreError):
        await measured.swap("a", b"x", expected=None)
    with pytest.raises(StoreError):
        await measured.now_ms()
    assert budget.rate() == ASSUMED
    store.is_away = False
    tag = await measured.swap("a", b"x", expected=None)
    with pytest.raises(StoreRefused):
        await measured.swap("a", bytes(PROBE_BYTES_MIN), expected=f"{tag}?")
    assert budget.link.measured_s > 0
    assert await measured.now_ms() > 0
    assert (measured.url, measured.background_share) == (store.url, store.background_share)
    assert measured.background_puts_max == store.background_puts_max
    assert await measured.list("a")
    await measured.delete("a")
    assert await measured.get("a") is None
    await measured.close()
