"""The rule by itself, in virtual time: the measured cases again, and what holds for any pod."""

import heapq
import itertools
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kubelet import rule
from tests.kubelet.test_timelines import CASES, NAMES, TOLERANCE_S

NEVER_S: Final = 1e9
ROUNDING_S: Final = 2
"""Parts of seconds are never taken off: a hook and a turn can add one each, less a moment."""


@dataclass(frozen=True)
class Part:
    """How a container behaves: `hook_s` None is no hook; `exit_s` counts from SIGTERM."""

    name: str
    hook_s: float | None = None
    exit_s: float = NEVER_S
    is_sidecar: bool = False


def play(parts: list[Part], grace_s: int) -> dict[tuple[str, str], float]:
    """When each gets `term` and `kill`, and when it is `gone`."""
    by_name = {part.name: part for part in parts}
    members = [
        rule.Member(part.name, is_sidecar=part.is_sidecar, has_hook=part.hook_s is not None)
        for part in parts
    ]
    times: dict[tuple[str, str], float] = {}
    queue: list[tuple[float, int, rule.Event]] = []
    numbers = itertools.count()  # of two things at one moment the first comes first
    decision, now_s = rule.begin(members, grace_s, now_s=0.0), 0.0
    while True:
        for effect in decision.effects:
            match effect:
                case rule.SendTerm(name):
                    times[name, "term"] = now_s
                case rule.SendKill(name):
                    times[name, "kill"] = now_s
                case rule.RunHook():
                    pass
            after_s, event = follows(by_name[effect.name], effect)
            heapq.heappush(queue, (now_s + after_s, next(numbers), event))
        if decision.termination.is_over:
            return times
        timer_s = decision.termination.next_s
        if queue and (timer_s is None or queue[0][0] <= timer_s):
            now_s, _, event = heapq.heappop(queue)
            if isinstance(event, rule.Gone):
                times.setdefault((event.name, "gone"), now_s)
            decision = rule.decide(decision.termination, event, now_s=now_s)
        else:
            assert timer_s is not None
            now_s = max(now_s, timer_s)
            decision = rule.decide(decision.termination, rule.Tick(), now_s=now_s)


def follows(part: Part, effect: rule.Effect) -> tuple[float, rule.Event]:
    """What a container does about it, and after how long."""
    match effect:
        case rule.RunHook(name):
            return part.hook_s or 0.0, rule.HookOver(name)
        case rule.SendTerm(name):
            return part.exit_s, rule.Gone(name)
        case rule.SendKill(name):
            return 0.0, rule.Gone(name)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if "by_order_only" not in case and "kubelet_killed_at" not in case],
    ids=lambda case: case["id"],
)
def test_signals_come_when_they_were_measured(case: dict[str, Any]) -> None:
    parts = [
        Part(
            name,
            hook_s=case["pre_stop_s"][name],
            exit_s=_exit_s(case["exits_after_term_s"][name]),
            is_sidecar=name == "sidecar" and case["sidecar"] == "native",
        )
        for name in NAMES
    ]
    times = play(parts, case.get("override_s", case["tgps_s"]))
    for name in NAMES:
        for what in {"term", "kill"} & case["seen"][name].keys():
            measured_s = case["seen"][name][what]
            assert times[name, what] == pytest.approx(measured_s, abs=TOLERANCE_S)


def _exit_s(given_s: float | None) -> float:
    return NEVER_S if given_s is None else given_s


seconds = st.floats(0, 70).map(lambda value: round(value, 2))
parts_of = st.lists(
    st.builds(
        Part,
        name=st.sampled_from(["a", "b", "c", "d"]),
        hook_s=st.none() | seconds,
        exit_s=seconds | st.just(NEVER_S),
        is_sidecar=st.booleans(),
    ),
    min_size=1,
    unique_by=lambda part: part.name,
)


@given(parts_of, st.integers(0, 60))
def test_every_pod_comes_to_its_end_by_the_rule(parts: list[Part], grace_s: int) -> None:
    times = play(parts, grace_s)
    bound_s = max(grace_s, rule.GRACE_S_MIN)
    waits = rule.waits([rule.Member(part.name, is_sidecar=part.is_sidecar) for part in parts])
    for part in parts:
        term_s, gone_s = times[part.name, "term"], times[part.name, "gone"]
        assert term_s <= bound_s + ROUNDING_S
        assert gone_s <= bound_s + rule.LEFT_S_MIN + ROUNDING_S
        if (part.name, "kill") in times:
            assert times[part.name, "kill"] - term_s > rule.LEFT_S_MIN - 0.01
        if not part.is_sidecar:  # no turn to wait for: the hook alone is before SIGTERM
            assert term_s == pytest.approx(min(part.hook_s or 0, bound_s), abs=0.01)
        is_too_early = any(times[other, "gone"] > term_s for other in waits[part.name])
        assert not is_too_early or term_s > bound_s - 0.01


@given(parts_of, st.integers(0, 60))
def test_sidecars_end_one_after_another(parts: list[Part], grace_s: int) -> None:
    """Unless the grace is used up: then all are ended at once."""
    times = play(parts, grace_s)
    sidecars = [part.name for part in parts if part.is_sidecar]
    for earlier, later in itertools.pairwise(sidecars):
        is_late = times[earlier, "term"] > max(grace_s, rule.GRACE_S_MIN) - 0.01
        assert is_late or times[earlier, "term"] >= times[later, "gone"]


def test_a_container_that_is_gone_gets_nothing() -> None:
    members = [
        rule.Member("agent", has_hook=True, is_gone=True),
        rule.Member("sidecar", has_hook=True, is_sidecar=True),
    ]
    decision = rule.begin(members, 10, now_s=0.0)
    assert decision.effects == (rule.RunHook("sidecar"),)
    assert decision.termination.gone == {"agent"}


def test_an_event_of_a_container_that_is_gone_changes_nothing() -> None:
    decision = rule.begin([rule.Member("agent", has_hook=True)], 10, now_s=0.0)
    gone = rule.decide(decision.termination, rule.Gone("agent"), now_s=1.0)
    assert gone.termination.is_over
    late = rule.decide(gone.termination, rule.HookOver("agent"), now_s=2.0)
    assert late.termination.is_over
    assert not late.effects
