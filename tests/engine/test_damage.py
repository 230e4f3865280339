"""Objects flipped, missing, swapped, cut or from the future: named, held, and never lessened."""

import struct
from collections.abc import Callable
from hashlib import sha256

import pytest

from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.objects import Kind, unseal
from coatcheck_sidecar.engine.restore import read_head
from coatcheck_sidecar.engine.scan import scan_some
from coatcheck_sidecar.stores.memory_journal import MemoryJournal
from tests.engine.harness import Pod, RefusedError, Yard, link, still_serves, until

STATE = bytes(range(256)) * 1_000
"""256 KB that do not compress to nothing."""


def noise(number: int, length: int) -> bytes:
    """Bytes that no compressor makes smaller."""
    blocks = (sha256(b"%d %d" % (number, i)).digest() for i in range(length // 32 + 1))
    return b"".join(blocks)[:length]


async def a_run_with_everything(yard: Yard, pod: Pod) -> dict[str, str]:
    """`r1` with a base, a mid, deltas, a pack and a body; their names by kind. It is released."""
    agent = await pod.agent("r1", input=b"\xc4\x03abc")
    state = noise(0, 150_000)
    await agent.commit(state, level="remote")
    for number in range(1, 4):
        state = state[:-20_000] + noise(number, 20_000)
        await agent.commit(state, level="remote")
    for number in range(40):
        go = await agent.call("note", "idempotent", args={"n": number, "pad": "x" * 100})
        await agent.outcome(go, result="y" * 200)
    big = await agent.call("read", "idempotent", args={"page": 1})
    await agent.outcome(big, result="z" * 10_000)
    await agent.release()
    found = await read_head(yard.store, "r1")
    assert found is not None
    head = found[0]
    assert head.chain.base is not None
    assert head.chain.mid is not None
    names = {
        "base": head.chain.base.name,
        "mid": head.chain.mid.name,
        "pack": head.packs[0].ref.name,
    }
    others = [r.name for r in head.named_objects() if r.name not in names.values()]
    return {**names, "body": others[0]}


def flipped(data: bytes) -> bytes:
    place = len(data) * 2 // 3
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "flipped": flipped,
    "a byte short": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"\0",
    "zeros": lambda data: bytes(len(data)),
}


async def spoil(yard: Yard, name: str, *, how: str, other: str = "") -> None:
    stored = await yard.store.get(name)
    assert stored is not None
    if how == "missing":
        await yard.store.delete(name)
    elif how == "another":
        instead = await yard.store.get(other)
        assert instead is not None
        await yard.store.put(name, instead.data)
    else:
        await yard.store.put(name, CHANGES[how](stored.data))


@pytest.mark.parametrize("kind", ["base", "pack"])
@pytest.mark.parametrize("how", ["missing", "another", *CHANGES])
async def test_what_a_run_can_not_do_without_holds_it(
    yard: Yard, pod: Pod, kind: str, how: str
) -> None:
    names = await a_run_with_everything(yard, pod)
    before = await read_head(yard.store, "r1")
    assert before is not None
    await spoil(yard, names[kind], how=how, other=names["base" if kind != "base" else "mid"])
    for _ in range(2):
        with pytest.raises(RefusedError, match="damaged: run r1 is held") as caught:
            await pod.agent("r1")
        assert names[kind] in caught.value.message
    after = await read_head(yard.store, "r1")
    assert after is not None
    assert (after[0].status, after[0].epoch) == (Status.HELD, before[0].epoch + 1)
    assert names[kind] in after[0].reason
    lost = {ref.name for ref in before[0].named_objects()} - {
        ref.name for ref in after[0].named_objects()
    }
    assert not lost
    assert after[0].records[: len(before[0].records)] == before[0].records
    await still_serves(pod)


@pytest.mark.parametrize("how", list(CHANGES))
async def test_a_damaged_head_is_left_as_it_is(yard: Yard, pod: Pod, how: str) -> None:
    await a_run_with_everything(yard, pod)
    await spoil(yard, head_name("r1"), how=how)
    spoilt = await yard.store.get(head_name("r1"))
    with pytest.raises(RefusedError, match=r"damaged: run r1: runs/r1/head"):
        await pod.agent("r1")
    assert await yard.store.get(head_name("r1")) == spoilt
    wire = await pod.wire()
    with pytest.raises(RefusedError, match=r"damaged.*runs/r1/head"):
        await wire.ask("result", {"run": "r1"})


async def test_a_head_of_another_run_is_none(yard: Yard, pod: Pod) -> None:
    await a_run_with_everything(yard, pod)
    other = await pod.agent("r2")
    await other.release()
    await spoil(yard, head_name("r2"), how="another", other=head_name("r1"))
    spoilt = await yard.store.get(head_name("r2"))
    with pytest.raises(RefusedError, match=r"damaged.*runs/r2/head"):
        await pod.agent("r2")
    assert await yard.store.get(head_name("r2")) == spoilt


def from_the_future(data: bytes) -> bytes:
    """What release 9 wrote, and only release 8 and later can read."""
    head = data[:5] + bytes([9, 8]) + data[7:24]
    payload = data[56:]
    return head + sha256(head + payload).digest() + payload


@pytest.mark.parametrize("kind", ["head", "base"])
async def test_a_format_of_the_future_is_refused_by_name(yard: Yard, pod: Pod, kind: str) -> None:
    names = await a_run_with_everything(yard, pod)
    name = {"head": head_name("r1"), **names}[kind]
    stored = await yard.store.get(name)
    assert stored is not None
    unseal(name, stored.data, kind={"head": Kind.HEAD, "base": Kind.BASE}[kind])
    await yard.store.put(name, from_the_future(stored.data))
    with pytest.raises(RefusedError) as caught:
        await pod.agent("r1")
    assert name in caught.value.message
    if kind == "head":  # nothing is wrong with the run: it waits for a newer release
        assert (caught.value.code, caught.value.body["retry"]) == ("unavailable", "later")
        assert "upgrade it" in caught.value.message
        again = await yard.store.get(name)
        assert again is not None
        assert again.data == from_the_future(stored.data)


async def test_a_damaged_object_does_not_hold_a_run_whose_owner_is_well(yard: Yard) -> None:
    """The owner has it all in memory, and seals it anew."""
    pod = await yard.pod()
    agent = await pod.agent("r1")
    state = noise(0, 150_000)
    await agent.commit(state, level="remote")
    found = await read_head(yard.store, "r1")
    assert found is not None
    assert found[0].chain.base is not None
    await spoil(yard, found[0].chain.base.name, how="flipped")
    other = await yard.pod("pod2.s1")
    with pytest.raises(RefusedError, match=r"owned by pod1\.s1"):
        await other.agent("r1")
    for number in range(4):
        state = state[:-20_000] + noise(number, 20_000)
        await agent.commit(state, level="remote")
    assert (await yard.log("r1")).checkpoint_bytes == state
    assert pod.notes.of("damaged")


async def test_a_head_damaged_under_its_owner_ends_the_ownership(yard: Yard) -> None:
    """Nobody knows any more who owns the run: not this one either."""
    pod = await yard.pod()
    agent = await pod.agent("r1")
    await agent.commit(b"one", level="remote")
    await spoil(yard, head_name("r1"), how="flipped")
    spoilt = await yard.store.get(head_name("r1"))
    with pytest.raises(RefusedError, match=r"damaged.*runs/r1/head"):
        await agent.commit(b"two", level="remote")
    assert await yard.store.get(head_name("r1")) == spoilt
    journal = pod.journal
    assert isinstance(journal, MemoryJournal)
    await until(lambda: journal.asides)
    await still_serves(pod)


async def test_damaged_hints_are_passed_over(yard: Yard, pod: Pod) -> None:
    """Markers, heartbeats and commands that are junk, beside good ones."""
    agent = await pod.agent("good", queue="q")
    await agent.release()
    for name in (
        "ready/q/r7/1",
        "owners/pod9.s1/heartbeat",
        "owners/pod1.s1/in/good-c1",
        "ready/q/x",
    ):
        await yard.store.put(name, b"junk")
    await until(lambda: len(pod.notes.of("damaged")) >= 2)
    wire = await pod.wire()
    assert (await wire.open(None, queue="q", create=False, wait_s=1.0)).body["run"] == "good"
    assert await yard.store.get("owners/pod1.s1/in/good-c1") is None
    await wire.release()


async def test_a_lost_marker_is_put_back_and_a_damaged_head_hinders_nobody(
    yard: Yard, pod: Pod
) -> None:
    for run in ("a", "b", "c"):
        agent = await pod.agent(run)
        await agent.release()
        await agent.drop()
    await spoil(yard, head_name("b"), how="flipped")  # before the pod's own scan finds it
    for entry in await yard.store.list("ready/"):
        await yard.store.delete(entry.name)
    after = await scan_some(pod.sidecar.fleet, "", on_head=untouched)
    assert after == ""
    assert [e.name for e in await yard.store.list("ready/")] == [
        "ready/default/a/1", "ready/default/c/1",
    ]  # fmt: skip


async def untouched(_head: Head) -> bool:
    return False


# The journal


async def journal_of(yard: Yard, pod: Pod) -> MemoryJournal:
    """Of a pod that died with three commits unshipped."""
    agent = await pod.agent("r1")
    link(yard).is_away = True
    for state in (b"one", b"two", b"three"):
        await agent.commit(state)
    await pod.die()
    link(yard).is_away = False
    assert isinstance(pod.journal, MemoryJournal)
    return pod.journal.survivors(reboot=False)


@pytest.mark.parametrize("how", ["half", "empty", "zeros", "longer", "of the future"])
async def test_a_damaged_row_ends_its_runs_tail(yard: Yard, how: str) -> None:
    """What is before it goes on, what is behind it is told; other runs and the start are well."""
    journal = await journal_of(yard, await yard.pod())
    key = sorted(journal._rows)[1]
    row = journal._rows[key]
    data = row.data.replace(b"checkpoint", b"chackpoint")
    if how != "of the future":
        data = CHANGES[how](row.data)
    journal._rows[key] = type(row)(row.run, row.epoch, row.seq, data)
    pod = await yard.pod("pod1.s2", journal=journal)
    agent = await pod.agent("r1", wait_s=1.0)
    assert agent.step == 2
    assert pod.notes.of("row_damaged")
    log = await yard.log("r1")
    assert log.checkpoint_bytes == b"one"


async def test_a_row_whose_file_is_gone(yard: Yard) -> None:
    pod = await yard.pod()
    agent = await pod.agent("r1")
    await agent.commit(b"small", level="remote")
    link(yard).is_away = True
    await agent.commit(noise(1, 400_000))
    await pod.die()
    link(yard).is_away = False
    assert isinstance(pod.journal, MemoryJournal)
    (file,) = (yard.folder / "pod1.spool").iterdir()
    file.write_bytes(flipped(file.read_bytes()))
    pod = await yard.pod("pod1.s2", journal=pod.journal.survivors(reboot=False))
    assert (await pod.agent("r1", wait_s=1.0)).step == 2
    assert file.name in str(pod.notes.of("row_damaged")[0]["error"])


def test_a_flip_is_one_bit() -> None:
    data = struct.pack(">Q", 1 << 20) * 4
    assert sum(a != b for a, b in zip(data, flipped(data), strict=True)) == 1
