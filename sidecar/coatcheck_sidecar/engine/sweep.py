"""An owner's own collection: what the heads of its runs name no more goes, every hour or so."""

from collections.abc import Callable, Sequence

from coatcheck_sidecar.engine.collect import GRACE_S, Collected, collect
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.engine.shipper import Doors
from coatcheck_sidecar.ports import StoreError


async def sweep(doors: Doors, owned: Callable[[], Sequence[Keeper]]) -> None:
    """Collect each run that is owned by then, one after another, for ever."""
    while True:
        await doors.clock.sleep(doors.settings.collect_s * doors.clock.uniform(0.8, 1.2))
        for run in [keeper.run for keeper in owned()]:
            await sweep_run(doors, run)


async def sweep_run(doors: Doors, run: str) -> Collected | None:
    """Collect one run; `None` if the store does not answer."""
    try:
        found = await collect(doors.store, run, grace_s=GRACE_S)
    except StoreError as error:
        doors.observer.note("look_failed", error=str(error))
        return None
    doors.observer.note("collected", run=run, objects=found.deleted, bytes=found.bytes)
    return found
