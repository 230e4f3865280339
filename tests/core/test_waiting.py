from dataclasses import asdict, replace

import pytest

from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.record import Created
from coatcheck_sidecar.core.runlog import RunLog
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.core.waiting import (
    Place,
    Waiting,
    place_of_head,
    place_of_marker,
    waiting_of,
)

NOW_MS = 1_700_000_000_000
FIELDS_OF = ("ready", "later", "owned", "undoing", "parked", "held")


def place(run: str, status: Status, *, epoch: int = 1, queue: str = "q", due_ms: int = 0) -> Place:
    return Place(run, epoch, queue, status, due_ms)


def one(*places: Place, queue: str | None = None) -> Waiting:
    (found,) = waiting_of(places, now_ms=NOW_MS, queue=queue)
    return found


@pytest.mark.parametrize(
    ("status", "field", "wanted"),
    [
        (Status.READY, "ready", 1),
        (Status.OWNED, "owned", 1),
        (Status.COMPENSATING, "undoing", 1),
        (Status.PARKED, "parked", 0),
        (Status.HELD, "held", 0),
    ],
)
def test_what_wants_a_pod_and_what_waits_for_people(
    status: Status, field: str, wanted: int
) -> None:
    found = one(place("r1", status))
    assert getattr(found, field) == 1
    assert found.wanted == wanted
    assert sum(asdict(found)[name] for name in FIELDS_OF) == 1


@pytest.mark.parametrize("status", [status for status in Status if status.is_final])
def test_what_is_over_is_in_no_queue(status: Status) -> None:
    assert waiting_of([place("r1", status)], now_ms=NOW_MS) == ()
    assert one(place("r1", status), queue="q") == Waiting(queue="q")


def test_a_run_that_crashed_is_ready_later_and_wanted_now() -> None:
    found = one(
        place("r1", Status.READY, due_ms=NOW_MS + 1), place("r2", Status.READY, due_ms=NOW_MS)
    )
    assert (found.ready, found.later, found.wanted) == (1, 1, 2)


def test_each_run_counts_once_by_its_newest_place() -> None:
    owned, ready = place("r1", Status.OWNED, epoch=2), place("r1", Status.READY, epoch=1)
    assert one(owned, ready) == one(ready, owned) == Waiting(queue="q", owned=1)
    let_go = place("r1", Status.READY, epoch=2)
    assert one(owned, let_go) == Waiting(queue="q", ready=1)
    over = place("r1", Status.FINISHED, epoch=3)
    assert one(over, owned, queue="q") == Waiting(queue="q")


def test_queues_by_name_or_one_of_them_there_or_not() -> None:
    places = [place("r1", Status.READY, queue="b"), place("r2", Status.HELD, queue="a")]
    assert [w.queue for w in waiting_of(places, now_ms=NOW_MS)] == ["a", "b"]
    assert one(*places, queue="b") == Waiting(queue="b", ready=1)
    assert one(*places, queue="c") == Waiting(queue="c")


def test_markers_say_it_by_their_names() -> None:
    assert place_of_marker("held/q/r.1/7") == place("r.1", Status.HELD, epoch=7)
    for name in ("ready/q/r1", "ready/q/r1/x", "ready/q/r1/1/2", "ready/q/r1/²"):
        assert place_of_marker(name) is None


def test_heads_say_it_by_their_status_and_who_undoes() -> None:
    log = RunLog(RunState("r1"))
    log.append(Created(queue="mail"), at_ms=1)
    head = log.snapshot(nonce=b"", random=b"").head
    assert place_of_head(head) == place("r1", Status.READY, epoch=0, queue="mail")
    undone = replace(head, status=Status.COMPENSATING, undo="sidecar")
    assert place_of_head(undone).status is Status.COMPENSATING
    assert place_of_head(replace(undone, undo="agent")).status is Status.READY
