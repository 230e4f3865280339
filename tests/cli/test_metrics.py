import io
import json
import logging
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coatcheck_sidecar import logs
from coatcheck_sidecar.events import KEPT_MAX, TABLE, Events, Figures
from coatcheck_sidecar.metrics import GAUGES, LABEL_VALUES_MAX, Metrics

EVENTS: dict[str, dict[str, object]] = {
    "shipped": {"bytes": 300, "puts": 2, "seconds": 0.02},
    "ship_failed": {"run": "r", "error": "reset"},
    "fenced": {"run": "r", "epoch": 3},
    "damaged": {"run": "r", "error": "digest"},
    "store_paced": {"run": "r", "seconds": 0.9, "apart_s": 1.0},
    "repaired": {"run": "r", "step": 3, "error": "runs/r/o/1-2-00: missing"},
    "collected": {"run": "r", "objects": 4, "bytes": 3_000},
    "set_aside": {"run": "r", "records": 4, "reason": "diverged"},
    "row_damaged": {"run": "r", "seq": 3, "error": "digest"},
    "spool_failed": {"run": "r", "error": "full"},
    "committed": {"level": "node", "seconds": 0.001, "bytes": 5000},
    "claimed": {"run": "r", "cause": "ready", "seconds": 0.1},
    "call": {"tool": "charge", "decision": "go"},
    "crashed": {"run": "r", "how": "agent"},
    "held": {"run": "r", "why": "in_doubt", "reason": "in_doubt: calls [3]"},
    "inherited": {"run": "r", "hook": "missed", "stop": "cut", "waited_s": 1.5},
    "store": {"operation": "swap", "outcome": "ok", "seconds": 0.02},
    "heartbeat_failed": {"error": "reset"},
    "store_away": {"error": "reset"},
    "store_back": {},
    "journal_dead": {"error": "EIO"},
    "command": {"what": "cancel", "refused": ""},
    "exchange": {"tool": "mail", "decision": "sent", "added_s": 0.01, "upstream_s": 2.0},
    "probe_failed": {"tool": "mail", "error": "status 500"},
    "answer_cut": {"tool": "mail", "error": "fenced"},
    "task_failed": {"name": "ship r", "error": "KeyError"},
    "restored": {"run": "r", "seconds": 0.2, "objects": 5},
    "alarm": {"run": "r", "call": 7, "reason": "contradicted"},
    "drain": {"cause": "preStop", "deadline_s": 29.0},
    "budget_waited": {"seconds": 0.4},
    "budget_broken": {},
    "budget_warning": {"unshipped_bytes": 9_000_000, "budget_bytes": 8_000_000, "why": "slow"},
    "drain_hook_missed": {},
    "late_outcome": {"run": "r", "call": 3, "refused": ""},
    "drained": {"cause": "preStop", "seconds": 0.2},
    "run_cut": {"run": "r", "step": 2},
    "run_expired": {"run": "r"},
    "undone": {"run": "r", "call": 3, "tool": "bank"},
    "undo_forward": {"run": "r", "why": "call 3 (mail) is done and irreversible"},
    "step_stuck": {"run": "r", "step": 2, "seconds": 61.2, "timeout_s": 60.0, "queue": "q"},
    "let_go": {"run": "r", "status": "ready", "reason": "left"},
    "look_failed": {"error": "reset"},
    "not_accepted": {"run": "r1", "reason": "another schema"},
    "passed_over": {"run": "r", "error": "pinned"},
    "adopt_failed": {"run": "r", "error": "schema"},
    "drain_cut": {"runs": 2},
    "completion_replayed": {"tool": "t", "input_tokens": 9, "output_tokens": 2, "dollars": 0.1},
    "bypass": {"host": "192.0.2.1", "connections": 1},
    "observed": {"doubled": 1},
    "observed_call": {"tool": "t", "pattern": "POST /", "effect": "once"},
    "unprotected": {"host": "db.internal", "how": "connect"},
}


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root = logging.getLogger()
    before = (root.handlers, root.level)
    logs.configure(level="debug", format="json", stream=stream)
    yield stream
    logs.configure(level="warning", format="auto")
    root.handlers, root.level = before


