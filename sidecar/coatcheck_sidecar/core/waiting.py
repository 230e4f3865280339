"""What waits in each queue, and how much of it wants a pod: for people and for scalers. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.undo import BY_AGENT


@dataclass(frozen=True, slots=True)
class Place:
    """Where a marker, a heartbeat or a head says that a run is."""

    run: str
    epoch: int
    queue: str
    status: Status
    not_before_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How the runs of a queue stand that are not over."""

    queue: str
    ready: int = 0
    """An agent may take them now."""
    later: int = 0
    """Ready as well, after the pause that follows a crash: a minute at most."""
    owned: int = 0
    """Some pod has them, or had them when it died."""
    undoing: int = 0
    """What they did is to be taken back, which sidecars do."""
    parked: int = 0
    """They wait for a signal."""
    held: int = 0
    """They wait for an operator."""

    @property
    def wanted(self) -> int:
        """How many of them want a pod: what a scaler sees.

        Owned ones are among them: without those a scaler would take the pods that work on them,
        and at zero pods nobody would take over what a pod that died still owns.
        """
        return self.ready + self.later + self.owned + self.undoing


FIELDS: Final = {
    Status.OWNED: "owned",
    Status.COMPENSATING: "undoing",
    Status.PARKED: "parked",
    Status.HELD: "held",
}


def waiting_of(
    places: Iterable[Place], *, now_ms: int, queue: str | None = None
) -> tuple[Waiting, ...]:
    """Each queue by name; with a `queue` that one alone, also if nothing is in it.

    Of several places of one run the highest epoch counts, and of one epoch the last: put
    heartbeats before markers, since a marker is written when its run is let go of.
    """
    newest: dict[str, Place] = {}
    for place in places:
        known = newest.get(place.run)
        if known is None or known.epoch <= place.epoch:
            newest[place.run] = place
    counts: dict[str, Counter[str]] = {} if queue is None else {queue: Counter()}
    for place in newest.values():
        if queue in (None, place.queue) and not place.status.is_final:
            counts.setdefault(place.queue, Counter())[_field(place, now_ms)] += 1
    return tuple(Waiting(queue=name, **count) for name, count in sorted(counts.items()))


def _field(place: Place, now_ms: int) -> str:
    if place.status is Status.READY:
        return "later" if place.not_before_ms > now_ms else "ready"
    return FIELDS[place.status]


def place_of_marker(name: str) -> Place | None:
    """What the name of a marker says, `<status>/<queue>/<run>/<epoch>`; `None` if it is none."""
    parts = name.split("/")
    if len(parts) != 4 or not parts[3].isascii() or not parts[3].isdigit():
        return None
    status, queue, run, epoch = parts
    return Place(run, int(epoch), queue, Status(status))


def place_of_head(head: Head) -> Place:
    """What the run itself says."""
    status = Status.READY if head.undo == BY_AGENT else head.status
    return Place(head.run, head.epoch, head.queue, status, head.not_before_ms)
