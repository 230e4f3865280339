"""`coatcheck run`: signals passed on, restarts, orphans, the terminal, the places it may be in."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coatcheck_sidecar.cli.run import command, settings
from coatcheck_sidecar.core.platforms import PLATFORMS

from .running import (
    PLAIN,
    WAIT_S,
    environ,
    goes,
    is_alive,
    ledger,
    running,
    script,
    sdk,
    summary,
)

# Signals


def test_what_is_not_for_the_supervisor_is_for_the_agent(tmp_path: Path) -> None:
    names = ("SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH")
    with running(tmp_path, ("--grace-s", "2"), script(tmp_path, PLAIN, *names)) as run:
        run.told("agent")
        for name in names:
            run.process.send_signal(signal.Signals[name])
            assert run.told("heard") == name
        assert run.stop() == 0


def test_an_agent_that_dies_of_such_a_signal_gives_that_status(tmp_path: Path) -> None:
    with running(tmp_path, (), script(tmp_path, PLAIN)) as run:
        run.told("agent")
        assert run.stop(signal.SIGUSR1) == 128 + signal.SIGUSR1


def test_nohup_is_respected(tmp_path: Path) -> None:
    agent = script(tmp_path, PLAIN)
    shell = ["sh", "-c", 'trap "" HUP; exec "$0" "$@"', sys.executable, "-m", "coatcheck", "run"]
    with subprocess.Popen(
        [*shell, "--data", str(tmp_path / "d"), "--", *agent], env=environ(), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        pid = int(process.stdout.readline().split()[1])
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert is_alive(pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0


def test_what_an_agent_leaves_behind_goes_with_it(tmp_path: Path) -> None:
    source = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('child', child.pid, flush=True)\n"
        "sys.exit(3)\n"
    )
    with running(tmp_path, (), script(tmp_path, source)) as run:
        child = int(run.told("child"))
        assert run.ends() == 3
        assert goes(child, within_s=0.5)


# Restarts


def test_a_crashed_agent_comes_back_under_the_same_sidecar(tmp_path: Path) -> None:
    agent = sdk(tmp_path, "4", "0.05", "die=2")
    with running(tmp_path, ("--restart", "on-failure"), agent) as run:
        first = run.told("agent")
        run.told("in step 2")
        assert run.told("agent") != first
        assert run.told("in step") == "2"
        assert run.ends() == 0
        assert "agent_restarts" in run.error()
    assert ledger(tmp_path) == [1, 2, 3, 4]
    assert summary(tmp_path)["epoch"] == 2  # a new life of the agent is a new ownership


def test_restarts_end_at_their_limit_with_the_last_status(tmp_path: Path) -> None:
    agent = script(tmp_path, "import sys\nprint('agent', flush=True)\nsys.exit(5)\n")
    with running(tmp_path, ("--restart", "always", "--restart-max", "1"), agent) as run:
        run.told("agent")
        began_s = time.monotonic()
        run.told("agent")
        assert 0.9 < time.monotonic() - began_s < 2.5
        assert run.ends() == 5


def test_an_agent_that_ends_well_is_not_restarted_on_failure(tmp_path: Path) -> None:
    with running(tmp_path, ("--restart", "on-failure"), sdk(tmp_path, "1", "0")) as run:
        assert run.ends() == 0
    assert summary(tmp_path)["status"] == "finished"


def test_nothing_is_restarted_while_it_drains(tmp_path: Path) -> None:
    agent = sdk(tmp_path, "9", "1", "die=1")
    with running(tmp_path, ("--restart", "always"), agent) as run:
        run.told("in step 1")
        assert run.stop() == 128 + signal.SIGKILL
        assert "agent_restarts" not in run.error()
    assert summary(tmp_path)["status"] == "ready"


def test_told_between_two_lives_it_goes_at_once(tmp_path: Path) -> None:
    agent = sdk(tmp_path, "9", "0", "die=1")
    with running(tmp_path, ("--restart", "always"), agent) as run:
        pid = int(run.told("agent"))
        run.told("in step 1")
        assert goes(pid)
        time.sleep(0.2)
        assert run.stop() == 128 + signal.SIGKILL
        assert run.process.stdout is not None
        assert run.process.stdout.read() == ""
    assert summary(tmp_path)["status"] == "ready"


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    path = tmp_path / "agent"
    path.write_bytes(b"\x00\x01 nothing that runs")
    path.chmod(0o755)
    with running(tmp_path, ("--restart", "always"), [str(path)]) as run:
        assert run.ends() == 126
        assert "start_failed" in run.error()


# Places


@pytest.mark.parametrize(
    ("flags", "environ", "grace_s"),
    [
        ({}, {}, 5),
        ({}, {"COATCHECK_GRACE_S": "7"}, 7),
        ({"grace_s": "8"}, {"COATCHECK_GRACE_S": "7"}, 8),
        ({}, {"COATCHECK_CONFIG": "grace.yaml"}, 9),
        ({}, {"COATCHECK_CONFIG": "grace.yaml", "COATCHECK_GRACE_S": "7"}, 7),
    ],
)
def test_the_grace_is_the_places_own_unless_somebody_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: dict[str, str],
    environ: dict[str, str],
    grace_s: float,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grace.yaml").write_text("grace_s: 9\n")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    found = settings(tmp_path, flags, config_file=None, place=PLATFORMS["fly"])
    assert (found.grace_s, found.listen.port, found.log_level) == (grace_s, 0, "warning")


def test_a_drain_goes_by_the_place_and_a_grace_beyond_it_is_told(tmp_path: Path) -> None:
    agent = sdk(tmp_path, "2", "0.4")
    env = {"FLY_MACHINE_ID": "3d8d", "COATCHECK_LOG_LEVEL": "info", "COATCHECK_GRACE_S": "301"}
    with running(tmp_path, (), agent, **env) as run:
        run.told("in step 1")
        assert run.stop(signal.SIGINT) == 0
        lines = {line["event"]: line for line in map(json.loads, run.error().splitlines())}
    assert lines["drain"]["deadline_s"] == pytest.approx(300, abs=0.1)  # less the margin
    assert lines["grace_beyond_platform"]["grace_s_max"] == 300


@pytest.mark.parametrize("options", [("--ping", "nowhere"), ("--restart", "perhaps"),
                                     ("--platform", "mainframe")])  # fmt: skip
def test_what_it_does_not_know_is_said(options: tuple[str, ...]) -> None:
    ran = CliRunner().invoke(command, [*options, "--", "true"])
    assert ran.exit_code == 2
    assert options[0] in ran.output


# AgentCore


def test_ping_tells_whether_runs_are_in_flight_and_since_when(tmp_path: Path) -> None:
    source = (
        "import asyncio, os, sys, coatcheck\n"
        "async def main():\n"
        "    print('ping', os.environ['COATCHECK_PING_URL'], flush=True)\n"
        "    await asyncio.to_thread(input)\n"
        "    async with coatcheck.open_run('r1', schema=1) as run:\n"
        "        print('opened', flush=True)\n"
        "        await asyncio.to_thread(input)\n"
        "        await run.finish(None)\n"
        "    print('finished', flush=True)\n"
        "    await asyncio.to_thread(input)\n"
        "asyncio.run(main())\n"
    )
    agent = script(tmp_path, source)
    command = [sys.executable, "-m", "coatcheck", "run", "--data", str(tmp_path / "d")]
    with subprocess.Popen(
        [*command, "--ping", "127.0.0.1:0", "--", *agent], env=environ(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        idle = answer(url)
        time.sleep(1.1)
        assert answer(url) == idle
        assert idle["status"] == "Healthy"
        seen = []
        for line in ("opened\n", "finished\n"):
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == line
            time.sleep(0.3)
            first = answer(url)
            time.sleep(1.1)
            assert answer(url) == first
            seen.append(first)
        with pytest.raises(urllib.error.HTTPError):
            answer(url.replace("/ping", "/metrics"))
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(WAIT_S) == 0
    assert [ping["status"] for ping in seen] == ["HealthyBusy", "Healthy"]
    times = [ping["time_of_last_update"] for ping in (idle, *seen)]
    assert times == sorted(times)
    assert len(set(times)) == 3
    assert abs(times[-1] - time.time()) < 5


def answer(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=3) as reply:  # noqa: S310 - loopback
        found: dict[str, Any] = json.loads(reply.read())
    assert set(found) == {"status", "time_of_last_update"}
    return found


# PID 1, and a terminal


def can_unshare() -> bool:
    unshare = shutil.which("unshare")
    return (
        unshare is not None
        and not subprocess.run(
            [unshare, "-r", "-p", "-f", "--mount-proc", "true"], capture_output=True, check=False
        ).returncode
    )


@pytest.mark.skipif(not can_unshare(), reason="no PID namespaces here")
def test_as_pid_1_it_reaps_orphans_and_hears_signals(tmp_path: Path) -> None:
    source = (
        "import os, signal, subprocess, sys, time\n"
        "from pathlib import Path\n"
        "assert os.getppid() == 1\n"
        "subprocess.run(['sh', '-c', 'for i in 1 2 3; do (setsid sleep 0.1 &) ; done'])\n"
        "time.sleep(0.6)\n"
        "states = [p.read_text().rpartition(')')[2].split()[0]\n"
        "          for p in Path('/proc').glob('[0-9]*/stat')]\n"
        "print('zombies', states.count('Z'), 'of', len(states), flush=True)\n"
        "time.sleep(60)\n"
    )
    unshare = ["unshare", "-r", "-p", "-f", "--mount-proc", "--kill-child=SIGKILL"]
    coatcheck = [sys.executable, "-m", "coatcheck", "run", "--data", str(tmp_path / "d")]
    with subprocess.Popen(
        [*unshare, *coatcheck, "--grace-s", "3", "--", *script(tmp_path, source)],
        env=environ(), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "zombies 0 of 2\n"
            (pid,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(pid), signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()


def test_an_agent_may_read_the_terminal(tmp_path: Path) -> None:
    agent = script(tmp_path, "print('hello', input('who? '), flush=True)\n")
    pid, fd = pty.fork()
    if pid == 0:
        args = [sys.executable, "-m", "coatcheck", "run", "--data", str(tmp_path / "d"), "--"]
        os.execve(args[0], [*args, *agent], environ())  # noqa: S606 - by its whole path
    with os.fdopen(fd, "r+b", buffering=0) as terminal:
        said = b""
        while b"who? " not in said:
            said += terminal.read(100)
        terminal.write(b"you\n")
        while b"hello you" not in said:
            said += terminal.read(100)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("options", [(), ("--run", "r1")])
def test_off_leads_agents_straight_to_their_upstreams(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "c.yaml").write_text(
        "tools: {mail: {upstream: 'https://mail.example/v1', env: MAIL_URL}}"
    )
    names = ("COATCHECK_PROXY_URL", "MAIL_URL", "COATCHECK_UPSTREAM_MAIL")
    show = "import os\nfor name in %r: print(name, os.environ.get(name, 'unset'))\n"
    agent = script(tmp_path, show % (names,))
    env = {"COATCHECK_MODE": "off", "COATCHECK_CONFIG": str(tmp_path / "c.yaml")}
    with running(tmp_path, options, agent, **env) as run:
        assert run.told("COATCHECK_PROXY_URL") == "unset"
        assert run.told("MAIL_URL") == "https://mail.example/v1"
        assert run.told("COATCHECK_UPSTREAM_MAIL") == "https://mail.example/v1"
        assert run.ends() == 0
