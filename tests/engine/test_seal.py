"""When deltas are folded into objects, and what is read and put for that."""

import os

from coatcheck_sidecar.core.delta import HEAD_DELTAS_BYTES_MAX, Chain, Delta
from coatcheck_sidecar.engine.seal import DRAINING_DELTAS_BYTES_MAX, must_seal
from coatcheck_sidecar.ports import Stored
from tests.engine.harness import Link, Yard, yard


class Read(Link):
    """Says which objects were read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    async def get(self, name: str) -> Stored | None:
        self.read.append(name)
        return await super().get(name)


def test_a_drain_seals_only_what_no_head_may_carry() -> None:
    for size, is_sealed, is_sealed_draining in (
        (HEAD_DELTAS_BYTES_MAX, False, False),
        (HEAD_DELTAS_BYTES_MAX + 1, True, False),
        (DRAINING_DELTAS_BYTES_MAX, True, False),
        (DRAINING_DELTAS_BYTES_MAX + 1, True, True),
    ):
        chain = Chain(deltas=(Delta(1, bytes(size)),))
        assert must_seal(chain, is_draining=False) is is_sealed
        assert must_seal(chain, is_draining=True) is is_sealed_draining


async def objects(yard: Yard) -> int:
    return len(await yard.store.list("runs/r1/o/"))


async def test_a_base_is_read_back_only_if_it_may_stay() -> None:
    store = Read()
    async with yard(store) as made:
        pod = await made.pod()
        agent = await pod.agent()
        state = os.urandom(100_000)
        await agent.commit(state, level="remote")
        assert await objects(made) == 1
        store.read.clear()
        state += os.urandom(HEAD_DELTAS_BYTES_MAX + 100)
        await agent.commit(state, level="remote")  # a mid, against the base
        assert len([name for name in store.read if "/o/" in name]) == 1
        store.read.clear()
        await agent.commit(os.urandom(100_000), level="remote")  # a new base, whatever it was
        assert not [name for name in store.read if "/o/" in name]
        assert (await made.log()).chain.mid is None


async def test_the_last_delta_of_a_drain_goes_in_the_head() -> None:
    async with yard(Read()) as made:
        pod = await made.pod()
        agent = await pod.agent()
        state = os.urandom(100_000)
        await agent.commit(state, level="remote")
        before = await objects(made)
        pod.sidecar.drain.begin("preStop")
        state += os.urandom(HEAD_DELTAS_BYTES_MAX + 100)
        await agent.commit(state)
        assert await objects(made) == before
        await agent.release("draining")
        assert await pod.sidecar.drain.finish()
        heir = await (await made.pod("pod2.s1")).wire()
        reply = await heir.ask("open", {"run": "r1", "queue": "default", "schema": 1,
                                        "create": True, "wait_s": 5.0})  # fmt: skip
        assert reply.attachment == state
