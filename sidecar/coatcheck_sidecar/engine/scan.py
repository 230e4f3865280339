"""A slow walk over all heads, in search of ready runs whose marker was lost."""

from collections.abc import Awaitable, Callable
from typing import Final

from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.ownership import encode_summary, summary_of
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.fleet import Fleet
from coatcheck_sidecar.engine.restore import read_head
from coatcheck_sidecar.engine.shipper import MARKED, marker_name
from coatcheck_sidecar.ports import StoreError

BEHIND: Final = "z"
"""Sorts behind all names in a run's folder, `head` and `o/`."""


OnHead = Callable[[Head], Awaitable[bool]]
"""Whether it changed the run: then the head is no longer of interest."""


async def scan_heads(fleet: Fleet, on_head: OnHead) -> None:
    """Look at a few heads each heartbeat, for ever; `on_head` is told of each, first.

    Markers that are missing are put back; an owned run that no heartbeat names is watched.
    """
    doors, after = fleet.doors, ""
    while True:
        await doors.clock.sleep(doors.settings.heartbeat_s * doors.clock.uniform(0.8, 1.2))
        try:
            after = await scan_some(fleet, after, on_head=on_head)
        except StoreError as error:
            doors.observer.note("look_failed", error=str(error))


async def scan_some(fleet: Fleet, after: str, *, on_head: OnHead) -> str:
    """Look at the next heads behind the run `after`; the run to go on from, empty at the end."""
    for _ in range(fleet.doors.settings.scan_heads):
        start = f"runs/{after}/{BEHIND}" if after else ""
        listed = await fleet.doors.store.list("runs/", after=start, limit=1)
        if not listed:
            return ""
        after = listed[0].name.split("/")[1]
        await _mend(fleet, after, on_head=on_head)
    return after


async def _mend(fleet: Fleet, run: str, *, on_head: OnHead) -> None:
    doors = fleet.doors
    try:
        found = await read_head(doors.store, run)
    except Refusal as error:
        doors.observer.note("damaged", run=run, error=error.message)
        return
    if found is None:
        return
    fleet.notice(found[0])
    if await on_head(found[0]) or found[0].status not in MARKED:
        return
    name = marker_name(found[0])
    if not await doors.store.list(name, limit=1):
        await doors.store.put(name, encode_summary(summary_of(found[0])))
