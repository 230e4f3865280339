"""The sidecar's image: built here, on a base made here, and looked at from outside and inside."""

import json
import re
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from examples.demo.processes import LOOPBACK, ROOT, free_ports
from tests.deploy.boxes import AGENT_UID, GID, PYTHON, beside, sidecar, volumes, wait_for
from tests.deploy.podman import BASE, IMAGE, Podman, PodmanError

pytestmark = pytest.mark.timeout(600)  # whoever comes first has it built

MB = 1_000_000
OUR_LAYERS_BYTES_MAX = 110 * MB
READY_S_MAX = 1.0
STARTS = 5
"""The best of so many is what the image can do; the others are what else the machine did."""
STOPPED_S_MAX = 5.0

ASK = """
import urllib.request
for path in ("livez", "readyz", "startupz", "metrics"):
    print(urllib.request.urlopen(f"http://127.0.0.1:7071/{path}", timeout=5).status)
"""
OPEN = """
import os, coatcheck.sync
with coatcheck.sync.open_run("r1", schema=1) as run:
    run.finish(os.getuid(), state={})
print(coatcheck.sync.result("r1").result)
"""
CONNECT = """
import socket
try:
    socket.socket(socket.AF_UNIX).connect("/run/coatcheck/agent.sock")
except PermissionError:
    print("refused")
"""
WRITE = """
import pathlib
for place in ("/opt/coatcheck/x", "/tmp/x", "/x"):
    try:
        pathlib.Path(place).write_text("x")
    except OSError as error:
        print(error.strerror)
"""
STUCK = """
import sys, time, types
from coatcheck_sidecar.cli.main import main
start = sys.modules["coatcheck_sidecar.cli.start"] = types.ModuleType("start")
start.start = lambda flags: (print("importing"), time.sleep(60))
main(["sidecar"])
"""
NOT_COMPILED = """
import os, sys
from coatcheck_sidecar import __main__, listening, metrics
for module in sys.modules.values():
    cached = getattr(module, "__cached__", None)
    if cached and getattr(module, "__file__", "").endswith(".py") and not os.path.exists(cached):
        print(module.__name__)
"""


