"""Collects one run for ever, without any grace: `python -m tests.e2e.collector URL RUN`."""

import asyncio
import contextlib
import sys

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.engine.collect import collect
from coatcheck_sidecar.ports import StoreError
from coatcheck_sidecar.stores.url import open_store


async def main(url: str, run: str) -> None:
    store = open_store(url, clock=SystemClock())
    while True:
        with contextlib.suppress(StoreError):
            found = await collect(store, run, grace_s=0.0)
            print(found.deleted, flush=True)
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