def samples(events: Events) -> dict[str, float]:
    text = events.metrics().render("")[0].decode()
    return {
        sample.name
        + "".join(f"{{{k}={v}}}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_event_that_the_engine_notes_is_in_the_table() -> None:
    assert set(EVENTS) == set(TABLE)


@pytest.mark.parametrize("event", sorted(EVENTS))
def test_an_event_is_counted_and_logged(event: str, out: io.StringIO) -> None:
    events = Events()
    before = samples(events)
    events.note(event, **EVENTS[event])
    line = json.loads(out.getvalue())
    assert line["event"] == event
    fields = {"level_" if key == "level" else key: v for key, v in EVENTS[event].items()}
    assert fields.items() <= line.items()
    changed = {name for name, value in samples(events).items() if before.get(name) != value}
    changed = {name for name in changed if not name.startswith("process_")}
    assert bool(changed) == bool(TABLE[event].instruments)
    assert not any("{run=" in name for name in changed)


def test_figures_are_added_up(out: io.StringIO) -> None:
    events = Events()
    for _ in range(2):
        events.note("shipped", **EVENTS["shipped"])
        events.note("call", tool="charge", decision="go")
    told = samples(events)
    assert told["coatcheck_shipped_bytes_total"] == 600
    assert told["coatcheck_store_puts_total"] == 4
    assert told["coatcheck_ship_seconds_bucket{le=0.025}"] == 2
    assert told["coatcheck_calls_total{decision=go}{tool=charge}"] == 2


def test_an_event_that_nobody_knows_or_that_lacks_its_figure_is_logged(out: io.StringIO) -> None:
    events = Events()
    events.note("novelty", x=1)
    events.note("shipped")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == [
        "novelty", "shipped",
    ]  # fmt: skip
    assert samples(events)["coatcheck_shipped_bytes_total"] == 0


def test_an_agent_that_makes_up_tools_does_not_make_up_series(out: io.StringIO) -> None:
    events = Events()
    for number in range(LABEL_VALUES_MAX + 50):
        events.note("call", tool=f"t{number}", decision="go")
    told = samples(events)
    assert told["coatcheck_calls_total{decision=go}{tool=other}"] == 50
    assert sum(name.startswith("coatcheck_calls_total") for name in told) == LABEL_VALUES_MAX + 1


def test_a_label_has_an_end() -> None:
    events = Events()
    events.note("call", tool="t" * 5_000, decision="sent")
    (name,) = (name for name in samples(events) if name.startswith("coatcheck_calls_total"))
    assert len(name) < 200


def test_gauges_are_read_at_each_scrape() -> None:
    events = Events()
    now = [Figures(runs={"owned": 2}, in_doubt=1, is_unfenced=True)]
    events.metrics().watch(lambda: now[0])
    told = samples(events)
    assert told["coatcheck_runs{status=owned}"] == 2
    assert told["coatcheck_calls_in_doubt"] == 1
    assert told["coatcheck_unfenced"] == 1
    assert told["coatcheck_store_reachable"] == 1
    now[0] = Figures(is_store_reachable=False, is_draining=True, journal_bytes=7)
    told = samples(events)
    assert told["coatcheck_store_reachable"] == 0
    assert (told["coatcheck_draining"], told["coatcheck_journal_bytes"]) == (1, 7)
    assert {f"coatcheck_{name}" for name, _, _ in GAUGES} <= set(told)


def test_the_first_of_a_known_kind_is_an_increase_of_a_series_that_was_there() -> None:
    told = samples(Events())
    assert told["coatcheck_crashes_total{how=takeover}"] == 0
    assert told["coatcheck_runs_held_total{why=in_doubt}"] == 0
    assert told["coatcheck_runs_inherited_total{hook=missed}{stop=boundary}"] == 0


def test_no_series_is_there_to_say_when_another_began() -> None:
    assert not [name for name in samples(Events()) if "_created" in name]


def test_calls_of_the_sdk_and_over_http_are_one_metric(out: io.StringIO) -> None:
    events = Events()
    events.note("call", run="r", tool="mail", decision="sent")
    events.note("exchange", run="r", tool="mail", decision="sent", added_s=0.01, upstream_s=None)
    told = samples(events)
    assert told["coatcheck_calls_total{decision=sent}{tool=mail}"] == 2
    assert told["coatcheck_call_added_seconds_count{decision=sent}"] == 1
    assert "coatcheck_upstream_seconds_count{tool=mail}" not in told


def test_what_waits_is_told_by_status_and_queue() -> None:
    events = Events()
    events.metrics().watch(lambda: Figures(waiting={("held", "bills"): (3, 61.5)}))
    told = samples(events)
    assert told["coatcheck_waiting_runs{queue=bills}{status=held}"] == 3
    assert told["coatcheck_waiting_oldest_seconds{queue=bills}{status=held}"] == 61.5


def test_a_line_of_a_run_says_where_the_run_is(out: io.StringIO) -> None:
    events = Events()
    events.place = lambda run: {"epoch": 4, "step": 7} if run == "r" else {}
    events.note("ship_failed", run="r", error="reset")
    events.note("fenced", run="r", epoch=3)
    events.note("fenced", run="other", epoch=2)
    events.note("store_back")
    first, second, third, last = map(json.loads, out.getvalue().splitlines())
    assert (first["run"], first["epoch"], first["step"]) == ("r", 4, 7)
    assert (second["epoch"], second["step"]) == (3, 7)
    assert (third["epoch"], "step" in third, "run" in last) == (2, False, False)


def test_a_scraper_may_ask_for_open_metrics() -> None:
    body, content_type = Metrics(version="1").render("application/openmetrics-text")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_the_release_is_told() -> None:
    body, _ = Metrics(version="1.2").render("")
    assert b'coatcheck_build_info{version="1.2"} 1.0' in body


# Until metrics are made


def test_what_was_noted_before_is_counted_in_full(out: io.StringIO) -> None:
    late, prompt = Events(), Events()
    prompt.metrics()
    for events in (late, prompt):
        for seconds in (0.002, 0.02, 0.2):
            events.note("shipped", bytes=300, puts=2, seconds=seconds)
        events.note("call", tool="charge", decision="go")
        events.note("passed_over", run="r", error="pinned")
        events.note("novelty", x=1)
    lines = [json.loads(line)["event"] for line in out.getvalue().splitlines()]
    assert lines == 2 * [*3 * ["shipped"], "call", "passed_over", "novelty"]
    assert ours(late) == ours(prompt)
    assert ours(late)["coatcheck_ship_seconds_bucket{le=0.025}"] == 2
    late.note("call", tool="charge", decision="go")
    assert ours(late)["coatcheck_calls_total{decision=go}{tool=charge}"] == 2
    assert len(out.getvalue().splitlines()) == 13


def ours(events: Events) -> dict[str, float]:
    return {name: value for name, value in samples(events).items() if name.startswith("coatcheck_")}


def test_no_more_is_kept_than_may_be_and_none_of_it_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []

    class Watched(Metrics):
        def __init__(self, *, version: str) -> None:
            made.append(noted)
            super().__init__(version=version)

    monkeypatch.setattr("coatcheck_sidecar.metrics.Metrics", Watched)
    events, noted = Events(), 0
    for noted in range(1, KEPT_MAX + 11):
        events.note("committed", level="node", seconds=0.001, bytes=noted)
    assert made == [KEPT_MAX]
    told = ours(events)
    assert told["coatcheck_commit_seconds_count{level=node}"] == KEPT_MAX + 10
    assert made == [KEPT_MAX]
