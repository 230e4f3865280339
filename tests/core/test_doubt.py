"""When a resend is safe, and when a "no" counts: to the millisecond."""

from typing import Any

import pytest

from coatcheck_sidecar.core.call_events import Code, Hold, Probe
from coatcheck_sidecar.core.doubt import Rules, is_key_alive, obstacle, unsettled_s
from coatcheck_sidecar.core.model import Call, CallClass, CallState

RULES = Rules(pause_max_s=10, key_margin_s=60)
SENT_MS = 1_000_000


def doubt(call_class: CallClass, **changed: Any) -> Call:
    whole: dict[str, Any] = {
        "number": 7,
        "key": "k:1",
        "step": 1,
        "tool": "charge",
        "call_class": call_class,
        "fingerprint": b"f",
        "state": CallState.IN_DOUBT,
        "attempt": 2,
        "first_sent_ms": SENT_MS,
        "last_sent_ms": SENT_MS,
        "reason": "lost",
    }
    return Call(**whole | changed)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (doubt(CallClass.READ), None),
        (doubt(CallClass.IDEMPOTENT), None),
        (doubt(CallClass.KEYED, key_lifetime_s=100), None),
        (doubt(CallClass.KEYED), Hold(Code.IN_DOUBT, "key_expired", (7,))),
        (doubt(CallClass.PROBED, settle_s=5), Probe(2, 15.0)),
        (doubt(CallClass.PROBED), Probe(2, None)),
        (doubt(CallClass.ONCE), Hold(Code.IN_DOUBT, "lost", (7,))),
    ],
)
def test_what_stands_in_the_way(call: Call, expected: object) -> None:
    assert obstacle(call, now_ms=SENT_MS, rules=RULES) == expected


@pytest.mark.parametrize(
    ("later_ms", "is_alive"), [(0, True), (39_999, True), (40_000, False), (10**9, False)]
)
def test_a_key_lives_from_its_first_send_less_a_margin(later_ms: int, is_alive: bool) -> None:
    call = doubt(CallClass.KEYED, key_lifetime_s=100, last_sent_ms=SENT_MS + 30_000)
    assert is_key_alive(call, now_ms=SENT_MS + later_ms, rules=RULES) is is_alive


def test_a_key_whose_first_send_is_not_known_is_dead() -> None:
    call = doubt(CallClass.KEYED, key_lifetime_s=10**9, first_sent_ms=0)
    assert not is_key_alive(call, now_ms=1, rules=RULES)


@pytest.mark.parametrize(
    ("settle_s", "later_ms", "left_s"),
    [(5.0, 0, 15), (5.0, 14_999, 0.001), (5.0, 15_000, 0), (5.0, 99_000, 0), (None, 0, 10)],
)
def test_settling_counts_from_the_last_possible_send(
    settle_s: float | None, later_ms: int, left_s: float
) -> None:
    call = doubt(CallClass.PROBED, settle_s=settle_s, first_sent_ms=1)
    found = unsettled_s(call, at_ms=SENT_MS + later_ms, rules=RULES)
    assert found == pytest.approx(left_s, abs=1e-9)
