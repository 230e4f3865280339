"""A slow walk over all heads, in search of ready runs whose marker was lost."""

from collections.abc import Callable

from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.ownership import encode_summary, summary_of
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.restore import read_head
from coatcheck_sidecar.engine.shipper import MARKED, Doors, marker_name
from coatcheck_sidecar.ports import StoreError


async def scan_heads(doors: Doors, now_ms: Callable[[], int]) -> None:
    """Look at a few heads each heartbeat, for ever, and put back markers that are missing."""
    after = ""
    while True:
        await doors.clock.sleep(doors.settings.heartbeat_s * doors.clock.uniform(0.8, 1.2))
        try:
            after = await scan_some(doors, after)
        except StoreError as error:
            doors.observer.note("look_failed", error=str(error))


async def scan_some(doors: Doors, after: str) -> str:
    """Look at the next heads behind the run `after`; the run to go on from, empty at the end."""
    for _ in range(doors.settings.scan_heads):
        start = f"runs/{after}/\x7f" if after else ""
        listed = await doors.store.list("runs/", after=start, limit=1)
        if not listed:
            return ""
        after = listed[0].name.split("/")[1]
        await _mend(doors, after)
    return after


async def _mend(doors: Doors, run: str) -> None:
    try:
        found = await read_head(doors.store, run)
    except Refusal as error:
        doors.observer.note("damaged", run=run, error=error.message)
        return
    if found is None or found[0].status not in MARKED or found[0].status is Status.OWNED:
        return
    name = marker_name(found[0])
    if not await doors.store.list(name, limit=1):
        await doors.store.put(name, encode_summary(summary_of(found[0])))
