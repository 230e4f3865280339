"""Sets a run that nobody owns back to a checkpoint that was kept."""

from contextlib import suppress
from dataclasses import dataclass

from coatcheck_sidecar.core.command import REWIND, Command
from coatcheck_sidecar.core.delta import BadDelta
from coatcheck_sidecar.core.head import Head, Kept
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.objects import BadObject
from coatcheck_sidecar.core.record import Commanded
from coatcheck_sidecar.core.retention import NotKept, find
from coatcheck_sidecar.core.rewind import set_back
from coatcheck_sidecar.engine.fallback import state_of
from coatcheck_sidecar.engine.restore import Restored
from coatcheck_sidecar.engine.shipper import MARKED, Doors, Shipper, marker_name
from coatcheck_sidecar.ports import Store, StoreError


@dataclass(frozen=True, slots=True)
class Older:
    """A checkpoint that a run can be set back to."""

    kept: Kept
    state: bytes


async def look_up(store: Store, head: Head, *, command: Command, bytes_max: int) -> Older | NotKept:
    """What a command means by its checkpoint; raises `StoreError`."""
    if head.status.is_final:
        return NotKept(f"run {head.run} is {head.status}")
    kept = find(head, seq=command.to, code_version=command.name)
    if isinstance(kept, NotKept):
        return kept
    try:
        state = await state_of(store, kept, chain=head.chain, bytes_max=bytes_max)
    except (BadObject, BadDelta) as error:
        return NotKept(f"the checkpoint at {kept.seq} can't be read: {error}")
    return Older(kept, state)


async def rewind(doors: Doors, restored: Restored, *, command: Command, now_ms: int) -> str:
    """Set back a run that was stopped for it; why not, else an empty string.

    Raises `Refusal` (fenced) if somebody else was quicker, `StoreError`.
    """
    head, log = restored.head, restored.log
    if head.status is not Status.HELD or not head.reason.startswith(REWIND):
        return f"run {head.run} is {head.status} by now, since somebody let it go on: try again"
    bytes_max = doors.settings.state_bytes_max
    older = await look_up(doors.store, head, command=command, bytes_max=bytes_max)
    if isinstance(older, NotKept):
        return f"{older.why}; it was stopped: `coatcheck retry {head.run}` lets it go on"
    log.state.epoch += 1
    set_back(log, older.kept, state=older.state, at_ms=now_ms)
    log.append(Commanded(what="rewind", by=command.by, why=command.why), at_ms=now_ms)
    await Shipper(log, doors, store_format=head.format).ship_all()
    if head.status in MARKED:
        with suppress(StoreError):
            await doors.store.delete(marker_name(head))
    return ""
