"""What every store must do. A test file for each store inherits `StoreSuite` and opens it."""

import asyncio
import os
import random
import time
from collections.abc import Callable

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.ports import Listed, Store, StoreRefused
from coatcheck_sidecar.stores.probe import probe

BIG = 5 * 1024 * 1024 + 1
"""Over the size from which obstore would send parts."""

# fmt: off
BAD_NAMES = [
    "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".a", "a/.aside", "a\\b",
    "a\0", "a b", "a%2Fb", "é", "a\n", "b" * 256, "c/" * 600 + "c",
]
# fmt: on
BAD_PREFIXES = ["/", "../", "a//", "a/../", "*", "a\\"]

OpenStore = Callable[[], Store]


async def race(
    stores: list[Store], name: str, *, expected: str | None, racers: int
) -> tuple[str, bytes]:
    """Swap from all sides at once; the one winner's tag and bytes."""
    bodies = [os.urandom(32) for _ in range(racers)]
    answers = await asyncio.gather(
        *(
            stores[i % len(stores)].swap(name, body, expected=expected)
            for i, body in enumerate(bodies)
        ),
        return_exceptions=True,
    )
    winners = [(tag, body) for tag, body in zip(answers, bodies, strict=True) if type(tag) is str]
    losers = [answer for answer in answers if isinstance(answer, StoreRefused)]
    assert (len(winners), len(losers)) == (1, racers - 1), answers
    return winners[0]


async def names(store: Store, prefix: str, *, after: str = "", limit: int = 1000) -> list[str]:
    return [line.name for line in await store.list(prefix, after=after, limit=limit)]


