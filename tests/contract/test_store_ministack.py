from collections.abc import AsyncIterator, Iterator

import pytest

from coatcheck_sidecar.ports import Store
from tests.contract.store_suite import OpenStore, StoreSuite
from tests.contract.stores import opened_on
from tests.servers import S3Server, ServerUnavailableError, ministack


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    try:
        with ministack() as server:
            yield server
    except ServerUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
async def open_store(server: S3Server) -> AsyncIterator[OpenStore]:
    async with opened_on(server) as open_store:
        yield open_store


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()


class TestMiniStack(StoreSuite):
    pass
