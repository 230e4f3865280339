"""Erases a run that is over: its objects, commands that wait for it, and last its head.

While the head is there and says that the run is over, nobody goes on with it and nobody makes it
anew; so nothing that lives is among what is erased, however often that is begun again.
"""

from dataclasses import dataclass
from typing import Final

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core.head import decode_head
from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.core.objects import BadObject
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.lines import each
from coatcheck_sidecar.engine.verify import listed
from coatcheck_sidecar.ports import Listed, Store

DELETES_MAX: Final = 16
"""At once."""
MADE_S_MAX: Final = 3_600.0
"""Objects without a head that are older than this are of no run that is just being made."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What there was of a run, and is no more."""

    run: str
    objects: int
    commands: int


async def erase(store: Store, run: str) -> Erased:
    """Erase a run that is over, or what is left of one.

    Raises `Refusal`: not_found, conflict (it is not over), unavailable (it may be being made);
    `StoreError` in the middle: then it can be begun again.
    """
    objects = await listed(store, f"runs/{run}/")
    if not objects:
        raise Refusal(ErrorCode.NOT_FOUND, f"there is no run {run} in {store.url}", run=run)
    place = head_name(run)
    if any(entry.name == place for entry in objects):
        await _check_over(store, run)
    else:
        await _check_left_over(store, run, objects=objects)
    commands = await listed(store, "owners/")
    waiting = [entry.name for entry in commands if _is_for(run, entry.name)]
    names = [entry.name for entry in objects if entry.name != place]
    await each([*names, *waiting], store.delete, at_once=DELETES_MAX)
    await store.delete(place)
    return Erased(run, objects=len(objects), commands=len(waiting))


async def _check_over(store: Store, run: str) -> None:
    stored = await store.get(head_name(run))
    try:
        head = None if stored is None else decode_head(head_name(run), stored.data)
    except BadObject:  # nobody goes on with it
        return
    if head is not None and not head.status.is_final:
        why = f"run {run} is {head.status.value}: `coatcheck cancel {run}` first"
        raise Refusal(ErrorCode.CONFLICT, why, run=run)


async def _check_left_over(store: Store, run: str, *, objects: list[Listed]) -> None:
    youngest_s = (await store.now_ms() - max(entry.modified_ms for entry in objects)) / 1000
    if youngest_s < MADE_S_MAX:
        why = (
            f"run {run} has objects and no head yet: it may be being made; what is left of it can "
            f"be deleted {MADE_S_MAX / 60:.0f} min after the last of them"
        )
        raise Refusal(ErrorCode.UNAVAILABLE, why, retry=Retry.LATER, run=run)


def _is_for(run: str, name: str) -> bool:
    """`owners/<owner>/in/<run>-<id>`, with an id that has no hyphen."""
    _, is_command, command = name.partition("/in/")
    return bool(is_command) and command.rpartition("-")[0] == run
