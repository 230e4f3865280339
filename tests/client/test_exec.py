"""`coatcheck exec -- CMD` against a scripted sidecar: real processes, real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from coatcheck._exec import EXIT_UNAVAILABLE, SIGNALLED
from tests.client.fake import HELLO, AwaitClose, Drop, Expect, Fake, Line, Ok, Pause, Push, opened

PROXY = "http://127.0.0.1:7070/0123456789abcdef0123456789abcdef"
FOUND: dict[str, Any] = {"proxy": PROXY, "env": {"OPENAI_BASE_URL": f"{PROXY}/openai"}}
FINISH: list[Line] = [Expect("finish", {"step": 1}), Ok({"seq": 6}), AwaitClose()]
TELL = """
import json, os
names = ("COATCHECK_RUN_ID", "COATCHECK_PROXY_URL", "OPENAI_BASE_URL")
print(json.dumps({name: os.environ.get(name) for name in names}), flush=True)
"""
WAIT = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("stopped", flush=True), sys.exit({status})))
print("up", flush=True)
time.sleep(20)
"""
PATIENCE_S = 15.0


def released(reason: str) -> list[Line]:
    return [Expect("release", {"reason": reason}), Ok({"seq": 9}), AwaitClose()]


def start(*args: str, script: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "coatcheck", "exec", *args, "--", sys.executable, "-c", script]
    return subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(started: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = started.communicate(timeout=PATIENCE_S)
    return started.returncode, out, err


def test_a_command_that_ends_well_finishes_the_run(path: Path) -> None:
    with Fake(path, [*opened(**FOUND), *FINISH]) as fake:
        status, out, err = end(start("--run", "r-1", script=TELL))
    assert (status, err) == (0, "")
    url = f"{PROXY}/openai"
    said = {"COATCHECK_RUN_ID": "r", "COATCHECK_PROXY_URL": PROXY, "OPENAI_BASE_URL": url}
    assert json.loads(out) == said
    asked = fake.seen[1].body
    assert (asked["run"], asked["create"]) == ("r-1", True)


def test_another_status_is_returned_and_counted(path: Path) -> None:
    with Fake(path, [*opened(**FOUND), *released("error")]) as fake:
        assert end(start("--run", "r", script="raise SystemExit(3)"))[0] == 3
    assert fake.seen[-1].body["error"] == "ChildProcessError: the command ended with 3"


def test_a_command_that_was_killed_is_counted(path: Path) -> None:
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with Fake(path, [*opened(**FOUND), *released("error")]):
        assert end(start("--run", "r", script=kill))[0] == SIGNALLED + signal.SIGKILL


@pytest.mark.parametrize("status", [0, 1])
def test_a_drain_asks_the_command_to_stop(path: Path, status: int) -> None:
    """However it ends then: the run isn't finished, and nobody is to blame."""
    script = [*opened(**FOUND), Pause(1.0), Push("drain", {"deadline_s": 9.0})]
    with Fake(path, [*script, *released("draining")]):
        ended = end(start("--run", "r", script=WAIT.format(status=status)))
    assert ended == (status, "up\nstopped\n", "")


def test_a_signal_is_passed_on(path: Path) -> None:
    with Fake(path, [*opened(**FOUND), *released("left")]):
        started = start("--run", "r", script=WAIT.format(status=7))
        assert started.stdout is not None
        assert started.stdout.readline() == "up\n"
        started.send_signal(signal.SIGTERM)
        assert end(started)[:2] == (7, "stopped\n")


def test_a_run_that_went_elsewhere_stops_the_command(path: Path) -> None:
    script = [*opened(**FOUND), Pause(1.0), Push("fenced", {"epoch": 5}), AwaitClose()]
    with Fake(path, script):
        assert end(start("--run", "r", script=WAIT.format(status=7)))[:2] == (7, "up\nstopped\n")


def test_a_restart_of_the_sidecar_is_outlived(path: Path) -> None:
    resume = {"epoch": 1, "calls": {}, "answered": []}
    second = [*HELLO, Expect("open", {"run": "r", "resume": resume}), Ok({"epoch": 2}), *FINISH]
    with Fake(path, [*opened(**FOUND), Drop(0.2)], second):
        assert end(start("--run", "r", script="import time; time.sleep(1.5)"))[0] == 0


def test_the_next_run_of_a_queue_is_claimed(path: Path) -> None:
    with Fake(path, [*opened(**FOUND), *FINISH]) as fake:
        assert end(start("--queue", "invoices", script=TELL))[0] == 0
    asked = fake.seen[1].body
    assert (asked["queue"], "run" in asked, asked["create"]) == ("invoices", False, False)


def test_a_signal_while_it_waits_for_a_run_ends_it(path: Path) -> None:
    with Fake(path, [*HELLO, Expect("open"), AwaitClose()]) as fake:
        started = start("--queue", "invoices", script=TELL)
        end_s = time.monotonic() + PATIENCE_S
        while len(fake.seen) < 2 and time.monotonic() < end_s:
            time.sleep(0.02)
        started.send_signal(signal.SIGTERM)
        assert end(started)[:2] == (SIGNALLED + signal.SIGTERM, "")


@pytest.mark.parametrize(("status", "expected"), [("finished", 0), ("failed", EXIT_UNAVAILABLE)])
def test_a_run_that_is_over_starts_nothing(path: Path, status: str, expected: int) -> None:
    with Fake(path, [*opened(status=status, error="why"), AwaitClose()]):
        code, out, err = end(start("--run", "r", script=TELL))
    assert (code, out) == (expected, "")
    assert err == "" if expected == 0 else "run r is failed" in err


def test_a_sidecar_without_http_is_refused_by_name(path: Path) -> None:
    with Fake(path, [*opened(), *released("error")]):
        code, out, err = end(start("--run", "r", script=TELL))
    assert (code, out) == (EXIT_UNAVAILABLE, "")
    assert "has its sidecar HTTP" in err


def test_mistakes_are_named_before_a_run_is_opened(path: Path) -> None:
    exec_ = [sys.executable, "-m", "coatcheck", "exec"]
    done = subprocess.run([*exec_, "--", "no-such-command"], capture_output=True, text=True)
    assert (done.returncode, "no command no-such-command" in done.stderr) == (2, True)
    done = subprocess.run([*exec_, "--", sys.executable], capture_output=True, text=True)
    assert (done.returncode, "COATCHECK_RUN_ID" in done.stderr) == (EXIT_UNAVAILABLE, True)


def test_off_it_only_runs_the_command(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_MODE", "off")
    monkeypatch.setenv("COATCHECK_RUN_ID", "from-env")
    status, out, _ = end(start(script=TELL))
    said = {"COATCHECK_PROXY_URL": None, "OPENAI_BASE_URL": None, "COATCHECK_RUN_ID": "from-env"}
    assert (status, json.loads(out)) == (0, said)
    assert not os.path.exists(path)


def test_it_needs_no_more_than_the_client(path: Path) -> None:
    code = "import sys; sys.argv = ['coatcheck', 'exec', '--help']\n"
    code += "from coatcheck.__main__ import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "print({'coatcheck_sidecar', 'aiohttp', 'click'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    assert "usage: coatcheck exec" in done.stdout
