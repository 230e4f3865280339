"""`coatcheck map` on a real directory store."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from coatcheck_sidecar.cli.group import cli
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.core.record import Checkpoint, Claimed, Created, Event, Finished, Released
from coatcheck_sidecar.core.runlog import RunLog
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.engine.budget import Budget
from coatcheck_sidecar.engine.lane import Lane
from coatcheck_sidecar.engine.settings import Settings
from coatcheck_sidecar.engine.shipper import Doors, Shipper
from coatcheck_sidecar.stores.directory import DirectoryStore
from tests.engine.harness import Notes


def ship(folder: Path, run: str, *events: Event, queue: str) -> None:
    async def go() -> None:
        store = DirectoryStore(folder, clock=SystemClock())
        gate, clock, settings, notes = asyncio.Semaphore(4), SystemClock(), Settings(), Notes()
        budget = Budget(clock, settings=settings, observer=notes)
        doors = Doors(store, clock, settings, notes, gate, Lane(4), budget)
        log = RunLog(RunState(run))
        log.append(Created(queue=queue), at_ms=1)
        log.claim(Claimed(owner="o.1"), at_ms=1)
        for event in events:
            log.append(event, at_ms=1)
        await Shipper(log, doors).ship_all()
        await store.close()

    asyncio.run(go())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with runs of two queues, and one nobody can read."""
    store = tmp_path / "store"
    for number in range(3):
        step = Checkpoint(step=1, step_high=1, worked_ms=4_000, longest_ms=4_000)
        end = Finished(worked_ms=6_000 + number, longest_ms=4_000)
        ship(store, f"mail-{number}", step, end, queue="mail")
    slow = Checkpoint(step=1, step_high=1, worked_ms=1_400_000, longest_ms=700_000)
    ship(store, "train-0", slow, Released(reason="left"), queue="train")
    ship(store, "train-1", Released(reason="left"), queue="train")
    ship(store, "zz", Released(reason="left"), queue="train")
    (store / head_name("zz")).write_bytes(b"junk")
    return store


def ask(folder: Path, *args: str) -> Result:
    environ = {"COATCHECK_STORE": folder.as_uri(), "COLUMNS": "200"}
    result = CliRunner().invoke(cli, ["map", *args], env=environ)
    assert result.exit_code == 0, result.output
    return result


def told(folder: Path, *args: str) -> Any:
    return json.loads(ask(folder, *args, "--json").stdout)


def test_each_queue_with_what_it_allows_and_the_grace_to_set(folder: Path) -> None:
    mail, train = told(folder)["queues"]
    assert (mail["queue"], mail["runs"], mail["finished"]) == ("mail", 3, 3)
    assert (mail["run_p50_s"], mail["run_p95_s"], mail["step_p95_s"]) == (6.001, 6.002, 4.0)
    assert (mail["allows"], mail["grace_s"], mail["drain_grace_s"]) == ("drain", 7, 9)
    assert (train["runs"], train["allows"], train["grace_s"]) == (2, "compensate", 600)
    assert (train["run_p95_s"], train["step_max_s"]) == (None, 700.0)
    table = ask(folder).stdout
    assert "cloud-run drain" in table
    assert "6 s" in table


def test_of_one_queue_and_for_another_place(folder: Path) -> None:
    answer = told(folder, "--queue", "mail", "--on", "fly")
    (mail,) = answer["queues"]
    assert (answer["on"], mail["allows"]) == ("fly", "drain")
    assert ask(folder, "--queue", "nobodys").stdout == "no runs\n"


def test_a_limit_that_cuts_is_told(folder: Path) -> None:
    answer = told(folder, "--limit", "2")
    assert (answer["heads"], answer["is_cut"]) == (2, True)
    assert "there are more" in ask(folder, "--limit", "2").stderr
    assert "there are more" not in ask(folder, "--limit", "6").stderr
    assert told(folder)["heads"] == 5
