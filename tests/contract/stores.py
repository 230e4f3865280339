"""Handles on object stores for tests: each test gets a bucket's folder of its own."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.ports import Store
from coatcheck_sidecar.stores.url import open_store
from tests.contract.store_suite import OpenStore
from tests.servers import S3Server

BUCKET = "contract"


@asynccontextmanager
async def opened_on(server: S3Server) -> AsyncIterator[OpenStore]:
    url = f"{server.make_bucket(BUCKET)}/{secrets.token_hex(4)}/x"
    async with AsyncExitStack() as stack:

        def opened() -> Store:
            store = open_store(url, clock=SystemClock(), environ=server.env)
            stack.push_async_callback(store.close)
            return store

        yield opened
