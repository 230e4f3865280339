"""Azurite, Microsoft's own stand-in for Azure Blob Storage: a real server on loopback."""

import base64
import hmac
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.servers import READY_S, ServerUnavailableError, die_with, free_ports

ACCOUNT: Final = "devstoreaccount1"
KEY: Final = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
"""Both are published by its makers: every Azurite has them."""
VERSION: Final = "2021-12-02"
"""Of the service's interface."""


@dataclass(frozen=True)
class AzureServer:
    """`env` is all that a client needs to find it and be let in."""

    endpoint: str

    @property
    def env(self) -> dict[str, str]:
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": self.endpoint,
        }

    def make_container(self, name: str) -> str:
        """Make a container unless it is there; its store URL."""
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        said = f"x-ms-date:{date}\nx-ms-version:{VERSION}\n/{ACCOUNT}/{ACCOUNT}/{name}"
        text = "PUT" + "\n" * 12 + said + "\nrestype:container"
        mac = hmac.digest(base64.b64decode(KEY), text.encode(), "sha256")
        headers = {
            "x-ms-date": date,
            "x-ms-version": VERSION,
            "Content-Length": "0",
            "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(mac).decode()}",
        }
        url = f"{self.endpoint}/{name}?restype=container"
        request = urllib.request.Request(url, method="PUT", headers=headers)  # noqa: S310 - http
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=READY_S):
                pass
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise
        return f"az://{name}"


@contextmanager
def azurite(command: str, folder: Path) -> Iterator[AzureServer]:
    """`command` is `azurite-blob`. Raises `ServerUnavailableError`."""
    (port,) = free_ports(1)
    log = folder / "azurite.log"
    argv = [command, "--silent", "--inMemoryPersistence", "--blobHost", "127.0.0.1"]
    argv += ["--blobPort", str(port), "--skipApiVersionCheck", "--disableTelemetry"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with(os.getpid()),
        )
    server = AzureServer(f"http://127.0.0.1:{port}/{ACCOUNT}")
    until_s = time.monotonic() + READY_S
    try:
        while True:
            try:
                server.make_container("ready")
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > until_s:
                    words = log.read_text(errors="replace")[-400:]
                    raise ServerUnavailableError(f"Azurite did not start: {words}") from error
                time.sleep(0.05)
        yield server
    finally:
        process.kill()
        process.wait()
