"""Big states, of which agents send what changed: kept, shipped and given back whole."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from coatcheck.wire import make_patch
from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.patch_delta import FIRST_BYTE
from coatcheck_sidecar.core.snapshot import Snapshot, seal_state
from coatcheck_sidecar.engine.restore import read_head
from coatcheck_sidecar.stores.memory_journal import MemoryJournal
from tests.engine.harness import Wire, Yard, link, until
from tests.engine.test_damage import noise

BIG = noise(0, 600_000)
"""Sealed beside the loop."""


class Talk:
    """An agent whose state grows by a message a step; it sends patches."""

    def __init__(self, agent: Wire) -> None:
        self.agent = agent
        self.state = BIG
        self.seq = 0
        self._numbers: Iterator[int] = count(1)

    async def begin(self) -> None:
        self.seq = await self.agent.commit(self.state, level="remote")

    async def say(self, *, level: str = "node") -> None:
        new = b"%3d" % next(self._numbers) + self.state[3:] + noise(len(self.state), 3_000)
        patch = make_patch(self.state, new)
        assert patch is not None
        said = {"base": self.seq, "length": patch.length, "ranges": patch.ranges}
        self.seq = await self.agent.commit(patch.data, level=level, patch=said)
        self.state = new


async def head_of(yard: Yard) -> Head:
    found = await read_head(yard.store, "r1")
    assert found is not None
    return found[0]


async def test_patches_are_kept_as_such_and_restored(yard: Yard) -> None:
    pod = await yard.pod()
    talk = Talk(await pod.agent("r1"))
    await talk.begin()
    kinds = set()
    for _ in range(12):
        await talk.say(level="remote")
        assert (await yard.log("r1")).checkpoint_bytes == talk.state
        head = await head_of(yard)
        kinds.add((head.chain.mid is not None, len(head.chain.deltas) > 0))
        assert all(delta.data[0] == FIRST_BYTE for delta in head.chain.deltas)
    assert kinds >= {(False, True), (True, False), (True, True)}


async def test_a_journal_of_patches_is_replayed(yard: Yard) -> None:
    pod = await yard.pod()
    talk = Talk(await pod.agent("r1"))
    await talk.begin()
    link(yard).is_away = True
    for _ in range(6):
        await talk.say()
    await pod.die()
    link(yard).is_away = False
    assert isinstance(pod.journal, MemoryJournal)
    pod = await yard.pod("pod1.s2", journal=pod.journal.survivors(reboot=False))
    agent = await pod.agent("r1", wait_s=1.0)
    assert agent.step == 8
    assert pod.sidecar.keepers["r1"].log.checkpoint_bytes == talk.state


async def test_commits_go_on_while_a_state_is_sealed_beside_the_loop(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sealed is the state of the head that names it, not the newest."""
    sealed: list[tuple[int, int]] = []

    def watched(snapshot: Snapshot, **more: Any) -> Snapshot:
        made = seal_state(snapshot, **more)
        sealed.append((snapshot.head.seq, pod.sidecar.keepers["r1"].log.state.seq))
        return made

    monkeypatch.setattr("coatcheck_sidecar.engine.seal.seal_state", watched)
    pod = await yard.pod()
    talk = Talk(await pod.agent("r1"))
    await talk.begin()
    for _ in range(60):
        await talk.say()
    await talk.say(level="remote")
    await until(lambda: pod.sidecar.keepers["r1"].log.unshipped == 0)
    assert (await yard.log("r1")).checkpoint_bytes == talk.state
    assert len(sealed) > 2
    assert any(newest > seq for seq, newest in sealed)


async def test_a_patch_of_a_state_that_was_replaced_meanwhile(yard: Yard) -> None:
    """Two commits sent at once: the second starts from what the first has replaced."""
    pod = await yard.pod()
    talk = Talk(await pod.agent("r1"))
    await talk.begin()
    old = talk.state
    link(yard).is_away = True
    body = {"level": "node", "schema": 1}
    first = noise(7, 600_000)
    patch = {"base": talk.seq, "length": 600_003, "ranges": [[600_000, 3]]}
    replies = [
        talk.agent.send("commit", {**body, "step": 2}, first),
        talk.agent.send("commit", {**body, "step": 3, "patch": patch}, b"end"),
    ]
    assert [(await reply).type for reply in replies] == ["ok", "ok"]
    assert pod.sidecar.keepers["r1"].log.checkpoint_bytes == old + b"end"
    await pod.die()
    link(yard).is_away = False
    assert isinstance(pod.journal, MemoryJournal)
    pod = await yard.pod("pod1.s2", journal=pod.journal.survivors(reboot=False))
    await pod.agent("r1", wait_s=1.0)
    assert pod.sidecar.keepers["r1"].log.checkpoint_bytes == old + b"end"
