"""Big values over loopback: kept, given back, resumed, dropped, damaged; never half there."""

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coatcheck.errors import Damaged, NotFound, TooLarge
from coatcheck.http import blobs as client
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.blob import BLOBS_MAX, PART_BYTES
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine import blobs as engine
from coatcheck_sidecar.engine.collect import collect
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.restore import read_head
from coatcheck_sidecar.ports import StoreError
from tests.engine.harness import Link, Yard, link, names, until
from tests.engine.proxying import BLOB_BYTES_MAX, Near, near
from tests.engine.test_damage import spoil

BIG = os.urandom(2 * PART_BYTES + 12_345)
NAME = hashlib.sha256(BIG).hexdigest()


async def put(at: Near, data: bytes | Path, *, run: str = "r1") -> str:
    return await asyncio.to_thread(client.put, f"{at.urls[run]}/~blobs", data)


async def got(at: Near, name: str, *, run: str = "r1") -> bytes | None:
    return await asyncio.to_thread(client.get, f"{at.urls[run]}/~blobs", name)


async def parts(yard: Yard) -> list[str]:
    """Objects of the run that hold a part."""
    found = [(name, await yard.store.get(name)) for name in await names(yard, "runs/r1/o/")]
    return [name for name, stored in found if stored is not None and stored.data[4:5] == b"V"]


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, len(BIG)])
async def test_what_was_put_is_given_back(yard: Yard, size: int) -> None:
    at = await near(yard, {})
    await at.agent()
    data = BIG[:size]
    name = await put(at, data)
    assert name == hashlib.sha256(data).hexdigest()
    assert await got(at, name) == data
    assert await put(at, data) == name
    assert len(await parts(yard)) == -(-size // PART_BYTES)


async def test_files_go_in_and_come_out_whole(yard: Yard, tmp_path: Path) -> None:
    at = await near(yard, {})
    await at.agent()
    source, to = tmp_path / "in", tmp_path / "out"
    source.write_bytes(BIG)
    name = await put(at, source)
    url = f"{at.urls['r1']}/~blobs"
    assert await asyncio.to_thread(client.get, url, name, to=to) is None
    assert to.read_bytes() == BIG
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


async def test_the_next_owner_has_it_and_collection_leaves_it(yard: Yard) -> None:
    at = await near(yard, {})
    agent = await at.agent()
    await put(at, BIG)
    await agent.commit(b"one", level="remote")
    await agent.release()
    assert (await collect(yard.store, "r1", grace_s=0.0)).deleted == 0
    (verdict,) = await Outside(yard.store, SystemClock()).upkeep.verify("r1")
    assert (verdict.faults, verdict.unnamed) == ((), 0)
    other = await near(yard, {}, me="pod2.s1")
    await other.agent()
    assert await got(other, NAME) == BIG


async def test_dropped_or_when_the_run_is_over_it_goes(yard: Yard) -> None:
    at = await near(yard, {})
    agent = await at.agent()
    small = await put(at, b"small")
    await put(at, BIG)
    await asyncio.to_thread(client.drop, f"{at.urls['r1']}/~blobs", NAME)
    with pytest.raises(NotFound):
        await got(at, NAME)
    await asyncio.to_thread(client.drop, f"{at.urls['r1']}/~blobs", NAME)
    await agent.commit(b"one", level="remote")
    await collect(yard.store, "r1", grace_s=0.0)
    assert len(await parts(yard)) == 1
    assert await got(at, small) == b"small"
    await agent.finish()
    await collect(yard.store, "r1", grace_s=0.0)
    assert await parts(yard) == []


async def test_a_put_that_broke_off_goes_on_where_it_was(yard: Yard) -> None:
    at = await near(yard, {})
    await at.agent()
    url = f"{at.urls['r1']}/~blobs/{NAME}"
    sent = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield BIG[: PART_BYTES + 100]
        await until(lambda: parts(yard))
        sent.set()
        await asyncio.sleep(60)

    going = asyncio.ensure_future(
        at.session.put(url, data=half(), headers={"Content-Length": str(len(BIG))})
    )
    await sent.wait()
    first = await parts(yard)
    going.cancel()
    await asyncio.gather(going, return_exceptions=True)

    async def is_free() -> bool:
        async with at.session.head(url) as answer:
            return answer.headers.get("Coatcheck-Received") == str(PART_BYTES)

    await until(is_free)
    assert await put(at, BIG) == NAME
    assert await got(at, NAME) == BIG
    assert set(first) <= set(await parts(yard))
    assert len(await parts(yard)) == 3


async def test_what_is_on_its_way_is_not_collected(yard: Yard) -> None:
    at = await near(yard, {})
    agent = await at.agent()
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield BIG[: PART_BYTES + 100]
        await go_on.wait()
        yield BIG[PART_BYTES + 100 :]

    url = f"{at.urls['r1']}/~blobs/{NAME}"
    going = asyncio.ensure_future(
        at.session.put(url, data=slow(), headers={"Content-Length": str(len(BIG))})
    )
    await until(lambda: parts(yard))
    for number in range(3):
        await agent.commit(b"%d" % number, level="remote")
    await collect(yard.store, "r1", grace_s=0.0)
    assert len(await parts(yard)) == 1
    go_on.set()
    async with await going as answer:
        assert answer.status == 201
    assert await got(at, NAME) == BIG
    await agent.commit(b"last", level="remote")
    found = await read_head(yard.store, "r1")
    assert found is not None
    assert found[0].floor == found[0].seq + 1


async def test_another_sidecar_begins_anew_and_what_was_half_there_goes(yard: Yard) -> None:
    at = await near(yard, {})
    agent = await at.agent()
    url = f"{at.urls['r1']}/~blobs/{NAME}"
    headers = {"Content-Length": str(len(BIG))}

    async def half() -> AsyncIterator[bytes]:
        yield BIG[: PART_BYTES + 100]
        await asyncio.sleep(60)

    going = asyncio.ensure_future(at.session.put(url, data=half(), headers=headers))
    await until(lambda: parts(yard))
    going.cancel()
    await asyncio.gather(going, return_exceptions=True)
    await agent.release()
    other = await near(yard, {}, me="pod2.s1")
    await other.agent()
    await collect(yard.store, "r1", grace_s=0.0)
    assert await parts(yard) == []
    assert await put(other, BIG) == NAME
    assert await got(other, NAME) == BIG


@pytest.mark.parametrize("is_whole", [False, True])
async def test_what_came_before_the_run_was_claimed_anew_here_is_not_built_on(
    yard: Yard, is_whole: bool
) -> None:
    """Its parts are of an older epoch then, and a collector anywhere may have had them."""
    at = await near(yard, {})
    agent = await at.agent()
    keeper = at.pod.sidecar.keepers["r1"]
    blobs = engine.Blobs(keeper, bytes_max=BLOB_BYTES_MAX)
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield BIG[: PART_BYTES + 100]
        await go_on.wait()
        if is_whole:
            yield BIG[PART_BYTES + 100 :]

    going = asyncio.ensure_future(blobs.put(NAME, slow(), offset=0, length=len(BIG)))
    await until(lambda: parts(yard))
    await agent.drop()
    await at.agent()  # another life of the agent, under the same sidecar
    assert at.pod.sidecar.keepers["r1"] is keeper
    await collect(yard.store, "r1", grace_s=0.0)
    assert await parts(yard) == []
    go_on.set()
    with pytest.raises(Refusal) as caught:
        await going
    assert caught.value.retry == "later"
    assert blobs.received(NAME) == 0
    assert await put(at, BIG) == NAME
    assert await got(at, NAME) == BIG


@pytest.mark.parametrize("how", ["missing", "flipped", "a byte short"])
async def test_a_damaged_part_is_named(yard: Yard, how: str) -> None:
    at = await near(yard, {})
    await at.agent()
    await put(at, b"first")
    await put(at, BIG)
    for spoilt in await parts(yard):
        stored = await yard.store.get(spoilt)
        assert stored is not None
        await spoil(yard, spoilt, how=how)
        (verdict,) = await Outside(yard.store, SystemClock()).upkeep.verify("r1")
        assert [(fault.name, fault.part) for fault in verdict.faults] == [(spoilt, "part")]
        await yard.store.put(spoilt, stored.data)
    (spoilt,) = [name for name in await parts(yard) if (await length(yard, name)) < 1_000]
    await spoil(yard, spoilt, how=how)
    with pytest.raises(Damaged, match=spoilt):
        await got(at, hashlib.sha256(b"first").hexdigest())
    assert await got(at, NAME) == BIG


async def length(yard: Yard, name: str) -> int:
    stored = await yard.store.get(name)
    assert stored is not None
    return len(stored.data)


async def test_damage_behind_the_first_part_is_never_taken_for_all(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "BACK_OFF_S", 0.001)
    at = await near(yard, {})
    await at.agent()
    await put(at, BIG)
    found = await read_head(yard.store, "r1")
    assert found is not None
    for name in await parts(yard):
        if await length(yard, name) < PART_BYTES:
            await spoil(yard, name, how="flipped")
    with pytest.raises(Exception, match=r"IncompleteRead|not all|reset"):
        await got(at, NAME)


async def test_bad_asking_is_told(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    at = await near(yard, {})
    await at.agent()
    for path, method, headers, status in (
        ("~blobs/xyz", "PUT", {}, 400),
        (f"~blobs/{NAME}", "POST", {}, 400),
        (f"~blobs/{NAME}", "PUT", {"Content-Range": "bytes 5"}, 400),
        (f"~blobs/{NAME}", "PUT", {"Content-Range": "bytes 5-7/9"}, 422),
        (f"~blobs/{NAME}", "PUT", {"Content-Range": "bytes 0-9/9"}, 400),
        (f"~blobs/{NAME}", "GET", {}, 404),
    ):
        data = b"abc" if method != "GET" else None
        answer = await at.ask(path, method=method, headers=headers, data=data)
        assert answer.status == status, (path, method, headers, answer.body)
    wrong = await at.ask(f"~blobs/{NAME}", method="PUT", data=b"not it")
    assert "are not of digest" in wrong.json["detail"]
    async with at.session.head(f"{at.urls['r1']}/~blobs/{NAME}") as head:
        assert (head.status, head.headers["Coatcheck-Received"]) == (404, "0")
    said = {"Content-Range": f"bytes 0-2/{BLOB_BYTES_MAX + 1}"}
    large = await at.ask(f"~blobs/{NAME}", method="PUT", data=b"abc", headers=said)
    assert (large.status, large.json["limit"]) == (413, BLOB_BYTES_MAX)
    monkeypatch.setattr(engine, "BLOBS_MAX", 1)
    await put(at, b"one")
    with pytest.raises(TooLarge, match="drop those"):
        await put(at, b"two")
    assert BLOBS_MAX > 1


async def test_a_store_that_is_away_is_waited_for_and_then_told(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RETRY_BASE_S", 0.005)
    at = await near(yard, {})
    await at.agent()
    failures = 2
    store_put = Link.put

    async def flaky(self: Link, name: str, data: bytes) -> None:
        nonlocal failures
        if data[4:5] == b"V" and failures:
            failures -= 1
            raise StoreError("not now")
        await store_put(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Link, "put", flaky)
        await put(at, b"flaky")
    link(yard).is_away = True
    digest = hashlib.sha256(b"away").hexdigest()
    answer = await at.ask(f"~blobs/{digest}", method="PUT", data=b"away")
    assert (answer.status, answer.json["code"]) == (503, "store_unavailable")
    link(yard).is_away = False
    assert await put(at, b"away") == digest


async def test_while_the_pod_drains_no_blob_takes_the_links_time(yard: Yard) -> None:
    at = await near(yard, {})
    agent = await at.agent()
    at.pod.sidecar.drain.begin("SIGTERM", grace_s=5.0)
    answer = await at.ask(f"~blobs/{NAME}", method="PUT", data=io.BytesIO(BIG))
    assert answer.json["code"] in ("draining", "fenced")
    await agent.drop()


async def test_only_so_many_broken_off_ones_are_remembered(yard: Yard) -> None:
    at = await near(yard, {})
    await at.agent()
    keeper = at.pod.sidecar.keepers["r1"]
    for number in range(engine.COMING_MAX + 3):
        digest = hashlib.sha256(b"%d" % number).hexdigest()
        said = {"Content-Range": "bytes 0-2/9"}
        answer = await at.ask(f"~blobs/{digest}", method="PUT", data=b"abc", headers=said)
        assert answer.json["code"] == "unavailable"
    assert len(keeper.log.uploading) == engine.COMING_MAX


async def test_a_long_list_of_parts_lies_in_an_object_and_is_found(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PART_BYTES", 10)
    at = await near(yard, {})
    agent = await at.agent()
    data = os.urandom(1_000)
    name = await put(at, data)
    assert len(await parts(yard)) == 100
    await agent.release()
    await collect(yard.store, "r1", grace_s=0.0)
    (verdict,) = await Outside(yard.store, SystemClock()).upkeep.verify("r1")
    assert (verdict.faults, verdict.unnamed) == ((), 0)
    other = await near(yard, {}, me="pod2.s1")
    await other.agent()
    assert await got(other, name) == data
