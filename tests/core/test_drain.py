"""The shutdown plan: a table, and what must hold of every plan."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core import drain as core
from coatcheck_sidecar.core.budget import Rate
from coatcheck_sidecar.core.drain import Doing, Latch, OnDrain, Plan, RunView, latch

FAST = Rate(bytes_per_s=1e9, latency_s=0.0)
SLOW = Rate(bytes_per_s=100_000.0, latency_s=0.5)
PUTS = 16
BEGUN = latch(None, "preStop", now_s=100.0, grace_s=31.0, margin_s=1.0)


def planned(*runs: RunView, now_s: float = 100.0, drain: Latch = BEGUN, rate: Rate = FAST) -> Plan:
    return core.plan(runs, drain, rate=rate, now_s=now_s, puts_max=PUTS)


def test_a_drain_begins_with_the_grace_less_a_margin() -> None:
    assert Latch("preStop", 100.0, 130.0, 126.0) == BEGUN
    # A barrier leaves an agent a quarter of a short grace for its own SIGTERM.
    assert latch(None, "x", now_s=0.0, grace_s=4.0, margin_s=1.0) == Latch("x", 0.0, 3.0, 3.0)
    assert latch(None, "x", now_s=0.0, grace_s=0.5, margin_s=1.0).deadline_s == 0.0


TRIGGERS = st.lists(st.tuples(st.floats(0, 60), st.floats(0, 600)), min_size=1, max_size=8)


@given(TRIGGERS)
def test_no_later_trigger_lengthens_a_drain(triggers: list[tuple[float, float]]) -> None:
    now_s, last = 0.0, None
    for after_s, grace_s in triggers:
        now_s += after_s
        next_ = latch(last, f"at {now_s}", now_s=now_s, grace_s=grace_s, margin_s=1.0)
        if last is not None:
            assert next_.deadline_s <= last.deadline_s
            assert next_.barrier_s <= last.barrier_s
            assert (next_.cause, next_.began_s) == (last.cause, last.began_s)
        assert next_.deadline_s <= now_s + grace_s
        last = next_


@pytest.mark.parametrize(
    ("view", "now_s", "doing", "until_s"),
    [
        (RunView(run="r", on_drain=OnDrain.MIGRATE), 100.0, Doing.STOP, 130.0),
        (RunView(run="r", on_drain=OnDrain.COMPENSATE), 100.0, Doing.STOP, 130.0),
        (RunView(run="r", on_drain=OnDrain.DRAIN), 100.0, Doing.GO_ON, 129.75),
        (RunView(run="r", on_drain=OnDrain.DRAIN, boundary_s=10.0), 100.0, Doing.GO_ON, 120.0),
        # A step longer than the grace is given half of it: it may end all the same.
        (RunView(run="r", on_drain=OnDrain.DRAIN, boundary_s=900.0), 100.0, Doing.GO_ON, 115.0),
        (RunView(run="r", on_drain=OnDrain.DRAIN, boundary_s=10.0), 120.0, Doing.STOP, 130.0),
        # What was told to stop is not told to go on, whatever its steps turn out to take.
        (RunView(run="r", on_drain=OnDrain.DRAIN, is_told=True), 101.0, Doing.STOP, 130.0),
        (RunView(run="r", on_drain=OnDrain.MIGRATE), 130.0, Doing.CUT, 130.0),
        (RunView(run="r", on_drain=OnDrain.DRAIN), 131.0, Doing.CUT, 130.0),
        (RunView(run="r", has_agent=False), 100.0, Doing.RELEASE, 100.0),
        (RunView(run="r", has_agent=False), 140.0, Doing.RELEASE, 140.0),
        (RunView(run="r", has_agent=False, is_awaited=True), 101.0, Doing.AWAIT, 130.0),
        (RunView(run="r", has_agent=False, is_awaited=True), 130.0, Doing.RELEASE, 130.0),
        (RunView(run="r", is_awaited=True), 101.0, Doing.STOP, 130.0),
        (RunView(run="r", is_over=True), 100.0, Doing.SHIP, 130.0),
        (RunView(run="r", is_over=True, has_agent=False), 140.0, Doing.SHIP, 130.0),
    ],
)
def test_what_becomes_of_a_run(view: RunView, now_s: float, doing: Doing, until_s: float) -> None:
    (run,) = planned(view, now_s=now_s).runs
    assert run.doing is doing
    assert run.until_s == pytest.approx(until_s, abs=0.001)


@pytest.mark.parametrize(
    ("view", "becomes"),
    [
        (RunView(run="r"), OnDrain.MIGRATE),
        (RunView(run="r", eta_at_s=110.0), OnDrain.DRAIN),
        (RunView(run="r", eta_at_s=90.0), OnDrain.DRAIN),
        (RunView(run="r", eta_at_s=125.1), OnDrain.MIGRATE),
        (RunView(run="r", on_drain=OnDrain.DRAIN), OnDrain.DRAIN),
        (RunView(run="r", on_drain=OnDrain.MIGRATE, eta_at_s=101.0), OnDrain.MIGRATE),
        (RunView(run="r", on_drain=OnDrain.COMPENSATE), OnDrain.COMPENSATE),
    ],
)
def test_what_auto_comes_to(view: RunView, becomes: OnDrain) -> None:
    assert core.chosen(view, now_s=100.0, stop_s=125.0) is becomes
    assert view.of(becomes).on_drain is becomes


def test_uploads_get_their_time_first() -> None:
    run = RunView(run="r", on_drain=OnDrain.DRAIN, unshipped_bytes=1_000_000, boundary_s=2.0)
    plan = planned(run, rate=SLOW)
    assert plan.ship_s == pytest.approx(3 * 0.5 + 10.16, abs=0.01)
    assert plan.cut_s == pytest.approx(130.0 - plan.ship_s)
    assert plan.runs[0].until_s == plan.next_s == pytest.approx(plan.cut_s - 2.0)
    late = planned(run, rate=SLOW, now_s=125.0)
    assert (late.is_feasible, late.cut_s, late.runs[0].doing) == (False, 125.0, Doing.CUT)


def test_nothing_takes_no_time() -> None:
    assert planned() == Plan((), 130.0, 0.0, deadline_s=130.0, is_feasible=True, next_s=130.0)


VIEWS = st.lists(
    st.builds(
        RunView,
        run=st.text(min_size=1, max_size=3),
        on_drain=st.sampled_from([OnDrain.DRAIN, OnDrain.MIGRATE, OnDrain.COMPENSATE]),
        has_agent=st.booleans(),
        is_awaited=st.booleans(),
        is_undoing=st.booleans(),
        is_over=st.booleans(),
        is_told=st.booleans(),
        boundary_s=st.floats(0, 100),
        unshipped_bytes=st.integers(0, 10**8),
    ),
    max_size=40,
)
RATES = st.builds(Rate, bytes_per_s=st.floats(1e3, 1e9), latency_s=st.floats(0, 2))
DRAINS = st.builds(
    lambda grace_s: latch(None, "x", now_s=0.0, grace_s=grace_s, margin_s=1.0),
    st.floats(0, 3_600),
)


@given(VIEWS, DRAINS, RATES, st.floats(0, 4_000))
def test_a_plan_is_feasible_wherever_one_is(
    views: list[RunView], drain: Latch, rate: Rate, now_s: float
) -> None:
    plan = core.plan(views, drain, rate=rate, now_s=now_s, puts_max=PUTS)
    takes_s = core.ship_s(views, rate, puts_max=PUTS)
    assert plan.is_feasible == (now_s + takes_s <= drain.deadline_s)
    if plan.is_feasible:
        assert plan.cut_s + takes_s <= drain.deadline_s + 1e-6
    else:
        assert plan.cut_s == now_s
    assert all(run.until_s <= max(plan.cut_s, drain.deadline_s, now_s) for run in plan.runs)


@given(VIEWS, DRAINS, RATES, st.floats(0, 4_000))
def test_nobody_works_on_once_only_shipping_has_time_left(
    views: list[RunView], drain: Latch, rate: Rate, now_s: float
) -> None:
    plan = core.plan(views, drain, rate=rate, now_s=now_s, puts_max=PUTS)
    for run in plan.runs:
        if run.doing in (Doing.GO_ON, Doing.STOP):
            assert now_s < plan.cut_s
            assert run.until_s <= plan.cut_s
            assert plan.next_s <= run.until_s


@given(VIEWS, DRAINS, RATES, st.floats(0, 60))
def test_a_nearer_deadline_lets_nobody_work_longer(
    views: list[RunView], drain: Latch, rate: Rate, sooner_s: float
) -> None:
    nearer = replace(drain, deadline_s=drain.deadline_s - sooner_s)
    before = core.plan(views, drain, rate=rate, now_s=0.0, puts_max=PUTS)
    after = core.plan(views, nearer, rate=rate, now_s=0.0, puts_max=PUTS)
    assert after.cut_s <= before.cut_s
    order = [Doing.GO_ON, Doing.STOP, Doing.CUT]
    for old, new in zip(before.runs, after.runs, strict=True):
        if old.doing in order:
            assert order.index(new.doing) >= order.index(old.doing)