class StoreSuite:
    """`open_store` opens the same objects anew at each call; `store` is one such handle."""

    racers = 50
    rounds = 5

    async def test_reads_back_what_was_put(self, store: Store) -> None:
        await store.put("runs/a/o/1", b"\x00\xff\r\n\x00")
        stored = await store.get("runs/a/o/1")
        assert stored is not None
        assert stored.data == b"\x00\xff\r\n\x00"
        assert type(stored.data) is bytes

    async def test_absent_is_none(self, store: Store) -> None:
        await store.put("runs/a/o/1", b"x")
        assert await store.get("runs/a/o/2") is None
        assert await store.get("runs/a/o") is None
        assert await store.get("runs/none/o/1") is None

    async def test_put_may_be_repeated(self, store: Store) -> None:
        for _ in range(3):
            await store.put("runs/a/o/1", b"same")
        stored = await store.get("runs/a/o/1")
        assert stored is not None
        assert stored.data == b"same"
        assert await names(store, "runs/a/o/") == ["runs/a/o/1"]

    @pytest.mark.parametrize("length", [0, 1, 4096, BIG])
    async def test_bodies_of_any_length(self, store: Store, length: int) -> None:
        body = random.Random(length).randbytes(length)
        tag = await store.swap("runs/a/head", body, expected=None)
        await store.put("runs/a/o/1", body)
        for name in ("runs/a/head", "runs/a/o/1"):
            stored = await store.get(name)
            assert stored is not None
            assert stored.data == body
        await store.swap("runs/a/head", body + b"+", expected=tag)
        assert [line.length for line in await store.list("runs/a/")] == [length + 1, length]

    async def test_swaps_follow_one_another(self, store: Store) -> None:
        tag = await store.swap("runs/a/head", b"0", expected=None)
        for number in range(1, 10):
            newer = await store.swap("runs/a/head", b"%d" % number, expected=tag)
            assert newer != tag
            tag = newer
        stored = await store.get("runs/a/head")
        assert stored is not None
        assert (stored.data, stored.tag) == (b"9", tag)

    async def test_a_read_tag_is_good_for_a_swap(self, open_store: OpenStore) -> None:
        one, two = open_store(), open_store()
        await one.swap("runs/a/head", b"0", expected=None)
        stored = await two.get("runs/a/head")
        assert stored is not None
        await two.swap("runs/a/head", b"1", expected=stored.tag)

    async def test_swap_refuses_what_is_not_as_expected(self, store: Store) -> None:
        old = await store.swap("runs/a/head", b"0", expected=None)
        new = await store.swap("runs/a/head", b"1", expected=old)
        for expected in (old, None):
            with pytest.raises(StoreRefused, match="swap of runs/a/head in"):
                await store.swap("runs/a/head", b"2", expected=expected)
        for absent in ("runs/b/head", "runs/a/o/1"):
            with pytest.raises(StoreRefused):
                await store.swap(absent, b"2", expected=new)
            assert await store.get(absent) is None
        stored = await store.get("runs/a/head")
        assert stored is not None
        assert stored.data == b"1"

    async def test_one_creates(self, open_store: OpenStore) -> None:
        stores = [open_store() for _ in range(3)]
        for number in range(self.rounds):
            _, body = await race(stores, f"runs/{number}/head", expected=None, racers=self.racers)
            stored = await stores[0].get(f"runs/{number}/head")
            assert stored is not None
            assert stored.data == body

    async def test_one_swaps(self, open_store: OpenStore) -> None:
        stores = [open_store() for _ in range(3)]
        tag = await stores[0].swap("runs/a/head", b"", expected=None)
        for _ in range(self.rounds):
            tag, body = await race(stores, "runs/a/head", expected=tag, racers=self.racers)
            stored = await stores[0].get("runs/a/head")
            assert stored is not None
            assert (stored.data, stored.tag) == (body, tag)

    async def test_a_slow_zombie_is_refused(self, open_store: OpenStore) -> None:
        zombie, owner = open_store(), open_store()
        tag = stale = await zombie.swap("runs/a/head", os.urandom(64), expected=None)
        for _ in range(20):
            tag = await owner.swap("runs/a/head", os.urandom(64), expected=tag)
            with pytest.raises(StoreRefused):
                await zombie.swap("runs/a/head", os.urandom(64), expected=stale)

    async def test_nonces_tell_equal_states_apart(self, store: Store) -> None:
        """A-B-A: tags may be digests of the content, so each write brings a nonce."""
        first = await store.swap("runs/a/head", b"state A, nonce 1", expected=None)
        second = await store.swap("runs/a/head", b"state B, nonce 2", expected=first)
        await store.swap("runs/a/head", b"state A, nonce 3", expected=second)
        with pytest.raises(StoreRefused):
            await store.swap("runs/a/head", b"zombie", expected=first)

    async def test_delete(self, store: Store) -> None:
        await store.delete("runs/none/o/1")
        tag = await store.swap("runs/a/head", b"0", expected=None)
        await store.put("runs/a/o/1", b"1")
        await store.delete("runs/a/head")
        await store.delete("runs/a/head")
        assert await store.get("runs/a/head") is None
        assert await names(store, "runs/") == ["runs/a/o/1"]
        with pytest.raises(StoreRefused):
            await store.swap("runs/a/head", b"1", expected=tag)
        await store.delete("runs/a/o/1")
        assert await names(store, "") == []
        await store.swap("runs/a/head", b"2", expected=None)
        assert await names(store, "") == ["runs/a/head"]

    async def test_puts_and_deletes_of_one_folder_at_once(self, store: Store) -> None:
        """A store that removes empty folders must not take one away under a writer."""
        for turn in range(10):
            await asyncio.gather(
                *(store.put(f"ready/q/run/{turn}-{n}", b"x") for n in range(4)),
                *(store.delete(f"ready/q/run/{turn - 1}-{n}") for n in range(4)),
            )
        assert await names(store, "ready/") == [f"ready/q/run/9-{n}" for n in range(4)]

    async def test_lists_by_prefix(self, store: Store) -> None:
        for name in ("runs/ab/head", "runs/abc/head", "runs/b/head", "runs/b/o/1", "ready/q/ab/1"):
            await store.put(name, b"x")
        assert await names(store, "runs/ab") == ["runs/ab/head", "runs/abc/head"]
        assert await names(store, "runs/abc/he") == ["runs/abc/head"]
        assert await names(store, "runs/b/") == ["runs/b/head", "runs/b/o/1"]
        assert await names(store, "runs/b/head") == ["runs/b/head"]
        assert await names(store, "r") == await names(store, "")
        assert len(await names(store, "")) == 5
        for nothing in ("x", "runs/a/", "runs/ac", "runs/b/head/", "none/at/all"):
            assert await names(store, nothing) == []

    async def test_pages(self, store: Store) -> None:
        wanted = [f"ready/q/{number:03}/1" for number in range(57)]
        await asyncio.gather(*(store.put(name, b"x") for name in reversed(wanted)))
        await store.put("ready/r/000/1", b"x")
        found: list[str] = []
        while page := await names(store, "ready/q/", after=found[-1] if found else "", limit=10):
            assert len(page) <= 10
            found += page
        assert found == wanted
        assert await names(store, "ready/q/01", after="ready/q/015/1", limit=3) == wanted[16:19]
        assert await names(store, "ready/q/", after="ready/q/0405") == wanted[41:]

    async def test_pages_where_names_share_a_beginning(self, store: Store) -> None:
        """Stores differ in whether `a-b` or `a/b` comes first; none may be left out or doubled."""
        wanted = {f"ready/q/{run}/1" for run in ("a", "a-b", "a.b", "a_b", "a-b-c", "ab", "a.")}
        for name in wanted:
            await store.put(name, b"x")
        found: list[str] = []
        while page := await names(store, "ready/q/a", after=found[-1] if found else "", limit=2):
            found += page
        assert len(found) == len(wanted)
        assert set(found) == wanted

    async def test_odd_names(self, store: Store) -> None:
        odd = ["-", "_", "a..b", "-x.", "UPPER/lower", "0" * 255, "--/-/-", "a--b__c..d"]
        for name in odd:
            await store.put(name, name.encode())
        for name in odd:
            stored = await store.get(name)
            assert stored is not None
            assert stored.data == name.encode()
        assert await names(store, "") == sorted(odd)

    async def test_names_that_lead_elsewhere_are_refused(self, store: Store) -> None:
        for name in BAD_NAMES:
            for verb in (store.get(name), store.put(name, b""), store.delete(name)):
                with pytest.raises(ValueError, match="object name"):
                    await verb
            with pytest.raises(ValueError, match="object name"):
                await store.swap(name, b"", expected=None)
        for prefix in BAD_PREFIXES:
            with pytest.raises(ValueError, match="object name"):
                await store.list(prefix)

    async def test_versions_change_with_every_write(self, store: Store) -> None:
        async def line() -> Listed:
            [found] = await store.list("owners/a/heartbeat")
            return found

        seen = set()
        for number in range(20):
            await store.put("owners/a/heartbeat", b"%d" % number)
            seen.add((await line()).version)
        assert len(seen) == 20
        await asyncio.sleep(1.1)  # the finest clock that every object store has
        await store.put("owners/a/heartbeat", b"19")
        assert (await line()).version not in seen
        assert (await line()).version == (await line()).version

    async def test_its_clock_agrees_with_its_stamps(self, store: Store) -> None:
        before_ms = await store.now_ms()
        await store.put("runs/a/o/1", b"x")
        [line] = await store.list("runs/a/o/1")
        after_ms = await store.now_ms()
        assert before_ms - 1500 <= line.modified_ms <= after_ms + 1500
        assert abs(after_ms - time.time() * 1000) < 3000

    async def test_passes_the_probe(self, store: Store) -> None:
        await probe(store, clock=SystemClock())
        assert await names(store, "") == []
