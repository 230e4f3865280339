from dataclasses import replace

import pytest

import coatcheck_sidecar.core.observe as module
from coatcheck_sidecar.core.model import Effect
from coatcheck_sidecar.core.observe import OTHERS, Came, Observations, Seen

CHARGE = Seen(
    run="r",
    step=1,
    tool="pay",
    pattern="POST /charge",
    by_method=Effect.ONCE,
    declared=Effect.ONCE,
    fingerprint=b"charge",
)
SEARCH = replace(CHARGE, tool="web", pattern="POST /search", fingerprint=b"search")
MODEL = replace(
    CHARGE, tool="openai", pattern="POST /chat/completions", fingerprint=b"m",
    declared=Effect.READ,
)  # fmt: skip
PUT = replace(
    CHARGE, tool="disk", pattern="PUT /f", fingerprint=b"put",
    by_method=Effect.IDEMPOTENT, declared=Effect.IDEMPOTENT,
)  # fmt: skip
GOOD = Came(status=200, digest=b"d", length=100)


def test_what_a_deploy_now_would_do() -> None:
    seen = Observations(began_s=0.0)
    for call in (CHARGE, SEARCH, MODEL, PUT):
        answer = replace(GOOD, is_completion=call is MODEL)
        seen.came(seen.sent(call, at_s=1.0, has_checkpoint=False), answer)
    for call in (CHARGE, SEARCH, MODEL, PUT):
        seen.sent(replace(call, run="s", step=4), at_s=2.0, has_checkpoint=True)
    report = seen.report(at_s=5.0, bypass={"10.0.0.1": 2})
    assert (report.calls, report.runs, report.lost_steps) == (8, 2, 2)
    assert (report.never_saved, report.doubled, report.bought_again) == (1, 2, 2)
    assert {call.tool: call.outcome for call in report.in_flight} == {
        "pay": "doubled",
        "web": "asked again",
        "openai": "bought again",
        "disk": "sent again",
    }
    assert {call.for_s for call in report.in_flight} == {3.0}
    assert [(run.run, run.step, run.calls, run.doubled) for run in report.at_risk] == [
        ("r", 1, 4, 1),
        ("s", 4, 4, 1),
    ]
    assert report.worst_share == pytest.approx(0.8)
    assert report.bypass == {"10.0.0.1": 2}


def test_a_checkpoint_saves_what_was_before_it() -> None:
    seen = Observations(began_s=0.0)
    seen.came(seen.sent(CHARGE, at_s=1.0, has_checkpoint=False), GOOD)
    seen.saved("r", at_s=2.0)
    seen.saved("unknown", at_s=2.0)
    report = seen.report(at_s=4.0, bypass={})
    assert (report.lost_steps, report.doubled, report.runs) == (0, 0, 0)
    assert report.worst_share == pytest.approx(0.25)


def test_a_new_step_saves_the_one_before() -> None:
    seen = Observations(began_s=0.0)
    seen.sent(CHARGE, at_s=1.0, has_checkpoint=False)
    seen.sent(replace(CHARGE, step=2), at_s=2.0, has_checkpoint=True)
    (run,) = seen.report(at_s=2.0, bypass={}).at_risk
    assert (run.step, run.calls, run.has_checkpoint) == (2, 1, True)


def test_runs_that_went_elsewhere_are_at_no_risk_here() -> None:
    seen = Observations(began_s=0.0)
    seen.sent(CHARGE, at_s=1.0, has_checkpoint=False)
    seen.sent(replace(CHARGE, run="s"), at_s=1.0, has_checkpoint=False)
    seen.keep_only({"s"}, at_s=2.0)
    assert [run.run for run in seen.report(at_s=2.0, bypass={}).at_risk] == ["s"]


def test_equal_requests_are_counted_and_their_answers_held_against_each_other() -> None:
    seen = Observations(began_s=0.0)
    lookup = replace(CHARGE, pattern="POST /thing")
    for run, answer in (("r", GOOD), ("r", GOOD), ("s", GOOD)):
        seen.came(seen.sent(replace(lookup, run=run), at_s=0.0, has_checkpoint=True), answer)
    (found,) = seen.report(at_s=1.0, bypass={}).tools
    assert (found.calls, found.again, found.effect) == (3, 1, Effect.READ)
    number = seen.sent(lookup, at_s=0.0, has_checkpoint=True)
    seen.came(number, replace(GOOD, digest=b"other"))
    seen.came(number, GOOD)
    (found,) = seen.report(at_s=1.0, bypass={}).tools
    assert found.effect is Effect.ONCE


def test_failures_say_nothing_of_the_effect() -> None:
    seen = Observations(began_s=0.0)
    for status in (0, 500, 404):
        number = seen.sent(SEARCH, at_s=0.0, has_checkpoint=True)
        seen.came(number, Came(status=status))
    (found,) = seen.report(at_s=0.0, bypass={}).tools
    assert (found.lost, found.effect, found.exposed_share) == (1, Effect.ONCE, 0.0)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KINDS_MAX", "EQUALS_MAX", "RUNS_MAX", "LISTED_MAX"):
        monkeypatch.setattr(module, name, 3)
    seen = Observations(began_s=0.0)
    for n in range(10):
        call = replace(CHARGE, run=str(n), pattern=f"POST /{'abcdefghij'[n]}")
        call = replace(call, fingerprint=bytes([n]))
        seen.came(seen.sent(call, at_s=0.0, has_checkpoint=True), GOOD)
        seen.sent(call, at_s=0.0, has_checkpoint=True)
    report = seen.report(at_s=1.0, bypass={})
    assert (len(report.in_flight), len(report.at_risk), report.runs) == (3, 3, 3)
    assert {tool.pattern for tool in report.tools} == {"POST /a", "POST /b", "POST /c", OTHERS}
