"""Child processes that never outlive the demo, however it ends."""

import atexit
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

LOOPBACK: Final = "127.0.0.1"
ROOT: Final = Path(__file__).parent.parent.parent
PR_SET_PDEATHSIG: Final = 1
EXIT_BY_SIGNAL: Final = 128
"""Added to the signal's number, as shells do."""

_living: set["Child"] = set()


class Child:
    """One process in a session of its own; its output goes to the end of `log`."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                cwd=log.parent,
                env={**environment(), **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for the demo, which then ends it in order
                preexec_fn=_die_with(os.getpid()),
            )
        self.argv, self.log = tuple(argv), log
        _living.add(self)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """None while it lives; negative: ended by that signal."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Signal it and whatever it started."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self._process.wait()
        _living.discard(self)

    def wait(self, timeout_s: float) -> int:
        """Its exit status. Raises `subprocess.TimeoutExpired`."""
        status = self._process.wait(timeout_s)
        _living.discard(self)
        return status

    def last_words(self, count: int = 600) -> str:
        return self.log.read_text(errors="replace")[-count:] if self.log.exists() else ""


def environment() -> dict[str, str]:
    """Ours, without settings of a sidecar, and with the source tree on the path."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("COATCHECK_")}
    trees = [str(ROOT / "client"), str(ROOT / "sidecar"), str(ROOT)]
    path = [*trees, *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def python(*args: str) -> list[str]:
    """The command line of one of our own modules."""
    return [sys.executable, "-m", *args]


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]


def kill_all() -> None:
    """End what is left, by pid."""
    for child in list(_living):
        child.kill()


def end_in_order() -> None:
    """Have an ordinary exit, Ctrl-C, SIGTERM and SIGHUP all end the children too."""
    atexit.register(kill_all)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(EXIT_BY_SIGNAL + number)


def _die_with(parent: int) -> Callable[[], None]:
    """Have the kernel end the child with us, even by SIGKILL (Linux; elsewhere only at exit)."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def ask() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    return ask
