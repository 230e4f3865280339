"""A pod is lost with its journal: what of keyed calls may have left without a record."""

import asyncio

import pytest

from coatcheck_sidecar.core.model import Effect
from coatcheck_sidecar.core.tool import UpstreamKey
from coatcheck_sidecar.engine import calls
from tests.engine.harness import Yard, link
from tests.engine.proxying import Far, Near, near, tool_of

DAY_S = 86_400.0
WAIT_S = 4.0
"""More than a takeover takes here."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "KEY_MARGIN_S", 0.1)


async def lost(yard: Yard, far: Far, *, lifetime_s: float, me: str = "pod2.s1") -> Near:
    """A call left, its record was not shipped, and the pod is gone; another has its run."""
    key = UpstreamKey(lifetime_s=lifetime_s)
    tools = tool_of(far, effect=Effect.IDEMPOTENT, upstream_key=key)
    at = await near(yard, tools)
    await at.agent()
    link(yard).is_away = True
    assert (await at.ask("mail/x", json={})).status == 200
    await at.die()
    link(yard).is_away = False
    other = await near(yard, tools, me=me, journal=at.pod.journal if me != "pod2.s1" else None)
    await other.agent(wait_s=WAIT_S)
    return other


async def test_while_its_key_is_alive_it_goes_again_under_it(yard: Yard, far: Far) -> None:
    other = await lost(yard, far, lifetime_s=DAY_S)
    assert (await other.ask("mail/x", json={})).decision == "sent"
    first, second = [seen.headers["idempotency-key"] for seen in far.seen]
    assert first == second


async def test_once_its_key_may_be_forgotten_it_is_held(yard: Yard, far: Far) -> None:
    other = await lost(yard, far, lifetime_s=0.4)
    await asyncio.sleep(0.3)
    for _ in range(2):
        got = await other.ask("mail/x", json={})
        assert (got.status, got.json["reason"]) == (424, "key_expired")
        assert got.json["call"] > 0
    assert len(far.seen) == 1
    (call,) = (await yard.log()).state.in_doubt
    assert call.reason == "record_may_be_missing"


async def test_that_outlives_the_next_owner_but_not_the_step(yard: Yard, far: Far) -> None:
    other = await lost(yard, far, lifetime_s=0.4)
    await other.pod.sidecar.keepers["r1"].release("left")
    agent = await other.agent(wait_s=WAIT_S)
    await asyncio.sleep(0.3)
    assert (await other.ask("mail/x", json={})).status == 424
    await agent.commit(b"over")
    assert (await other.ask("mail/y", json={})).status == 200


async def test_where_the_journal_is_there_nothing_is_missing(yard: Yard, far: Far) -> None:
    other = await lost(yard, far, lifetime_s=0.4, me="pod1.s2")
    await asyncio.sleep(0.3)
    assert (await other.ask("mail/x", json={})).decision == "replayed"
    assert (await yard.log()).state.gap_ms == 0
