from dataclasses import replace
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.drain import latch
from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.map import (
    AUTOSCALER_S,
    MARGIN_S,
    PLACES,
    SHIP_S,
    Allows,
    Times,
    grace_for_s,
    kinds_of,
    times_of,
)
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.record import Checkpoint, Created, Event, Finished, Record, Released

SECONDS = st.floats(0, 100_000)


def run(worked_s: float = 0.0, longest_s: float = 0.0, *, queue: str = "q",
        is_finished: bool = True) -> Times:  # fmt: skip
    return Times(queue, is_finished, 3, int(worked_s * 1000), int(longest_s * 1000))


def head(*events: Event, status: Status) -> Head:
    records = tuple(Record(seq, 1, seq, event) for seq, event in enumerate(events, start=1))
    return Head(
        run="r", epoch=1, owner="o", nonce=bytes(16), seq=9, status=status, queue="mail", step=2,
        records=records,
    )  # fmt: skip


@given(SECONDS)
def test_in_the_grace_for_something_it_ends_before_barrier_and_margin(seconds: float) -> None:
    grace_s = grace_for_s(seconds)
    drain = latch(None, "preStop", now_s=0.0, grace_s=grace_s, margin_s=MARGIN_S)
    until_s = min(drain.barrier_s, drain.deadline_s)
    assert until_s - seconds - SHIP_S > -1e-6
    shorter = latch(None, "preStop", now_s=0.0, grace_s=grace_s - 1.0, margin_s=MARGIN_S)
    assert min(shorter.barrier_s, shorter.deadline_s) - seconds - SHIP_S < 1e-6


def test_of_a_runs_records_the_last_says_it_all() -> None:
    first = Checkpoint(step=1, step_high=1, worked_ms=10, longest_ms=10)
    done = head(Created(), first, Finished(worked_ms=25, longest_ms=15), status=Status.FINISHED)
    assert times_of(done) == Times("mail", True, 2, 25, 15)
    under_way = head(Created(), first, Released(reason="left"), status=Status.READY)
    assert times_of(under_way) == Times("mail", False, 2, 10, 10)
    assert times_of(head(Created(), status=Status.READY)) == Times("mail", False, 2, 0, 0)


def test_short_runs_may_be_drained() -> None:
    (kind,) = kinds_of([run(10, 2), run(20, 3), run(0, 0), run(4, 4, is_finished=False)])
    assert (kind.queue, kind.runs, kind.finished, kind.allows) == ("q", 4, 3, Allows.DRAIN)
    assert (kind.run_p50_s, kind.run_p95_s) == (10.0, 20.0)
    assert (kind.step_p95_s, kind.step_max_s) == (4.0, 4.0)
    assert kind.grace_s == ceil((4 + SHIP_S) * 4 / 3) == 7
    assert kind.drain_grace_s == ceil(20 + SHIP_S + 5) == 26
    assert kind.places == {
        "kubernetes": Allows.DRAIN, "agentcore": Allows.MIGRATE, "cloud-run": Allows.MIGRATE,
        "fly": Allows.DRAIN, "ecs": Allows.DRAIN,
    }  # fmt: skip


def test_long_runs_of_short_steps_migrate() -> None:
    (kind,) = kinds_of([run(3_600, 20)])
    assert (kind.allows, kind.grace_s, kind.drain_grace_s) == (Allows.MIGRATE, 26, None)
    assert kind.places["cloud-run"] is Allows.COMPENSATE


def test_one_that_never_finished_migrates_by_its_steps() -> None:
    (kind,) = kinds_of([run(60, 20, is_finished=False)])
    assert (kind.allows, kind.run_p50_s, kind.run_p95_s) == (Allows.MIGRATE, None, None)


def test_steps_beyond_any_grace_need_more_than_a_grace() -> None:
    (kind,) = kinds_of([run(9_000, 900)])
    assert (kind.allows, kind.grace_s) == (Allows.COMPENSATE, AUTOSCALER_S)
    (here,) = kinds_of([run(9_000, 9)], grace_s_max=PLACES["cloud-run"])
    assert (here.allows, here.grace_s) == (Allows.COMPENSATE, 10)


def test_nothing_is_said_of_runs_of_which_nothing_is_known() -> None:
    (kind,) = kinds_of([run(0, 0, is_finished=False)])
    assert (kind.allows, kind.grace_s, kind.step_max_s) == (Allows.UNKNOWN, None, None)
    assert set(kind.places.values()) == {Allows.UNKNOWN}


def test_each_queue_is_a_kind_of_its_own() -> None:
    kinds = kinds_of([run(1, 1, queue="b"), run(2, 2, queue="a"), run(3, 1, queue="b")])
    assert [(kind.queue, kind.runs) for kind in kinds] == [("a", 1), ("b", 2)]
    assert kinds_of([]) == []


@given(st.lists(st.tuples(st.floats(0.001, 5_000), st.floats(0.001, 5_000)), min_size=1))
def test_one_more_long_run_never_allows_more(pairs: list[tuple[float, float]]) -> None:
    order = list(Allows)
    runs = [run(max(pair), min(pair)) for pair in pairs]
    (before,) = kinds_of(runs)
    longest = max(max(pair) for pair in pairs)
    (after,) = kinds_of([*runs, replace(runs[0], worked_ms=int(longest * 1000) + 1,
                                        longest_ms=int(longest * 1000) + 1)])  # fmt: skip
    assert order.index(after.allows) >= order.index(before.allows)