def inspect(podman: Podman, image: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(podman("image", "inspect", image))[0]
    return told


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_our_layers_are_small(engine: Podman) -> None:
    base, image = inspect(engine, BASE), inspect(engine, IMAGE)
    lower = base["RootFS"]["Layers"]
    assert image["RootFS"]["Layers"][: len(lower)] == lower
    ours_bytes = image["Size"] - base["Size"]
    print(f"our layers: {ours_bytes / MB:.1f} MB")
    assert 10 * MB < ours_bytes <= OUR_LAYERS_BYTES_MAX


def test_what_it_says_of_itself(engine: Podman) -> None:
    image = inspect(engine, IMAGE)
    config, labels = image["Config"], image["Labels"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert config["User"] == f"{GID}:{GID}"
    assert config["Entrypoint"] == ["/opt/coatcheck/bin/coatcheck"]  # no shell in between
    assert config["Cmd"] == ["sidecar"]
    assert set(config["ExposedPorts"]) == {"7071/tcp"}
    assert image["Healthcheck"]["Test"] == ["CMD", "/opt/coatcheck/bin/coatcheck", "health"]
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]
    assert labels["org.opencontainers.image.revision"] == "0123abc"
    assert labels["org.opencontainers.image.base.name"] == BASE


def test_a_sidecar_without_any_rights_serves_who_is_in_its_group(
    engine: Podman, tmp_path: Path
) -> None:
    lent = volumes(tmp_path)
    with sidecar(engine, lent, "--network=none") as box:
        wait_for(lent.agent_sock)
        status = Path(f"/proc/{box.state['Pid']}/status").read_text()
        fields = dict(re.findall(r"(\w+):\t(.*)", status))
        assert fields["Uid"].split() == [str(GID)] * 4
        assert fields["Gid"].split() == [str(GID)] * 4
        assert int(fields["CapEff"], 16) == 0
        assert fields["NoNewPrivs"] == "1"
        assert fields["NSpid"].split()[-1] == "1"
        assert box.exec(PYTHON, "-c", WRITE).splitlines() == ["Read-only file system"] * 3
        there = lent.agent_sock.stat()
        assert (there.st_gid, there.st_mode & 0o777) == (GID, 0o660)

        as_agent, in_group = f"--user={AGENT_UID}:{AGENT_UID}", f"--group-add={GID}"
        socket = lent.mounts[0]
        assert beside(engine, box, ASK, as_agent) == "200\n200\n200\n200"
        assert beside(engine, box, OPEN, as_agent, in_group, socket) == str(AGENT_UID)
        assert beside(engine, box, CONNECT, as_agent, socket) == "refused"

        assert box.exec("coatcheck", "health") == "ok"
        began_s = time.monotonic()
        assert box.stop() == 0
        assert time.monotonic() - began_s < STOPPED_S_MAX
        assert '"event": "drained"' in box.log
    assert sorted(path.name for path in lent.data.iterdir())  # the journal outlives it


def test_the_health_check_notices_that_nobody_is_there(engine: Podman) -> None:
    command = inspect(engine, IMAGE)["Healthcheck"]["Test"][1:]
    with pytest.raises(PodmanError, match="Connection refused"):
        engine("run", "--rm", "--no-healthcheck", "--network=none",
               f"--entrypoint={command[0]}", IMAGE, *command[1:])  # fmt: skip


def test_a_signal_that_comes_while_it_imports_ends_it(engine: Podman, tmp_path: Path) -> None:
    """The kernel keeps SIGTERM from a PID 1 that has no handler, as it has none by default."""
    script = (f"--entrypoint={PYTHON}", "--network=none")
    with sidecar(engine, volumes(tmp_path), *script, argv=("-c", STUCK)) as box:
        box.wait_for("importing")
        began_s = time.monotonic()
        assert box.stop() == 128 + signal.SIGTERM
        assert time.monotonic() - began_s < STOPPED_S_MAX


def test_all_that_a_start_imports_is_compiled(engine: Podman) -> None:
    told = engine("run", "--rm", "--no-healthcheck", "--network=none",
                  f"--entrypoint={PYTHON}", IMAGE, "-c", NOT_COMPILED)  # fmt: skip
    assert told == ""


@pytest.mark.alone
def test_ready_within_a_second(engine: Podman, tmp_path: Path) -> None:
    """From the start of its process to a green probe; agents get in a little earlier.

    What other processes made it wait for a core is not the image's.
    """
    ready = []
    for number in range(STARTS):
        lent = volumes(tmp_path / str(number))
        (port,) = free_ports(1)
        listen = (f"--env=COATCHECK_ADMIN_LISTEN={LOOPBACK}:{port}",
                  f"--env=COATCHECK_LISTEN={LOOPBACK}:0")  # fmt: skip
        with sidecar(engine, lent, "--network=host", *listen) as box:
            green_s = _green(f"http://{LOOPBACK}:{port}/startupz") - box.started_s
            ready.append((green_s - box.starved_s, green_s))
    print("green after", [f"{own_s:.2f} s (by the clock {at_s:.2f} s)" for own_s, at_s in ready])
    assert min(ready)[0] <= READY_S_MAX


def _green(url: str) -> float:
    while True:
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310 - http, to loopback
                return time.time()
        except (urllib.error.URLError, OSError):
            time.sleep(0.01)


@pytest.mark.slow
def test_the_bill_of_materials_names_what_is_in_it(engine: Podman, tmp_path: Path) -> None:
    with engine.locked():
        engine.build("--target=sbom", f"--output={tmp_path}")
    bill = json.loads((tmp_path / "coatcheck.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "coatcheck"
    named = {each["name"].lower(): each["version"] for each in bill["components"]}
    assert named["aiohttp"] == version("aiohttp")
    assert named["obstore"] == version("obstore")
    assert not {"pip", "pytest", "hatchling"} & set(named)
