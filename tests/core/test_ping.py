"""The answer to AgentCore's `/ping`, look by look."""

from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.ping import Ping, look


def test_the_time_is_that_of_the_last_change() -> None:
    now: Ping | None = None
    seen = []
    for at_s, runs in [(100, 0), (105, 0), (110, 1), (115, 3), (120, 1), (130, 0), (140, 0)]:
        now = look(now, runs=runs, now_s=at_s)
        seen.append((now.status, now.since_s))
    idle, busy, again = ("Healthy", 100), ("HealthyBusy", 110), ("Healthy", 130)
    assert seen == [idle, idle, busy, busy, busy, again, again]


def test_the_answer_has_just_these_fields() -> None:
    ping = look(None, runs=2, now_s=1_760_000_000)
    assert ping.body() == {"status": "HealthyBusy", "time_of_last_update": 1_760_000_000}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 100)), min_size=2))
def test_the_time_moves_with_the_status_alone(looks: list[tuple[int, int]]) -> None:
    last, at_s = None, 0
    for runs, later_s in looks:
        at_s += later_s
        now = look(last, runs=runs, now_s=at_s)
        assert now.status == ("HealthyBusy" if runs else "Healthy")
        if last is not None:
            assert (now.since_s == at_s) == (now.status != last.status)
        last = now
