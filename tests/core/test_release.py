from typing import Any

import pytest

from coatcheck_sidecar.core.model import CallClass
from coatcheck_sidecar.core.record import Held, Released
from coatcheck_sidecar.core.release import release_event
from tests.core.histories import Log


def event(reason: str, error: str = "", *, crashes: int = 0, has_doubt: bool = False) -> Any:
    log = Log()
    log.claim(crashes=crashes)
    if has_doubt:
        log.send(CallClass.ONCE)
        log.claim(crashes=crashes)
    return release_event(log.state, reason, error, breaker_crashes=5, now_ms=1_000)


@pytest.mark.parametrize("reason", ["left", "draining", "compensate"])
def test_a_run_is_anybodys_and_keeps_its_crashes(reason: str) -> None:
    assert event(reason, crashes=2) == Released(reason=reason, crashes=2)


def test_a_doubt_holds_the_run_that_stopped_for_it() -> None:
    assert event("in_doubt", has_doubt=True) == Held(reason="in_doubt: calls [3]")
    assert event("in_doubt") == Released(reason="in_doubt")


def test_an_agent_may_ask_for_somebody_to_look() -> None:
    assert event("held", "look") == Held(reason="held: look", error="look")


def test_a_crash_counts_waits_longer_each_time_and_holds_in_the_end() -> None:
    assert event("error", "boom") == Released(
        reason="error", error="boom", crashes=1, not_before_ms=1_000
    )
    assert event("error", crashes=2).not_before_ms == 2_000
    assert event("error", "boom", crashes=4) == Held(
        reason="crash_loop: 5 crashes without progress", error="boom"
    )
