"""A sidecar in front of MCP servers, and agents that are killed there."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import coatcheck
from coatcheck import Run
from examples.demo.processes import LOOPBACK, Child, free_ports, python
from examples.demo.scenario import wait_for_http

LONG_S: Final = 40.0
"""For one life of an agent on a machine that is busy with other tests."""


class McpPod:
    """One sidecar, and who speaks to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listen, self._admin, self.server_port = free_ports(3)
        self.socket = folder / "agent.sock"
        self.children: list[Child] = []
        self.sidecar: Child | None = None

    async def start(self, tools: Mapping[str, Mapping[str, Any]]) -> None:
        """A sidecar with these tools."""
        named = {name: {**said, "private": True} for name, said in tools.items()}
        (self.folder / "config.yaml").write_text(json.dumps({"tools": named}))  # JSON is YAML
        await self.start_sidecar()

    async def start_sidecar(self) -> None:
        env = {
            "COATCHECK_CONFIG": str(self.folder / "config.yaml"),
            "COATCHECK_DATA": str(self.folder / "data"),
            "COATCHECK_SOCKET": str(self.socket),
            "COATCHECK_STORE": (self.folder / "store").as_uri(),
            "COATCHECK_LISTEN": f"{LOOPBACK}:{self.listen}",
            "COATCHECK_ADMIN_LISTEN": f"{LOOPBACK}:{self._admin}",
            "COATCHECK_PAUSE_MAX_S": "0.1",
        }
        self.sidecar = self.child(python("coatcheck", "sidecar"), name="sidecar", env=env)
        await wait_for_http(f"http://{LOOPBACK}:{self._admin}/readyz")

    def child(self, argv: list[str], *, name: str, env: Mapping[str, str] | None = None) -> Child:
        made = Child(argv, env=env or {}, log=self.folder / f"{name}.log")
        self.children.append(made)
        return made

    def agent(self, how: str, *invoices: str, life: int) -> Child:
        """One life of the agent."""
        argv = python("tests.e2e.mcp_agent", how, *invoices)
        env = {"COATCHECK_SOCKET": str(self.socket)}
        return self.child(argv, name=f"agent-{life}", env=env)

    @asynccontextmanager
    async def run_with(self, tools: Mapping[str, Mapping[str, Any]]) -> AsyncIterator[Run]:
        """A run that is open in this process."""
        os.environ["COATCHECK_SOCKET"] = str(self.socket)
        try:
            await self.start(tools)
            async with coatcheck.open_run("suite", schema=1) as run:
                yield run
        finally:
            del os.environ["COATCHECK_SOCKET"]
            self.close()

    def close(self) -> None:
        for child in reversed(self.children):
            child.kill()


def results_of(agent: Child) -> list[dict[str, Any]]:
    """What the agent printed."""
    lines = agent.last_words(100_000).splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"tool"')]


async def until(agent: Child, count: int) -> list[dict[str, Any]]:
    """Its results, once there are so many."""
    async with asyncio.timeout(LONG_S):
        while len(found := results_of(agent)) < count:
            assert agent.is_alive, agent.last_words(3_000)
            await asyncio.sleep(0.02)  # a file has no event to wait for
    return found


async def done(agent: Child) -> list[dict[str, Any]]:
    """Its results, once it has ended well."""
    status = await asyncio.to_thread(agent.wait, LONG_S)
    assert status == 0, agent.last_words(3_000)
    return results_of(agent)
