from collections.abc import AsyncIterator, Iterator

import pytest

from coatcheck_sidecar.ports import Store
from tests.contract.store_suite import OpenStore, StoreSuite
from tests.contract.stores import opened_on
from tests.servers import S3Server, ServerUnavailableError, seaweedfs


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    try:
        with seaweedfs() as server:
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


class TestSeaweedFS(StoreSuite):
    # It makes losers of a race wait in steps of 1 s: fifty take 8 to 17 s (one wins).
    racers = 8
    rounds = 2
