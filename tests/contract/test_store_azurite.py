import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.ports import Store, StoreError
from coatcheck_sidecar.stores.probe import probe
from coatcheck_sidecar.stores.url import open_store as opened
from tests.azurite import AzureServer, azurite
from tests.contract.store_suite import OpenStore, StoreSuite
from tests.e2e.sdk_world import npm
from tests.servers import ServerUnavailableError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
"""npm takes half a minute to bring it."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    folder, why = npm(tmp_path_factory.mktemp("npm"), "azurite")
    if folder is None:
        pytest.skip(why)
    try:
        with azurite(f"{folder}/azurite-blob", tmp_path_factory.mktemp("azurite")) as server:
            yield server
    except ServerUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
async def open_store(server: AzureServer) -> AsyncIterator[OpenStore]:
    url = f"{server.make_container('contract')}/{secrets.token_hex(4)}/x"
    async with AsyncExitStack() as stack:

        def make() -> Store:
            store = opened(url, clock=SystemClock(), environ=server.env)
            stack.push_async_callback(store.close)
            return store

        yield make


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()


class TestAzurite(StoreSuite):
    pass


async def test_it_is_a_fence(open_store: OpenStore) -> None:
    await probe(open_store(), clock=SystemClock())


async def test_a_container_that_is_not_there_is_no_missing_object(server: AzureServer) -> None:
    store = opened("az://nonesuch/x", clock=SystemClock(), environ=server.env)
    with pytest.raises(StoreError, match="ContainerNotFound"):
        await store.get("a")
    await store.close()


async def test_a_wrong_key_is_told_and_not_shown(server: AzureServer) -> None:
    wrong = server.env | {"AZURE_STORAGE_ACCOUNT_KEY": "d3Jvbmc="}
    store = opened("az://contract/x", clock=SystemClock(), environ=wrong)
    with pytest.raises(StoreError, match="403") as caught:
        await store.put("a", b"x")
    assert "d3Jvbmc" not in str(caught.value)
    await store.close()


def test_the_servers_address_is_of_this_machine(server: AzureServer) -> None:
    assert urlsplit(server.endpoint).hostname == "127.0.0.1"
