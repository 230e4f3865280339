"""The contract on a fake of the XML API: what it can't show is told in the documents."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.ports import Store, StoreError, StoreRefused
from coatcheck_sidecar.stores import gcs as module
from coatcheck_sidecar.stores.probe import probe
from coatcheck_sidecar.stores.url import open_store as opened
from tests.contract.store_suite import OpenStore, StoreSuite
from tests.gcs_fake import FakeGcs, gcs


@pytest.fixture
async def fake() -> AsyncIterator[FakeGcs]:
    async with gcs() as fake:
        yield fake


@pytest.fixture
async def open_store(fake: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenStore]:
    monkeypatch.setattr(module, "WRITES_APART_S", 0.0)
    url = f"gs://runs/{secrets.token_hex(4)}/x"
    async with AsyncExitStack() as stack:

        def make() -> Store:
            store = opened(url, clock=SystemClock(), environ=env(fake))
            stack.push_async_callback(store.close)
            return store

        yield make


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()


def env(fake: FakeGcs) -> dict[str, str]:
    return {"STORAGE_EMULATOR_HOST": fake.endpoint}


class TestGcs(StoreSuite):
    pass


async def test_it_is_a_fence(open_store: OpenStore) -> None:
    await probe(open_store(), clock=SystemClock())


async def test_a_bucket_that_is_not_there_is_no_missing_object(fake: FakeGcs) -> None:
    store = opened("gs://nonesuch/x", clock=SystemClock(), environ=env(fake))
    with pytest.raises(StoreError, match="NoSuchBucket"):
        await store.get("a")
    await store.close()


async def test_swaps_of_one_object_keep_to_its_limit_of_writes() -> None:
    async with gcs(apart_s=1.0) as fake:
        store = opened("gs://runs/x", clock=SystemClock(), environ=env(fake))
        began_s = time.monotonic()
        tag = await store.swap("head", b"1", expected=None)
        await store.swap("other", b"1", expected=None)
        assert time.monotonic() - began_s < 0.9
        tag = await store.swap("head", b"2", expected=tag)
        await store.swap("head", b"3", expected=tag)
        assert time.monotonic() - began_s >= 2.0
        assert fake.refused == 0
        with pytest.raises(StoreRefused):
            await store.swap("head", b"4", expected=tag)
        await store.close()


async def test_a_write_that_comes_too_soon_is_not_lost() -> None:
    """Another sidecar wrote the same object in that second."""
    async with gcs(apart_s=1.0) as fake:
        one = opened("gs://runs/x", clock=SystemClock(), environ=env(fake))
        two = opened("gs://runs/x", clock=SystemClock(), environ=env(fake))
        tag = await one.swap("head", b"1", expected=None)
        with pytest.raises(StoreError, match="SlowDown") as caught:
            await two.swap("head", b"2", expected=tag)
        assert not isinstance(caught.value, StoreRefused)
        await asyncio.sleep(1.1)
        assert await two.swap("head", b"2", expected=tag)
        for store in (one, two):
            await store.close()
