"""The commands on a real directory store, through click's runner and the whole main group."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest
from click.testing import CliRunner, Result

from coatcheck_sidecar.cli.group import COMMANDS, cli
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.model import CallClass, CallState
from coatcheck_sidecar.core.ownership import Heartbeat, encode_heartbeat, summary_of
from coatcheck_sidecar.core.record import (
    Birth,
    CallOutcome,
    Checkpoint,
    Claimed,
    Created,
    Dispatched,
    Event,
    Finished,
    Held,
    Intent,
    Parked,
)
from coatcheck_sidecar.core.runlog import RunLog
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.engine.budget import Budget
from coatcheck_sidecar.engine.lane import Lane
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.restore import Restored
from coatcheck_sidecar.engine.settings import Settings
from coatcheck_sidecar.engine.shipper import Doors, Shipper
from coatcheck_sidecar.stores.directory import DirectoryStore

SENT_MS = 1_700_000_000_000
Ask = Callable[..., Result]


class Silent:
    def note(self, event: str, /, **fields: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def ask(folder: Path) -> Ask:
    """`ask("runs", "--json")`: the command on the store, exit status 0 unless told."""
    folder.mkdir()

    def ask(*args: str, status: int = 0, text: str | None = None) -> Result:
        environ = {"COATCHECK_STORE": folder.as_uri(), "COLUMNS": "200"}
        result = CliRunner().invoke(cli, args, env=environ, input=text)
        assert result.exit_code == status, result.output + repr(result.exception)
        return result

    return ask


def doubt(seq: int, *, tool: str = "charge") -> tuple[Event, ...]:
    birth = Birth(
        key=f"k{seq}", step=1, tool=tool, call_class=CallClass.ONCE, fingerprint=b"f",
        is_named=True, summary="amount=12\x1b[31m",
    )  # fmt: skip
    return (
        Intent(call=seq, birth=birth),
        Dispatched(call=seq, attempt=1),
        CallOutcome(call=seq, attempt=1, what="in_doubt", reason="lost"),
    )


def ship(folder: Path, run: str, *events: Event, queue: str = "q", owner: str = "") -> None:
    """A run as an owner left it, with a heartbeat if `owner` still has it."""

    async def go() -> None:
        store = DirectoryStore(folder, clock=SystemClock())
        gate, clock, settings, silent = asyncio.Semaphore(4), SystemClock(), Settings(), Silent()
        budget = Budget(clock, settings=settings, observer=silent)
        doors = Doors(store, clock, settings, silent, gate, Lane(4), budget)
        log = RunLog(RunState(run))
        log.append(Created(queue=queue), at_ms=SENT_MS)
        log.claim(Claimed(owner=owner or "o.1"), at_ms=SENT_MS)
        for event in events:
            log.append(event, at_ms=SENT_MS)
        await Shipper(log, doors).ship_all()
        if owner:
            head = log.snapshot(nonce=b"", random=b"").head
            beat = Heartbeat(owner, 1, runs=(summary_of(head, in_doubt=len(log.state.in_doubt)),))
            await store.put(f"owners/{owner}/heartbeat", encode_heartbeat(beat))
        await store.close()

    asyncio.run(go())


def read(folder: Path, run: str) -> Restored:
    async def go() -> Restored:
        store = DirectoryStore(folder, clock=SystemClock())
        try:
            return await Outside(store, SystemClock()).show(run)
        finally:
            await store.close()

    return asyncio.run(go())


def told(result: Result) -> Any:
    return json.loads(result.stdout)


def test_a_run_from_its_submission_to_its_end(ask: Ask, folder: Path) -> None:
    assert "mail-1 is ready" in ask("submit", "mail-1", "--queue", "mail", "--input", "[1]").output
    assert told(ask("submit", "mail-1", "--queue", "mail", "--input", "[1]", "--json")) == {
        "run": "mail-1", "queue": "mail", "is_new": False,
    }  # fmt: skip
    assert "another input" in ask("submit", "mail-1", "--input", "[2]", status=1).stderr
    assert "mail-1" in ask("runs", "--queue", "mail").output
    assert "no runs" in ask("runs", "--queue", "other").output
    assert "done; it is ready" in ask("signal", "mail-1", "go", "--value", '{"a": 1}').output
    shown = told(ask("show", "mail-1", "--json", "--state"))
    assert (shown["status"], shown["input"], shown["epoch"]) == ("ready", [1], 1)
    assert [(s["name"], s["value"]) for s in shown["signals"]] == [("go", {"a": 1})]
    assert "SIGNAL" in ask("show", "mail-1").output
    assert "signalled" in ask("log", "mail-1").output
    assert [r["kind"] for r in told(ask("log", "mail-1", "--json"))] == ["created", "signalled"]
    assert "cancelled" in ask("cancel", "mail-1", "--why", "typo", "--by", "ann").output
    refused = ask("cancel", "mail-1", status=1)
    assert "refused: run mail-1 is cancelled" in refused.stderr
    assert told(ask("runs", "--json")) == []
    (line,) = told(ask("runs", "--all", "--json"))
    assert line["summary"]["reason"] == "cancelled by ann: typo"


def test_doubts_are_listed_and_resolved_one_by_one(ask: Ask, folder: Path) -> None:
    ship(folder, "r1", *doubt(3), *doubt(6, tool="mail"), Held(reason="in_doubt: calls [3, 6]"))
    ship(folder, "r2", *doubt(3), owner="pod.1")
    output = ask("doubts").output
    assert output.count("charge") == 2
    assert "\x1b" not in output
    assert [d["call"]["number"] for d in told(ask("doubts", "--tool", "mail", "--json"))] == [6]
    assert [d["run"] for d in told(ask("doubts", "r2", "--json"))] == ["r2"]
    assert "nothing is in doubt" in ask("doubts", "--queue", "other").output
    done = ask("resolve", "r1", "3", "--applied", "--value", '{"id": "ch_1"}', "--why", "seen")
    assert "call 3: done; it is held" in done.output
    outcome = read(folder, "r1").log.state.calls[3].outcome
    assert outcome is not None
    assert msgpack.unpackb(outcome.body.data or b"") == {"id": "ch_1"}
    assert "no_such_call" in ask("resolve", "r1", "99", "--retry", status=1).stderr
    assert told(ask("resolve", "r1", "6", "--not-applied", "--json")) == [
        {"run": "r1", "call": 6, "refused": "", "status": "ready"}
    ]


def test_a_call_that_was_taken_back_by_hand_counts_no_more(ask: Ask, folder: Path) -> None:
    ship(folder, "r1", *doubt(3), Held(reason="in_doubt: calls [3]"))
    assert "--compensate" in ask("resolve", "r1", "3", status=2).stderr
    refused = ask("resolve", "r1", "3", "--compensate", "--value", "1", status=2)
    assert "--value goes with --applied" in refused.stderr
    assert "call 3: done" in ask("resolve", "r1", "3", "--compensate", "--by", "ann").output
    state = read(folder, "r1").log.state
    assert (state.calls[3].state, state.in_doubt) == (CallState.COMPENSATED, [])
    assert "not_in_doubt" in ask("resolve", "r1", "3", "--retry", status=1).stderr


def test_doubts_of_a_tool_are_resolved_together_after_a_look(ask: Ask, folder: Path) -> None:
    for run in ("r1", "r2"):
        ship(folder, run, *doubt(3), *doubt(6, tool="mail"), Held(reason="in_doubt: calls [3, 6]"))
    no = ask("resolve", "--tool", "mail", "--not-applied", status=1, text="n\n")
    assert "resolve as not_applied these 2?" in no.output
    assert len(read(folder, "r1").log.state.in_doubt) == 2
    ask("resolve", "--tool", "mail", "--not-applied", "--queue", "q", "--yes")
    for run in ("r1", "r2"):
        assert [call.tool for call in read(folder, run).log.state.in_doubt] == ["charge"]
    assert "nothing to resolve" in ask("resolve", "--tool", "mail", "--retry").output


def test_held_runs_of_a_queue_go_on_together(ask: Ask, folder: Path) -> None:
    ship(folder, "r1", Held(reason="crash_loop"))
    ship(folder, "r2", Held(reason="crash_loop"))
    ship(folder, "r3", Parked(name="x"))
    ship(folder, "r4", Held(reason="crash_loop"), queue="other")
    output = ask("retry", "--queue", "q", text="y\n").output
    assert "retry these 2?" in output
    statuses = {line["summary"]["run"]: line["summary"]["status"] for line in
                told(ask("runs", "--json"))}  # fmt: skip
    assert statuses == {"r1": "ready", "r2": "ready", "r3": "parked", "r4": "held"}
    assert "refused: run r3 is parked, not held" in ask("retry", "r3", status=1).stderr
    dones = told(ask("cancel", "--queue", "q", "--yes", "--json", "--timeout", "5"))
    assert {done["status"] for done in dones} == {"cancelled"}


def test_an_owner_that_says_nothing_keeps_the_command(ask: Ask, folder: Path) -> None:
    ship(folder, "r1", owner="pod.1")
    late = ask("cancel", "r1", "--timeout", "0.1", status=1)
    assert "it lies with pod.1" in late.stderr
    assert len(list((folder / "owners" / "pod.1" / "in").iterdir())) == 1
    bulk = ask("cancel", "--queue", "q", "--yes", "--timeout", "0.1", status=1)
    assert "it lies with pod.1" in bulk.stderr


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["resolve", "r1", "3"], "say --applied"),
        (["resolve", "r1", "--applied"], "name RUN and CALL"),
        (["resolve", "r1", "3", "--tool", "t", "--retry"], "does not go with"),
        (["resolve", "r1", "3", "--retry", "--value", "1"], "goes with --applied"),
        (["cancel"], "name RUN, or --queue"),
        (["retry", "r1", "--queue", "q"], "name RUN, or --queue"),
        (["signal", "r1", "go", "--value", "yes"], "for a string write '\"yes\"'"),
        (["signal", "r1", "go", "--value", "99999999999999999999999"], "is not JSON"),
        (["submit", "r1", "--pinned"], "needs --code-version"),
        (["submit", "r1", "--queue", "a/b"], "letters, digits"),
        (["nonsense"], "No such command"),
        (["runs", "--store", "ftp://x"], "must begin with one of"),
    ],
)
def test_what_can_not_be_meant_is_said_so(ask: Ask, args: Sequence[str], part: str) -> None:
    assert part in ask(*args, status=2).stderr


def test_a_run_or_store_that_is_not_there(ask: Ask, tmp_path: Path) -> None:
    assert "there is no run r9" in ask("show", "r9", status=1).stderr
    assert "no run's name" in ask("log", "../r9", status=1).stderr
    gone = tmp_path / "gone"
    assert "no such folder" in ask("runs", "--store", gone.as_uri(), status=69).stderr
    assert not gone.exists()


def test_damage_is_named_and_has_its_own_status(ask: Ask, folder: Path) -> None:
    ship(folder, "r1", Held(reason="crash_loop"))
    (folder / "runs" / "r1" / "head").write_bytes(b"junk")
    assert "runs/r1/head" in ask("show", "r1", status=1).stderr
    assert "runs" not in ask("runs", "--all").stderr


def test_a_value_can_come_by_standard_input(ask: Ask, folder: Path) -> None:
    ask("submit", "r1", "--input", "-", text='{"big": "document"}')
    created = read(folder, "r1").log.state.created
    assert created.input is not None
    assert msgpack.unpackb(created.input.data or b"") == {"big": "document"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(ask: Ask, name: str) -> None:
    output = ask(name, "--help").output
    assert "Example" in output
    assert f"coatcheck {name}" in output


def test_help_lists_every_command(ask: Ask) -> None:
    output = ask("--help").output
    assert all(f"  {name} " in output for name in COMMANDS)
    assert "version" in ask("--version").output


def test_verify_names_what_is_damaged(ask: Ask, folder: Path) -> None:
    ship(folder, "r1")
    ship(folder, "r2")
    assert [(v["run"], v["faults"]) for v in told(ask("verify", "--all", "--json"))] == [
        ("r1", []), ("r2", []),
    ]  # fmt: skip
    assert "whole" in ask("verify", "r1").output
    head = folder / "runs/r2/head"
    head.write_bytes(head.read_bytes()[:-1])
    both = ask("verify", "--all", status=65)
    assert "1 damaged" in both.stdout
    assert "head: runs/r2/head" in both.stderr
    assert "coatcheck retry" in both.stderr
    (found,) = told(ask("verify", "r2", "--json", status=65))
    assert found["faults"][0]["part"] == "head"
    assert "no run r9" in ask("verify", "r9", status=1).stderr
    assert "--all" in ask("verify", status=2).stderr


def test_preflight_says_what_a_new_image_would_pass_over(ask: Ask, folder: Path) -> None:
    at_schema_1 = Checkpoint(step=3, step_high=3, schema=1, code_version="v1")
    ship(folder, "old", at_schema_1)
    ship(folder, "new")
    ship(folder, "over", at_schema_1, Finished())
    ship(folder, "other", at_schema_1, queue="mail")
    assert told(ask("preflight", "--schema", "1", "--json")) == {"taken": 3, "passed": []}
    found = told(ask("preflight", "--schema", "2", "--json", status=1))
    assert found["taken"] == 1
    assert [(line["run"], line["queue"], line["schema"]) for line in found["passed"]] == [
        ("old", "q", 1), ("other", "mail", 1),
    ]  # fmt: skip
    shown = ask("preflight", "--schema", "2", "--queue", "q", status=1).output
    assert "1 runs would go on, 1 would not" in shown
    assert "schema 1, this agent takes 2" in shown
    lifted = ask("preflight", "--schema", "3", "--migrate-from", "1", "--json")
    assert told(lifted) == {"taken": 3, "passed": []}
    wrong = ask("preflight", "--schema", "1", "--migrate-from", "2", status=2)
    assert "--migrate-from 2 is above --schema 1" in wrong.stderr
    head = folder / "runs/new/head"
    head.write_bytes(head.read_bytes()[:-1])
    (unread,) = told(ask("preflight", "--schema", "1", "--json", status=1))["passed"]
    assert (unread["run"], unread["status"]) == ("new", "unread")
    assert "runs/new/head" in unread["why"]


def test_delete_asks_and_erases(ask: Ask, folder: Path) -> None:
    ask("submit", "r1")
    assert "coatcheck cancel r1" in ask("delete", "r1", "--yes", status=1).stderr
    ask("cancel", "r1")
    ask("delete", "r1", status=1, text="n\n")
    assert (folder / "runs/r1/head").exists()
    assert "r1: erased" in ask("delete", "r1", text="y\n").output
    assert not (folder / "runs/r1").exists()
    assert "no run r1" in ask("delete", "r1", "--yes", status=1).stderr
