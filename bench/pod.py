"""A sidecar as a real process, with a folder of its own; and what /proc says of it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from coatcheck.wire import FrameReader, encode_message
from tests.servers import free_ports

READY_S: Final = 20.0
POLL_S: Final = 0.001
COMPILE_ALWAYS: Final = "PYTHONDONTWRITEBYTECODE"
HELLO: Final = {"protocol": [1, 1], "client": "bench", "incarnation": bytes(16)}


class Pod:
    """A folder with journal, store and socket, and the sidecar in it."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.socket = folder / "agent.sock"
        self.data = folder / "data"
        self.store = folder / "store"
        (self._admin_port,) = free_ports(1)
        # An installed sidecar has its bytecode: a start that compiles would measure something else.
        self._env = {
            **{key: value for key, value in os.environ.items() if key != COMPILE_ALWAYS},
            "COATCHECK_STORE": self.store.as_uri(),
            "COATCHECK_DATA": str(self.data),
            "COATCHECK_SOCKET": str(self.socket),
            "COATCHECK_LISTEN": "127.0.0.1:0",
            "COATCHECK_ADMIN_LISTEN": f"127.0.0.1:{self._admin_port}",
            "COATCHECK_LOG_LEVEL": "warning",
            **env,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start the sidecar; the seconds until its socket answers a greeting."""
        self.socket.unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            began = time.perf_counter()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "coatcheck", "sidecar"],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        while not self._answers():
            if self.process.poll() is not None or time.perf_counter() - began > READY_S:
                raise RuntimeError(f"no sidecar: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(POLL_S)
        return time.perf_counter() - began

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(READY_S)
            try:
                client.connect(str(self.socket))
                client.sendall(b"".join(encode_message("hello", 1, HELLO)))
                return bool(FrameReader().feed(client.recv(65_536)))
            except OSError:
                return False

    def until_ready(self) -> None:
        """Wait for the rest of it: metrics and HTTP come after its first answer to an agent."""
        until_s = time.perf_counter() + READY_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._admin_port), READY_S).close()
            except OSError:
                if time.perf_counter() > until_s:
                    raise
                time.sleep(POLL_S)
            else:
                return

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self._admin_port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal the sidecar and wait until it is gone."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)
            self.process = None

    def cpu_s(self) -> float:
        """CPU time of all threads, to the nanosecond where the kernel tells."""
        total_ns = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total_ns += int((task / "schedstat").read_text().split()[0])
        return total_ns / 1e9

    def memory_bytes(self, name: str) -> int:
        """A line of /proc/<pid>/status, such as `VmRSS`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split(f"{name}:")[1].split()[0]) * 1024

    def metric(self, name: str) -> float:
        """One figure of the sidecar's own; 0 if it has not been counted yet."""
        url = f"{self.admin}/metrics"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=READY_S) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} "))


@contextlib.contextmanager
def pod(env: Mapping[str, str] | None = None, *, is_started: bool = True) -> Iterator[Pod]:
    """A pod with a running sidecar; the SDK of this process finds its socket."""
    with tempfile.TemporaryDirectory(prefix="coatcheck-bench-", ignore_cleanup_errors=True) as name:
        made = Pod(Path(name), env or {})
        os.environ["COATCHECK_SOCKET"] = str(made.socket)
        try:
            if is_started:
                made.start()
                made.until_ready()
            yield made
        finally:
            made.end()
