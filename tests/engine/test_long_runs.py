"""A run of ten thousand steps is as small and as quick to bring back as one of a hundred."""

import random

import pytest

from coatcheck_sidecar.core.head import decode_head
from coatcheck_sidecar.engine.collect import collect
from coatcheck_sidecar.engine.restore import read_head
from coatcheck_sidecar.ports import Stored
from tests.engine.harness import Link, Wire, Yard, link

STEPS = 10_000
CALLS = 4
HEAD_BYTES_MAX = 256 * 1024
WORDS = ("the", "invoice", "of", "March", "was", "paid", "late", "and", "nobody", "asked", "why")


class Chat:
    """An agent whose state grows by a message a step, sent as a patch."""

    def __init__(self, agent: Wire) -> None:
        self.agent = agent
        self.random = random.Random(7)
        self.state = bytearray()
        self.seq = 0

    def text(self, length: int) -> str:
        return " ".join(self.random.choice(WORDS) for _ in range(length))

    async def step(self, number: int) -> None:
        if number % 100 == 0:
            go = await self.agent.call("model", "idempotent", args={"messages": number})
            await self.agent.outcome(go, result=self.text(18_000))
        for call in range(CALLS):
            asked = {"invoice": number * CALLS + call, "note": self.text(8)}
            go = await self.agent.call(args=asked)
            await self.agent.outcome(go, result={"receipt": self.text(5)})
        at = len(self.state)
        self.state += self.text(60).encode()
        if not self.seq or len(self.state) < 40_000:
            self.seq = await self.agent.commit(bytes(self.state))
            return
        patch = {
            "base": self.seq,
            "length": len(self.state),
            "ranges": [[at, len(self.state) - at]],
        }
        self.seq = await self.agent.commit(bytes(self.state[at:]), patch=patch)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_ten_thousand_steps(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = await yard.pod()
    biggest = packs = 0
    swap = Link.swap

    async def watched(self: Link, name: str, data: bytes, *, expected: str | None) -> str:
        nonlocal biggest, packs
        if name == "runs/r1/head":
            biggest = max(biggest, len(data))
            packs = max(packs, len(decode_head(name, data).packs))
        return await swap(self, name, data, expected=expected)

    monkeypatch.setattr(Link, "swap", watched)
    chat = Chat(await pod.agent("r1"))
    for number in range(1, STEPS + 1):
        await chat.step(number)
        if number % 500 == 0:  # as its owner does each hour
            await collect(yard.store, "r1", grace_s=0.0)
    await chat.agent.release()
    await collect(yard.store, "r1", grace_s=0.0)
    found = await read_head(yard.store, "r1")
    assert found is not None
    kept = sum(entry.length for entry in await yard.store.list("runs/r1/"))
    gets: list[str] = []
    get = Link.get

    async def counted(self: Link, name: str) -> Stored | None:
        gets.append(name)
        return await get(self, name)

    monkeypatch.setattr(Link, "get", counted)
    opened = await (await pod.wire()).open("r1")
    assert opened.attachment == bytes(chat.state)
    reads = [name for name in gets if name.startswith("runs/r1/o/")]
    print(
        f"state {len(chat.state)}, head at most {biggest}, packs at most {packs}, "
        f"kept {kept / len(chat.state):.2f} times the state, {len(reads)} GETs behind the head"
    )
    assert biggest <= HEAD_BYTES_MAX
    assert packs <= 8
    assert len(reads) <= 20
    assert kept <= 5 * len(chat.state)
    assert link(yard) is yard.store
