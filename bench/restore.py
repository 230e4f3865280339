"""restore: a 1 MB state after 2,000 steps, from S3 on loopback: round trips and time."""

import asyncio
import os
import statistics
import time
from typing import Any

import coatcheck
from bench.measure import Line
from bench.pod import pod
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.engine.restore import read_run
from coatcheck_sidecar.ports import Store, Stored
from coatcheck_sidecar.stores.url import open_store
from tests.servers import ministack

STEPS = 2_000
MESSAGE_BYTES = 512
STATE_BYTES_MAX = 64 * 1_048_576
ROUNDS = 15
RUN = "restore"
TRIPS, RESTORE_S_MAX = 2, 0.1


class Watched:
    """The reads of a store, timed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.spans: list[tuple[float, float, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get(self, name: str) -> Stored | None:
        began = time.perf_counter()
        stored = await self._store.get(name)
        self.spans.append((began, time.perf_counter(), name))
        return stored

    @property
    def round_trips(self) -> int:
        """The longest row of reads of which each began after the one before had ended."""
        trips, end = 0, float("-inf")
        for began, ended, _ in sorted(self.spans, key=lambda span: span[1]):
            if began >= end:
                trips, end = trips + 1, ended
        return trips


async def _fill() -> None:
    state: dict[str, Any] = {"messages": []}
    async with coatcheck.open_run(RUN, schema=1) as run:
        for _ in range(STEPS):
            state["messages"].append({"content": os.urandom(MESSAGE_BYTES // 2).hex()})
            await run.commit(state)


async def _floor(store: Store, names: list[str]) -> float:
    """The same objects read without a look at them: one, then the others at once."""
    began = time.perf_counter()
    await store.get(names[0])
    await asyncio.gather(*(store.get(name) for name in names[1:]))
    return time.perf_counter() - began


async def _measure(url: str, rounds: int) -> list[Line]:
    store = open_store(url, clock=SystemClock())
    floors: list[float] = []
    ours: list[float] = []
    trips, names, length = 0, [], 0
    for _ in range(rounds + 1):
        watched: Any = Watched(store)
        began = time.perf_counter()
        found = await read_run(watched, RUN, bytes_max=STATE_BYTES_MAX)
        ours.append(time.perf_counter() - began)
        assert found is not None
        assert found.head.step == STEPS
        length = len(found.log.checkpoint_bytes)
        trips = max(trips, watched.round_trips)
        names = [name for _, _, name in sorted(watched.spans)]
        floors.append(await _floor(store, names))
    await store.close()
    pairs = zip(ours[1:], floors[1:], strict=True)
    return [
        Line(
            what=f"restore, {length / 1e6:.1f} MB after {STEPS} steps",
            ours=statistics.median(ours[1:]) * 1e3,
            floor=statistics.median(floors[1:]) * 1e3,
            unit="ms",
            paired_ratio=statistics.median(mine / floor for mine, floor in pairs),
            limit=RESTORE_S_MAX * 1e3,
            note=f"{len(names)} reads; floor: the reads alone",
        ),
        Line(
            what="restore, round trips one after another",
            ours=trips,
            floor=TRIPS,
            unit="",
            limit=TRIPS,
        ),
    ]


def run(*, is_quick: bool) -> list[Line]:
    """Lines of the table."""
    with ministack() as server:
        os.environ.update(server.env)
        url = server.make_bucket("bench")
        with pod({"COATCHECK_STORE": url}):
            asyncio.run(_fill())
        return asyncio.run(_measure(url, 3 if is_quick else ROUNDS))
