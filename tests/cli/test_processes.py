"""`coatcheck sidecar` and `coatcheck run` as real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

WAIT_S = 15.0
AGENT = """
import asyncio, sys, coatcheck
STEPS, PAUSE_S, END = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]

async def main():
    async with coatcheck.open_run("r1", schema=1) as run:
        state = run.state or {"n": 0}
        print("opened", file=sys.stderr, flush=True)
        async for step in run.steps():
            await asyncio.sleep(PAUSE_S)
            state["n"] += 1
            print("step", state["n"], flush=True)
            if state["n"] == STEPS:
                if END == "crash":
                    await step.commit(state)
                    print("crash", flush=True)
                    import os
                    os._exit(7)
                await run.finish("the end", state=state)
            else:
                await step.commit(state)

asyncio.run(main())
"""


def environ(**more: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("COATCHECK_")}
    return clean | {"PYTHONUNBUFFERED": "1"} | more


@contextmanager
def started(args: Sequence[str], env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "coatcheck", *args]
    with subprocess.Popen(
        command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def coatcheck(*args: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "coatcheck", *args],
        env=env or environ(), capture_output=True, text=True, timeout=WAIT_S, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def status_of(port: int, path: str) -> int:
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            if path != "/startupz":
                return error.code
        except OSError:
            pass
        time.sleep(0.02)
    pytest.fail(f"{path} did not answer")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# coatcheck sidecar


def settings(tmp_path: Path, port: int) -> dict[str, str]:
    return environ(
        COATCHECK_DATA=str(tmp_path / "data"),
        COATCHECK_SOCKET=str(tmp_path / "s.sock"),
        COATCHECK_LISTEN="127.0.0.1:0",
        COATCHECK_ADMIN_LISTEN=f"127.0.0.1:{port}",
        COATCHECK_GRACE_S="5",
    )


def test_every_mistake_in_the_settings_is_told_and_it_exits_by_64() -> None:
    env = environ(COATCHECK_LEASE_S="1", COATCHECK_HARTBEAT_S="2", COATCHECK_PORT="tcp://1.2.3.4")
    ran = coatcheck("sidecar", "--puts-max", "0", env=env)
    assert ran.returncode == 64
    assert "3 mistakes in the settings" in ran.stderr
    for part in ("--puts-max", "COATCHECK_LEASE_S", "did you mean COATCHECK_HEARTBEAT_S?"):
        assert part in ran.stderr


def test_a_sidecar_starts_serves_and_goes_in_good_order(tmp_path: Path) -> None:
    port = free_port()
    with started(["sidecar"], settings(tmp_path, port)) as process:
        assert status_of(port, "/startupz") == 200
        assert status_of(port, "/readyz") == 200
        assert (tmp_path / "s.sock").is_socket()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, err
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert {"unfenced", "started", "drain"} <= set(events)
    assert events.index("started") < events.index("drain")
    uid = (tmp_path / "data" / "pod_uid").read_text()
    assert len(uid) == 32
    assert not list((tmp_path / "data" / "store").glob("owners/*/heartbeat"))


@pytest.mark.parametrize(
    ("more", "status", "part"),
    [
        ({"COATCHECK_STORE": "s3://"}, 64, "s3"),
        ({"COATCHECK_STORE": "file:///proc/nowhere"}, 1, "/proc/nowhere"),
        ({"COATCHECK_DATA": "/proc/nowhere"}, 1, "/proc/nowhere"),
    ],
)
def test_what_keeps_it_from_starting_is_one_line(
    tmp_path: Path, more: dict[str, str], status: int, part: str
) -> None:
    ran = coatcheck("sidecar", env=settings(tmp_path, free_port()) | more)
    assert ran.returncode == status, ran.stderr
    last = json.loads(ran.stderr.splitlines()[-1])
    assert last["event"] == "start_failed"
    assert part in last["error"]


# coatcheck run


def run_args(tmp_path: Path, *, steps: int, pause_s: float = 0.0, end: str = "ok") -> list[str]:
    agent = tmp_path / "agent.py"
    agent.write_text(AGENT)
    agent_args = [sys.executable, str(agent), str(steps), str(pause_s), end]
    return ["run", "--data", str(tmp_path / "d"), "--", *agent_args]


def line_of(tmp_path: Path) -> dict[str, object]:
    ran = coatcheck("runs", "--all", "--json", "--store", (tmp_path / "d/store").as_uri())
    (line,) = json.loads(ran.stdout)
    summary: dict[str, object] = line["summary"]
    return summary


def test_an_agent_runs_to_its_end_without_a_cluster(tmp_path: Path) -> None:
    ran = coatcheck(*run_args(tmp_path, steps=3))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split("\n") == ["step 1", "step 2", "step 3", ""]
    assert line_of(tmp_path)["status"] == "finished"


def test_sigterm_stops_it_between_two_steps_and_the_next_one_goes_on(tmp_path: Path) -> None:
    with started(run_args(tmp_path, steps=1000, pause_s=0.05), environ()) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "step 3\n":
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=WAIT_S)
        assert process.returncode in {0, 128 + signal.SIGTERM}, err
    last = int(out.split()[-1]) if out else 3
    summary = line_of(tmp_path)
    assert (summary["status"], summary["step"]) == ("ready", last)
    again = coatcheck(*run_args(tmp_path, steps=last + 2))
    assert again.stdout.split("\n")[0] == f"step {last + 1}"
    assert line_of(tmp_path)["status"] == "finished"


def test_an_agent_that_crashes_gives_its_status_and_its_run(tmp_path: Path) -> None:
    ran = coatcheck(*run_args(tmp_path, steps=2, end="crash"))
    assert ran.returncode == 7
    summary = line_of(tmp_path)
    assert (summary["status"], summary["step"]) == ("ready", 2)
    assert summary["reason"] == "the agent ended with 7"


def test_commands_reach_a_run_that_its_sidecar_owns(tmp_path: Path) -> None:
    env = environ(COATCHECK_HEARTBEAT_S="0.2", COATCHECK_LEASE_S="2")
    store = ("--store", (tmp_path / "d/store").as_uri())
    with started(run_args(tmp_path, steps=1000, pause_s=0.05), env) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "step 3\n":
            assert process.poll() is None
        ran = coatcheck("signal", "r1", "hello", "--value", "[1]", "--timeout", "10", *store)
        assert ran.stdout == "r1: done; it is owned\n", ran.stderr
        refused = coatcheck("retry", "r1", "--timeout", "10", *store)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "is owned, not held" in refused.stderr
        (line,) = json.loads(coatcheck("runs", "--json", *store).stdout)
        assert line["summary"]["status"] == "owned"
        ran = coatcheck("cancel", "r1", "--why", "typo", "--timeout", "10", *store)
        assert ran.stdout == "r1: done; it is cancelled\n", ran.stderr
        process.communicate(timeout=WAIT_S)
        assert process.returncode not in {0, None}
    summary = line_of(tmp_path)
    assert summary["status"] == "cancelled"
    assert str(summary["reason"]).endswith("typo")


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    with started(run_args(tmp_path, steps=2, pause_s=60), environ()) as process:
        assert process.stderr is not None
        while process.stderr.readline() != "opened\n":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        began_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT_S)
        assert time.monotonic() - began_s < 8


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    ran = coatcheck("run", "--data", str(tmp_path), "--", "no-such-agent", "--flag")
    assert ran.returncode == 127
    assert "no-such-agent" in ran.stderr


def test_a_mistake_in_the_settings_of_run(tmp_path: Path) -> None:
    env = environ(COATCHECK_LEASE_S="x")
    ran = coatcheck("run", "--data", str(tmp_path), "--", sys.executable, "-V", env=env)
    assert ran.returncode == 64
    assert "COATCHECK_LEASE_S" in ran.stderr
