"""What a doubt allows: when a resend is safe, and when a "no" of the upstream counts.

A negative probe proves nothing by itself: the bytes may still be on their way, from a process that
was killed after it wrote, or from one that slept between its look at the clock and its write. It
counts if it was *sent* the tool's settle time and the longest pause after the last possible send.
"""

from dataclasses import dataclass, replace
from typing import assert_never

from coatcheck_sidecar.core.call_events import Code, Hold, Probe, Reason
from coatcheck_sidecar.core.model import Call, CallClass


@dataclass(frozen=True, slots=True)
class Rules:
    """Settings that the table needs; `engine/settings.py` has their defaults."""

    pause_max_s: float
    """No process pauses longer between its last look at the clock and its write."""
    key_margin_s: float
    """A key counts as forgotten this long before its lifetime is over."""


def obstacle(call: Call, *, now_ms: int, rules: Rules) -> Probe | Hold | None:
    """What stands between a call in doubt and its being sent again; `None`: nothing does."""
    match call.call_class:
        case CallClass.READ | CallClass.IDEMPOTENT:
            return None
        case CallClass.KEYED:
            if is_key_alive(call, now_ms=now_ms, rules=rules):
                return None
            return Hold(Code.IN_DOUBT, Reason.KEY_EXPIRED, (call.number,))
        case CallClass.PROBED:
            can_settle = call.settle_s is not None
            settled_in_s = unsettled_s(call, at_ms=now_ms, rules=rules) if can_settle else None
            return Probe(call.attempt, settled_in_s)
        case CallClass.ONCE:
            return Hold(Code.IN_DOUBT, call.reason, (call.number,))
        case _:
            assert_never(call.call_class)


def is_key_alive(call: Call, *, now_ms: int, rules: Rules) -> bool:
    """The upstream still knows the key of the first attempt; never, if that is not known."""
    return key_left_s(call, now_ms=now_ms, rules=rules) > 0


def key_left_s(call: Call, *, now_ms: int, rules: Rules) -> float:
    """For how much longer the upstream knows the key of the first attempt; 0: not known."""
    if call.key_lifetime_s is None or not call.first_sent_ms:
        return 0.0
    life_s = call.key_lifetime_s - rules.key_margin_s
    return max(0.0, (call.first_sent_ms - now_ms) / 1000 + life_s)


def aged(call: Call, *, since_ms: int, now_ms: int) -> Call:
    """A new call whose key the upstream may know since then, by a send that nobody recorded."""
    age_s = max(0, now_ms - since_ms) / 1000
    return replace(call, key_lifetime_s=max(0.0, (call.key_lifetime_s or 0.0) - age_s))


def may_begin(call: Call, *, rules: Rules) -> bool:
    """An aged call's key lives long enough to be sent under now."""
    return (call.key_lifetime_s or 0.0) > rules.key_margin_s


def unsettled_s(call: Call, *, at_ms: int, rules: Rules) -> float:
    """Seconds from `at_ms` until nothing sent before can still be on its way.

    Where the tool has no settle time only the longest pause counts: that is for operators.
    """
    settle_s = (call.settle_s or 0.0) + rules.pause_max_s
    return max(0.0, (call.last_sent_ms - at_ms) / 1000 + settle_s)
