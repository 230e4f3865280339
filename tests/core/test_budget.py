"""The flush budget: what a link is measured to be, and what may be unshipped on it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core import budget
from coatcheck_sidecar.core.budget import (
    ASSUMED,
    BIG_BYTES_MIN,
    DONE_MAX,
    SAMPLES_MAX,
    Link,
    Rate,
    Unsent,
    admits,
    allowed_bytes,
)
from coatcheck_sidecar.core.percentile import percentile

MB = 1_000_000
SMALL = 1_000


def put(link: Link, size: int, began_s: float, took_s: float) -> None:
    """One after another: nothing else is under way."""
    link.ended(link.began(size, now_s=began_s), now_s=began_s + took_s)


def allowed(rate: Rate, grace_left_s: float = 10.0, *, round_trips: int = 3) -> float:
    return allowed_bytes(
        rate,
        grace_left_s=grace_left_s,
        settle_s=0.25,
        interval_s=0.05,
        round_trips=round_trips,
        margin_s=1.0,
    )


# What may be unshipped


@pytest.mark.parametrize(
    ("rate", "grace_left_s", "expected"),
    [
        (Rate(1_000.0, 0.0), 10.0, 8_700),
        (Rate(1_000.0, 0.1), 10.0, 8_400),
        (Rate(250_000.0, 0.2), 10.0, 2_025_000),
        (Rate(1_000.0, 0.1), 1.0, 0),
        (Rate(1_000.0, 3.0), 10.0, 0),
        (Rate(1e9, 0.0), -5.0, 0),
    ],
)
def test_what_is_allowed(rate: Rate, grace_left_s: float, expected: float) -> None:
    assert allowed(rate, grace_left_s) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("unshipped", "size", "limit", "expected"),
    [(0, 0, 0, True), (0, 1, 0, False), (4, 6, 10, True), (4, 7, 10, False), (0, 11, 10, False)],
)
def test_what_is_admitted(unshipped: int, size: int, limit: float, expected: bool) -> None:
    assert admits(unshipped, size, allowed=limit) is expected


SECONDS = st.floats(0, 1_000)
BYTES_PER_S = st.floats(1, 1e10)


@given(BYTES_PER_S, BYTES_PER_S, SECONDS, SECONDS, st.tuples(SECONDS, SECONDS))
def test_a_worse_link_or_less_time_never_allows_more(
    one: float, other: float, near_s: float, far_s: float, left_s: tuple[float, float]
) -> None:
    slow, fast = sorted((one, other))
    near_s, far_s = sorted((near_s, far_s))
    short_s, long_s = sorted(left_s)
    least = allowed(Rate(slow, far_s), short_s, round_trips=4)
    assert 0 <= least <= allowed(Rate(fast, far_s), short_s, round_trips=4)
    assert least <= allowed(Rate(slow, near_s), short_s, round_trips=4)
    assert least <= allowed(Rate(slow, far_s), long_s, round_trips=4)
    assert least <= allowed(Rate(slow, far_s), short_s, round_trips=3)


UNSENT = Unsent(weight=0, new_bytes=0, old_bytes=0, base_bytes=0, state_bytes=0)


@pytest.mark.parametrize(
    ("unsent", "expected"),
    [
        (UNSENT, 0),
        (Unsent(weight=300, new_bytes=0, old_bytes=900, base_bytes=5, state_bytes=7), 300),
        (Unsent(weight=300, new_bytes=200, old_bytes=800, base_bytes=5, state_bytes=7), 300),
        # One byte more than a head may carry: the state is put in place of its deltas.
        (Unsent(weight=300, new_bytes=200, old_bytes=801, base_bytes=9_000, state_bytes=500), 600),
        (Unsent(weight=300, new_bytes=200, old_bytes=801, base_bytes=99, state_bytes=5_000), 1_200),
        (
            Unsent(weight=5_100, new_bytes=5_000, old_bytes=0, base_bytes=0, state_bytes=5_000),
            5_100,
        ),
    ],
)
def test_what_a_head_to_come_takes(unsent: Unsent, expected: int) -> None:
    assert unsent.put_bytes(head_bytes_max=1_000) == expected


def test_states_that_replace_each_other_are_put_once() -> None:
    unsent = UNSENT
    for _ in range(5):
        unsent = unsent.more(5_000, state_bytes=5_000)
    assert unsent.put_bytes(head_bytes_max=1_000) == 5_000


# What a link is


def test_until_something_was_measured_it_is_assumed() -> None:
    assert Rate(bytes_per_s=1_000_000.0, latency_s=0.2) == ASSUMED
    assert Link().rate(now_s=5.0) == ASSUMED
    assert Link().measured_s == float("-inf")


def test_small_puts_measure_latency_and_nothing_else() -> None:
    link = Link()
    put(link, SMALL, 10.0, 0.03)
    put(link, SMALL, 11.0, 0.05)
    found = link.rate(now_s=12.0)
    assert found.bytes_per_s == ASSUMED.bytes_per_s
    assert found.latency_s == pytest.approx(0.05)


def test_big_puts_measure_goodput_without_the_latency() -> None:
    link = Link()
    put(link, MB, 10.0, 4.0)
    found = link.rate(now_s=15.0)
    assert found.bytes_per_s == pytest.approx(250_000)
    assert found.latency_s == ASSUMED.latency_s
    assert link.measured_s == 14.0
    link = Link()
    put(link, SMALL, 9.0, 0.5)
    put(link, MB, 10.0, 4.5)
    assert link.rate(now_s=15.0).bytes_per_s == pytest.approx(250_000)
    # Most of what a put took may be latency, never all.
    put(link, BIG_BYTES_MIN, 20.0, 0.1)
    assert link.rate(now_s=21.0).bytes_per_s == pytest.approx(250_000)
    assert max(value for _, value in link._goodput) == pytest.approx(BIG_BYTES_MIN / 0.025)


def test_a_put_beside_big_ones_waits_for_them_and_measures_no_latency() -> None:
    link = Link()
    big = link.began(MB, now_s=10.0)
    put(link, SMALL, 11.0, 2.0)
    link.ended(big, now_s=14.0)
    assert link.rate(now_s=15.0).latency_s == ASSUMED.latency_s
    early = link.began(SMALL, now_s=20.0)
    big = link.began(MB, now_s=20.1)
    link.ended(early, now_s=23.0)
    link.ended(big, now_s=24.0)
    assert link.rate(now_s=25.0).latency_s == ASSUMED.latency_s


def test_on_a_fast_link_many_puts_at_once_still_measure_latency() -> None:
    link = Link()
    put(link, 100 * MB, 10.0, 1.0)
    assert link.rate(now_s=12.0).bytes_per_s == pytest.approx(100 * MB)
    puts = [link.began(100_000, now_s=13.0) for _ in range(16)]
    for each in puts:
        link.ended(each, now_s=13.02)
    assert link.rate(now_s=14.0).latency_s == pytest.approx(0.02)


def test_puts_at_once_share_the_link() -> None:
    link = Link()
    puts = [link.began(MB, now_s=10.0) for _ in range(16)]
    for number, each in enumerate(puts):
        link.ended(each, now_s=11.5 + number * 0.03125)
    found = link.rate(now_s=13.0).bytes_per_s  # of the worse half: some had ended by then
    assert 5 * MB < found < 8.2 * MB


def test_puts_without_a_pause_are_measured_as_they_go() -> None:
    link = Link()
    flying = [link.began(MB, now_s=10.0)]
    for number in range(1, 200):
        now_s = 10.0 + number * 0.25
        flying.append(link.began(MB, now_s=now_s))
        if len(flying) > 8:
            link.ended(flying.pop(0), now_s=now_s)
        assert len(link._done) < 20
    assert percentile([value for _, value in link._goodput], 50) == pytest.approx(4 * MB)
    assert link.rate(now_s=60.0).bytes_per_s == pytest.approx(1.25 * MB)  # as they began


def test_a_link_that_slows_down_is_seen_before_the_put_ends() -> None:
    link = Link()
    put(link, MB, 10.0, 0.1)
    link.began(MB, now_s=20.0)
    assert link.rate(now_s=20.9).bytes_per_s == pytest.approx(10 * MB)
    assert link.rate(now_s=24.0).bytes_per_s == pytest.approx(MB / 4)
    assert link.rate(now_s=40.0).bytes_per_s == pytest.approx(MB / 20)


def test_what_has_ended_counts_for_what_has_not() -> None:
    link = Link()
    put(link, MB, 8.0, 0.1)
    slow = link.began(MB, now_s=10.0)
    for number in range(4):
        put(link, MB, 10.0 + number, 1.0)
    assert link.rate(now_s=14.0).bytes_per_s == pytest.approx(5 * MB / 4)
    link.ended(slow, now_s=15.0)
    assert link.rate(now_s=16.0).bytes_per_s < 5 * MB / 4


def test_failures_measure_nothing() -> None:
    link = Link()
    lost = link.began(MB, now_s=10.0)
    link.failed(lost)
    assert link.rate(now_s=100.0) == ASSUMED


def test_time_in_which_nothing_was_under_way_measures_nothing() -> None:
    link = Link()
    lost = link.began(MB, now_s=0.0)
    put(link, MB, 0.5, 1.0)
    link.failed(lost)
    put(link, MB, 10.5, 1.0)
    assert link.rate(now_s=12.0).bytes_per_s == pytest.approx(MB)
    assert len(link._goodput) == 2


def test_the_lower_of_two_percentiles_counts_and_bad_minutes_are_forgotten() -> None:
    link = Link()
    put(link, MB, 0.0, 1.0)
    for number in range(99):
        put(link, 10 * MB, 100.0 + number, 1.0)
    assert link.rate(now_s=199.0).bytes_per_s == pytest.approx(MB)  # the 1st of ten minutes
    put(link, 2 * MB, 200.0, 1.0)
    put(link, 10 * MB, 201.0, 1.0)
    assert link.rate(now_s=202.0).bytes_per_s == pytest.approx(2 * MB)  # past 100 samples
    assert link.rate(now_s=262.0).bytes_per_s == pytest.approx(2 * MB)
    assert link.rate(now_s=801.5).bytes_per_s == pytest.approx(10 * MB)
    assert link.rate(now_s=9_999.0).bytes_per_s == pytest.approx(10 * MB)


def test_what_is_kept_is_bounded() -> None:
    link = Link()
    stuck = link.began(MB, now_s=0.0)
    for number in range(DONE_MAX + 200):
        put(link, MB, number * 0.01, 0.005)
    assert len(link._done) == DONE_MAX
    link.ended(stuck, now_s=2_000.0)
    for number in range(SAMPLES_MAX + 10):
        put(link, SMALL, 2_000.0 + number, 0.5)
    assert len(link._goodput) <= SAMPLES_MAX
    assert len(link._latency) == SAMPLES_MAX
    assert not link._flying
    assert not link._done


@given(
    st.lists(
        st.tuples(st.integers(1, 40 * MB), st.floats(0, 100), st.floats(0, 40)),
        min_size=1,
        max_size=12,
    ),
    st.floats(1_000, 1e9),
)
def test_it_never_finds_more_than_a_link_can_carry(
    puts: list[tuple[int, float, float]], capacity: float
) -> None:
    """Puts that take at least as long as the link needs for all of them, one after another."""
    link = Link()
    events, free_s = [], 0.0
    for size, at_s, more_s in sorted(puts, key=lambda each: each[1]):
        free_s = max(free_s, at_s) + size / capacity
        events.append((at_s, free_s + more_s, size))
    moments = sorted({moment for at_s, end_s, _ in events for moment in (at_s, end_s)})
    flying = {}
    for moment in moments:
        for number, (at_s, end_s, size) in enumerate(events):
            if at_s == moment:
                flying[number] = link.began(size, now_s=moment)
            if end_s == moment and number in flying:
                link.ended(flying.pop(number), now_s=moment)
    # At most `LEAD_SHARE_MAX` of a put's time is left out.
    most = capacity / (1 - budget.LEAD_SHARE_MAX) * 1.001
    found = link.rate(now_s=moments[-1]).bytes_per_s
    assert found <= max(most, ASSUMED.bytes_per_s)
    # A slice by itself may be found faster, since a put's bytes count as flowing evenly: of puts
    # that wait for each other too many flow at first, and too few later. The slowest is the rate.
    slices = [value for _, value in link._goodput]
    assert not slices or min(slices) <= most
