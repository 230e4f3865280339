"""podman as tests use it: with a storage of its own, and no network but this machine's."""

import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Final

from deploy.image.requirements import requirements
from examples.demo.processes import ROOT
from tests.deploy.base import write_base

BASE: Final = "localhost/coatcheck-base"
IMAGE: Final = "localhost/coatcheck"
COMMAND_S: Final = 60.0
BUILD_S: Final = 600.0
"""30 s of work; a machine that others use too takes its time."""
FILES_MAX: Final = 20_000
PROCESSES_MAX: Final = 4_096
RUNTIMES: Final = ("crun", "runc")
KEPT: Final = "24h"
"""What a build left behind to be faster the next time."""
LIFE_S_MAX: Final = 600
"""A container that a killed test left behind ends by itself."""
LOCKED_DOWN: Final = (
    "--read-only",
    "--read-only-tmpfs=false",  # the kubelet mounts none either
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
)
QUIETLY: Final = ("--rm", "--no-healthcheck", f"--timeout={LIFE_S_MAX}", "--pull=never")
"""This podman has systemd do its health checks, and there may be none."""


class PodmanError(Exception):
    """A command failed; the message ends with what it said."""


class Podman:
    """One storage, and commands on it."""

    def __init__(self, folder: Path) -> None:
        """`folder` may have images in it from another time."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "containers.conf").write_text(_containers_conf())
        (folder / "storage.conf").write_text(_storage_conf(folder))
        self.env = {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }

    def __call__(self, *args: str, timeout_s: float = COMMAND_S) -> str:
        """What the command printed. Raises `PodmanError`, or `subprocess.TimeoutExpired`."""
        return self._done(args, timeout_s).stdout.strip()

    def said(self, *args: str) -> str:
        """What it printed on standard output and then on standard error. Raises likewise."""
        done = self._done(args, COMMAND_S)
        return done.stdout + done.stderr

    def _done(self, args: Sequence[str], timeout_s: float) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            ["podman", *args],
            env=os.environ | self.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode:
            raise PodmanError(f"podman {' '.join(args)}: {done.returncode}\n{done.stderr[-4000:]}")
        return done

    def remove(self, name: str) -> None:
        """Kill a container, if there is one of this name, and forget it."""
        self("rm", "--force", "--ignore", "--time=0", name)

    def build(self, *args: str) -> None:
        """Build from the source tree, with no network: wheels and base come from here."""
        self(
            "build",
            "--format=docker",  # the other format knows of no health check
            "--network=none",
            "--pull=never",
            f"--build-arg=BASE={BASE}",
            f"--build-context=wheels={wheels(self.folder)}",
            "--build-arg=PIP_NO_INDEX=1",
            *args,
            str(ROOT),
            timeout_s=BUILD_S,
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process at a time builds."""
        with (self.folder / "lock").open("w") as lock:
            flock(lock, LOCK_EX)
            yield


def why_not() -> str:
    """Why containers can't be run here; nothing if they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root: volumes belong to several users"
    if shutil.which("podman") is None:
        return "podman is not installed: .ci/debian installs it where there is apt-get"
    try:
        podman = Podman(home())
        podman("info")
    except (PodmanError, subprocess.TimeoutExpired, OSError) as error:
        return f"podman does not work here: {error}"
    return ""


def home() -> Path:
    """Outside of the source tree, since it holds whole file systems."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "coatcheck-tests"


def build_image(podman: Podman) -> None:
    """The base of this machine's Python, and the image on it."""
    with podman.locked():
        _make_base(podman)
        podman.build("--build-arg=REVISION=0123abc", f"--tag={IMAGE}")
        podman("image", "prune", "--force", f"--filter=until={KEPT}")


def _make_base(podman: Podman) -> None:
    """Again only for another Python, or another recipe: on the same base a build is faster."""
    recipe = Path(write_base.__code__.co_filename).read_bytes()
    digest = hashlib.sha256(recipe + sys.version.encode() + sys.base_prefix.encode()).hexdigest()
    tag = f"{BASE}:{digest[:16]}"
    try:
        podman("image", "inspect", tag)
    except PodmanError:
        archive = podman.folder / "base.tar"
        write_base(archive)
        path = "--change=ENV PATH=/usr/local/bin:/usr/bin:/bin"
        podman("import", path, '--change=CMD ["python3"]', str(archive), tag)
        archive.unlink()
    podman("tag", tag, BASE)


def wheels(folder: Path) -> Path:
    """All that a build asks an index for, in the versions of `constraints.txt`."""
    constraints = ROOT / "constraints.txt"
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    system: list[str] = pyproject["build-system"]["requires"]
    wanted = [*requirements(ROOT / "pyproject.toml"), *system, "cyclonedx-bom"]
    words = "\n".join([*wanted, sys.version, constraints.read_text()])
    made = folder / f"wheels-{hashlib.sha256(words.encode()).hexdigest()[:16]}"
    if not made.exists():
        draft = made.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
             "--only-binary=:all:", f"--constraint={constraints}", f"--dest={draft}", *wanted],
            timeout=BUILD_S,
            check=True,
        )  # fmt: skip
        for old in folder.glob("wheels-*"):
            if old != draft:
                shutil.rmtree(old)
        draft.rename(made)
    return made


def _containers_conf() -> str:
    files = min(FILES_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    runtime = next((name for name in RUNTIMES if shutil.which(name)), RUNTIMES[0])
    return f"""\
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={PROCESSES_MAX}:{PROCESSES_MAX}"]
[engine]
runtime = "{runtime}"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def _storage_conf(folder: Path) -> str:
    return f"""\
[storage]
driver = "overlay"
graphroot = "{folder}/images"
runroot = "{folder}/run"
"""
