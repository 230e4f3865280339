"""One sidecar as a real process, with a test's own upstream behind it."""

import json
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.demo.processes import LOOPBACK, Child, free_ports, python
from examples.demo.scenario import wait_for_http
from tests.engine.harness import Wire


@dataclass
class Real:
    """`folder` has its data, its store, and what it said."""

    folder: Path
    port: int
    admin_port: int
    child: Child

    async def agent(self, run: str = "r1") -> tuple[Wire, str]:
        """An agent with an open run, and the URL of its tools."""
        wire = await Wire.connect(self.folder / "agent.sock")
        await wire.hello()
        reply = await wire.open(run)
        return wire, str(reply.body["proxy"])

    @property
    def said(self) -> str:
        return self.child.last_words(10_000_000)

    def metrics(self) -> bytes:
        url = f"http://{LOOPBACK}:{self.admin_port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bytes(answer.read())

    def resident_bytes(self) -> int:
        """VmRSS."""
        lines = Path(f"/proc/{self.child.pid}/status").read_text().splitlines()
        (found,) = (line for line in lines if line.startswith("VmRSS:"))
        return int(found.split()[1]) * 1024


@asynccontextmanager
async def real_sidecar(
    folder: Path, tools: Mapping[str, Mapping[str, Any]], **environ: str
) -> AsyncIterator[Real]:
    """Runs until the block is over; all it writes lies in `folder`."""
    port, admin_port = free_ports(2)
    for name in ("store", "data"):
        (folder / name).mkdir(parents=True)
    # JSON is YAML.
    (folder / "config.yaml").write_text(json.dumps({"tools": tools}))
    env = {
        "COATCHECK_CONFIG": str(folder / "config.yaml"),
        "COATCHECK_DATA": str(folder / "data"),
        "COATCHECK_SOCKET": str(folder / "agent.sock"),
        "COATCHECK_STORE": (folder / "store").as_uri(),
        "COATCHECK_LISTEN": f"{LOOPBACK}:{port}",
        "COATCHECK_ADMIN_LISTEN": f"{LOOPBACK}:{admin_port}",
        "COATCHECK_LOG_LEVEL": "debug",
        **environ,
    }
    child = Child(python("coatcheck", "sidecar"), env=env, log=folder / "sidecar.log")
    try:
        await wait_for_http(f"http://{env['COATCHECK_ADMIN_LISTEN']}/readyz")
        yield Real(folder, port, admin_port, child)
    finally:
        child.kill()
