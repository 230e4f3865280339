"""`coatcheck run` told to stop, and killed: what is documented in docs/supervisor.md, for real."""

import os
import signal
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from .running import goes, goes_on, ledger, running, script, sdk, summary

STOPS = (signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow))


@pytest.mark.parametrize("number", STOPS)
def test_an_agent_in_mid_step_ends_its_step_and_then_itself(
    tmp_path: Path, number: signal.Signals
) -> None:
    with running(tmp_path, (), sdk(tmp_path, "9", "0.5")) as run:
        run.told("in step 2")
        assert run.stop(number) == 0
        assert "agent_killed" not in run.error()
    found = summary(tmp_path)
    assert (found["status"], found["step"], found["reason"]) == ("ready", 2, "draining")
    goes_on(tmp_path, at_step=3, steps=4)


def test_an_agent_that_ignores_all_is_killed_within_the_grace(tmp_path: Path) -> None:
    with running(tmp_path, ("--grace-s", "3"), sdk(tmp_path, "9", "60", "ignore")) as run:
        agent = int(run.told("agent"))
        run.told("in step 1")
        began_s = time.monotonic()
        run.process.send_signal(signal.SIGTERM)
        assert goes(agent)
        assert 1.5 < time.monotonic() - began_s < 3  # by half the margin before the end
        assert run.ends() == 128 + signal.SIGKILL
    assert summary(tmp_path)["status"] == "ready"
    goes_on(tmp_path, at_step=1, steps=2)


@pytest.mark.slow
def test_an_agent_too_long_in_its_step_gets_the_signal_at_the_barrier(tmp_path: Path) -> None:
    with running(tmp_path, ("--grace-s", "4"), sdk(tmp_path, "9", "60")) as run:
        run.told("in step 1")
        began_s = time.monotonic()
        assert run.stop() == 0  # it died of what it was told, and nothing is left behind
        assert 1.5 < time.monotonic() - began_s < 4
    assert summary(tmp_path)["status"] == "ready"
    goes_on(tmp_path, at_step=1, steps=2)


def test_the_agent_hears_of_the_signal_when_its_runs_are_safe(tmp_path: Path) -> None:
    options = ("--run", "r1", "--grace-s", "6")
    plain = script(
        tmp_path,
        "import signal, sys, time\n"
        "def end(number, frame):\n"
        "    print('told', number, flush=True)\n"
        "    sys.exit(4)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('agent', flush=True)\n"
        "time.sleep(60)\n",
    )
    with running(tmp_path, options, plain) as run:
        run.told("agent")
        assert run.stop() == 4
    assert summary(tmp_path)["status"] == "ready"


def test_sigkill_of_the_agent_is_a_crash_and_its_status(tmp_path: Path) -> None:
    with running(tmp_path, (), sdk(tmp_path, "9", "0.1", "die=2")) as run:
        assert run.ends() == 128 + signal.SIGKILL
    found = summary(tmp_path)
    assert (found["status"], found["step"]) == ("ready", 1)
    assert found["reason"] == "the agent ended with 137"
    goes_on(tmp_path, at_step=2, steps=3)


@pytest.mark.parametrize("words", [pytest.param((), marks=pytest.mark.slow), ("ignore",)])
def test_sigkill_of_the_supervisor_is_the_end_of_the_agent_and_its_children(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    with running(tmp_path, (), sdk(tmp_path, "9", "60", "child", *words)) as run:
        child, agent = int(run.told("child")), int(run.told("agent"))
        run.told("in step 1")
        assert run.stop(signal.SIGKILL) == -signal.SIGKILL
        assert goes(agent)
        assert goes(child)
    goes_on(tmp_path, at_step=1, steps=2)


def test_an_agent_is_guarded_again_when_its_guard_dies(tmp_path: Path) -> None:
    with running(tmp_path, (), sdk(tmp_path, "9", "60")) as run:
        agent = int(run.told("agent"))
        run.told("in step 1")
        (first,) = guards(run.process.pid)
        os.kill(first, signal.SIGKILL)
        assert goes(first)
        until_s = time.monotonic() + 3
        while not guards(run.process.pid) and time.monotonic() < until_s:
            time.sleep(0.02)
        assert run.stop(signal.SIGKILL) == -signal.SIGKILL
        assert goes(agent)
        assert '"guard_died"' in run.error()


def guards(supervisor: int) -> list[int]:
    """The guards of a supervisor, by their command lines."""
    found = []
    for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):
            if b"guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


def test_sigkill_of_the_supervisor_ends_what_coatcheck_exec_started(tmp_path: Path) -> None:
    agent = script(tmp_path, "import os, time\nprint('agent', os.getpid(), flush=True)\n"
                   "time.sleep(60)\n")  # fmt: skip
    with running(tmp_path, ("--run", "r1"), agent) as run:
        pid = int(run.told("agent"))
        run.stop(signal.SIGKILL)
        assert goes(pid)


def test_a_second_signal_cuts_and_the_journal_keeps_what_there_was(tmp_path: Path) -> None:
    with running(tmp_path, (), sdk(tmp_path, "9", "60")) as run:
        run.told("in step 1")
        run.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert run.process.poll() is None
        began_s = time.monotonic()
        assert run.stop(signal.SIGINT) == 128 + signal.SIGINT
        assert time.monotonic() - began_s < 2
    goes_on(tmp_path, at_step=1, steps=2)


def test_a_signal_that_comes_twice_at_once_is_one(tmp_path: Path) -> None:
    with running(tmp_path, (), sdk(tmp_path, "9", "0.5")) as run:
        run.told("in step 1")
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.02)
        assert run.stop(signal.SIGINT) == 0
    assert ledger(tmp_path) == [1]
    assert summary(tmp_path)["step"] == 1


def test_children_get_the_signal_too(tmp_path: Path) -> None:
    with running(tmp_path, ("--grace-s", "6"), sdk(tmp_path, "9", "0.2", "child")) as run:
        child = int(run.told("child"))
        run.told("in step 1")
        assert run.stop() == 0
        assert goes(child, within_s=0.5)


def test_a_drain_that_somebody_else_began_ends_it_too(tmp_path: Path) -> None:
    with running(tmp_path, ("--restart", "always"), sdk(tmp_path, "9", "0.3")) as run:
        url = run.told("proxy")
        run.told("in step 1")
        request = urllib.request.Request(f"{url}/v1/drain", method="POST")  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=3) as reply:  # noqa: S310 - loopback
            assert reply.status < 300
        assert run.ends() == 0
    found = summary(tmp_path)
    assert (found["status"], found["step"]) == ("ready", 1)


@pytest.mark.slow
def test_what_the_store_did_not_take_is_told_by_the_status_and_not_lost(tmp_path: Path) -> None:
    store, aside = tmp_path / "d/store", tmp_path / "aside"
    with running(tmp_path, ("--grace-s", "3"), sdk(tmp_path, "9", "60")) as run:
        run.told("in step 1")
        store.rename(aside)
        store.touch()  # a file where a folder should be: each request fails
        assert run.stop() == 75
    store.unlink()
    aside.rename(store)
    goes_on(tmp_path, at_step=1, steps=2)
