"""Runs whose store is encrypted: keys that change, go and come back while agents are at work."""

import base64
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.envelope import key_id_of
from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.restore import read_head
from coatcheck_sidecar.ports import Store, Stored
from coatcheck_sidecar.stores.encrypted import with_keys
from tests.engine.harness import Link, RefusedError, Yard, yard

SECRET = b"a secret that nobody else may read "


class Ring:
    """A file of keys, and a store below that is encrypted with them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inner = Link()
        self.has("old")

    def has(self, *ids: str) -> None:
        """The file as it is from now on."""
        lines = (f"{i}: {base64.b64encode(i.encode().ljust(32, b'=')).decode()}" for i in ids)
        self.path.write_text("\n".join(lines))

    def opened(self) -> Store:
        """As a sidecar that has just started opens it."""
        return with_keys(self.inner, self.path, clock=SystemClock())

    async def written_by(self, prefix: str = "") -> dict[str, str | None]:
        """Key ids by name, of all that lies in the store."""
        found: dict[str, str | None] = {}
        for line in await self.inner.list(prefix):
            stored = await self.inner.get(line.name)
            assert isinstance(stored, Stored)
            assert SECRET not in stored.data
            found[line.name] = key_id_of(stored.data)
        return found


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path / "keys")


@contextlib.asynccontextmanager
async def fleet(ring: Ring) -> AsyncIterator[Yard]:
    async with yard(ring.opened()) as made:
        yield made


async def test_nothing_leaves_the_pod_in_the_clear(ring: Ring) -> None:
    async with fleet(ring) as made:
        pod = await made.pod()
        agent = await pod.agent("r1", input=SECRET)
        await agent.commit(SECRET * 10_000, level="remote")
        go = await agent.call(args={"note": SECRET.decode()})
        await agent.outcome(go, result=SECRET.decode() * 500)
        await agent.release()
        other = await made.pod("pod2.s1")
        again = await other.agent("r1")
        await again.finish(SECRET.decode())
        written = await ring.written_by()
    kinds = {name.split("/")[0] for name in written}
    assert {"runs", "owners"} <= kinds
    assert len(written) > 3
    assert set(written.values()) == {"old"}


async def test_keys_rotate_in_the_middle_of_a_run(ring: Ring) -> None:
    """Added behind, then in front, then the old one gone: no agent and no pod is started anew."""
    states = [b"%d " % n + SECRET + noise(150_000) for n in range(4)]
    async with fleet(ring) as made:
        pod = await made.pod(store=ring.opened())
        agent = await pod.agent("r1")
        await agent.commit(states[0], level="remote")
        for step, ids in enumerate([("old", "new"), ("new", "old")], start=1):
            ring.has(*ids)
            await SystemClock().sleep(1.1)  # the file is looked at once a second
            await agent.commit(states[step], level="remote")
            assert (await ring.written_by("runs/r1/head"))["runs/r1/head"] == ids[0]
        go = await agent.call("charge", "once")
        await agent.outcome(go, result="done")
        await agent.release()
        assert set((await ring.written_by("runs/")).values()) == {"old", "new"}
        other = await made.pod("pod2.s1", store=ring.opened())
        taken = await other.agent("r1")
        assert taken.epoch == agent.epoch + 1
        log = await made.log()
        assert log.checkpoint is not None
        assert log.checkpoint.data == states[2]
        await taken.commit(states[3], level="remote")
        assert not other.notes.of("damaged")


async def test_a_key_that_is_gone_is_named_and_nothing_is_put_over(ring: Ring) -> None:
    async with fleet(ring) as made:
        pod = await made.pod()
        agent = await pod.agent("r1")
        await agent.commit(SECRET, level="remote")
        await agent.release()
        before = await ring.inner.get(head_name("r1"))
        ring.has("new")
        other = await made.pod("pod2.s1", store=ring.opened())
        told = r"damaged: run r1: runs/r1/head: encrypted with key old, .*ENCRYPTION_KEYS"
        for _ in range(2):
            with pytest.raises(RefusedError, match=told):
                await other.agent("r1")
        assert await ring.inner.get(head_name("r1")) == before
        fine = await other.agent("r2")
        await fine.commit(b"fine", level="remote")
        ring.has("new", "old")
        back = await other.agent("r1")
        assert back.step == 2


async def test_a_key_gone_under_an_older_object_holds_the_run(ring: Ring) -> None:
    async with fleet(ring) as made:
        pod = await made.pod(store=ring.opened())
        agent = await pod.agent("r1")
        await agent.commit(noise(150_000), level="remote")
        ring.has("new", "old")
        await SystemClock().sleep(1.1)
        await agent.commit(noise(150_000) + b"more", level="remote")
        await agent.release()
        ring.has("new")
        other = await made.pod("pod2.s1", store=ring.opened())
        with pytest.raises(RefusedError, match=r"run r1 is held.*encrypted with key old, which"):
            await other.agent("r1")
        found = await read_head(ring.opened(), "r1")
        assert found is not None
        assert found[0].status is Status.HELD


async def test_a_key_gone_under_the_newest_mid_leaves_nothing_behind(ring: Ring) -> None:
    """An older checkpoint would open: going on from it would lose what the key brings back."""
    async with fleet(ring) as made:
        pod = await made.pod(store=ring.opened())
        agent = await pod.agent("r1")
        state = noise(150_000)
        await agent.commit(state, level="remote")
        ring.has("new", "old")
        await SystemClock().sleep(1.1)
        state = state[:-20_000] + bytes(20_000)
        state += noise(190_000)[150_000:]
        await agent.commit(state, level="remote")
        ring.has("old")
        poor = Outside(ring.opened(), SystemClock())
        with pytest.raises(Refusal, match=r"does not open here: .*encrypted with key new"):
            await poor.rebuild("r1", by="ada")
        ring.has("old", "new")
        await SystemClock().sleep(1.1)
        await agent.commit(state + b"!", level="remote")  # the head alone is under `old` again
        await agent.release()
        ring.has("old")
        other = await made.pod("pod2.s1", store=ring.opened())
        with pytest.raises(RefusedError, match=r"is held.*encrypted with key new, which"):
            await other.agent("r1")
        ring.has("new", "old")
        out = Outside(ring.opened(), SystemClock())
        await out.command(Command(id="0c", run="r1", what="retry", by="ada"))
        again = await made.pod("pod3.s1", store=ring.opened())
        wire = await again.wire()
        assert (await wire.open("r1", wait_s=1.0)).attachment == state + b"!"


async def test_objects_in_each_others_places_are_refused(ring: Ring) -> None:
    async with fleet(ring) as made:
        pod = await made.pod()
        for run in ("r1", "r2"):
            agent = await pod.agent(run)
            await agent.commit(SECRET, level="remote")
            await agent.release()
        stolen = await ring.inner.get(head_name("r2"))
        assert stolen is not None
        await ring.inner.put(head_name("r1"), stolen.data)
        other = await made.pod("pod2.s1")
        with pytest.raises(RefusedError, match=r"damaged: run r1: .*written under another name"):
            await other.agent("r1")
        assert (await other.agent("r2")).step == 2


def noise(length: int) -> bytes:
    """Bytes that no compressor makes smaller."""
    from hashlib import shake_128

    return shake_128(b"noise").digest(length)
