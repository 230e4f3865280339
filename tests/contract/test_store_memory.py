import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.ports import Store, StoreRefused
from coatcheck_sidecar.stores.memory import MemoryStore
from tests.contract.store_suite import OpenStore, StoreSuite


@pytest.fixture
def store() -> Store:
    return MemoryStore(now_ms=SystemClock().wall_ms)


@pytest.fixture
def open_store(store: Store) -> OpenStore:
    return lambda: store


class TestMemory(StoreSuite):
    pass


async def test_the_clock_is_injected() -> None:
    moment_ms = 5
    store = MemoryStore(now_ms=lambda: moment_ms)
    await store.put("a", b"")
    moment_ms = 7
    assert await store.now_ms() == 7
    assert [line.modified_ms for line in await store.list("a")] == [5]
    await store.close()


async def test_a_head_without_a_nonce_is_taken_for_an_older_one() -> None:
    """As on object stores, so that a simulation finds what a missing nonce breaks."""
    store = MemoryStore(now_ms=lambda: 0)
    first = await store.swap("head", b"A", expected=None)
    second = await store.swap("head", b"B", expected=first)
    await store.swap("head", b"A", expected=second)
    await store.swap("head", b"zombie", expected=first)
    with pytest.raises(StoreRefused):
        await store.swap("head", b"C", expected=second)
