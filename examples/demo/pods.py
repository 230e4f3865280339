"""Pods, as far as a kill is concerned: a sidecar process, an agent process and a data folder."""

import json
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from examples.demo.processes import LOOPBACK, Child, free_ports, python

HEARTBEAT_S: Final = 1.0
LEASE_S: Final = 3.0
"""Short enough to watch; the defaults are 10 and 30."""
PAUSE_MAX_S: Final = 1.0
"""No process here is paused longer; the default is 10."""
CLAIM_POLL_S: Final = 0.5
GRACE_S: Final = 30.0
"""A pod's `terminationGracePeriodSeconds`, as Kubernetes has it by default."""
PRICE: Final = {"input": 0.15, "output": 0.60}
"""Dollars a million tokens, by the list of gpt-4o-mini: what a replay saves with the real one."""


class Blow(StrEnum):
    """What a kill takes; all by SIGKILL."""

    AGENT = "agent"
    SIDECAR = "sidecar"
    POD = "pod"
    """Both processes; the pod starts again on its node, with its data."""
    NODE = "node"
    """Both processes and the data folder; another pod takes its place."""

    @property
    def takes_agent(self) -> bool:
        return self is not Blow.SIDECAR

    @property
    def takes_sidecar(self) -> bool:
        return self is not Blow.AGENT


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """What all pods share."""

    folder: Path
    """Where pods have their folders."""
    store: str
    """The store's URL."""
    payments: str
    model: str
    """An OpenAI base URL."""
    witness: Path
    queue: str
    levels: str = "node"
    """Durability of each agent's commits, in turn, separated by commas."""
    concurrency: int = 2
    env: Mapping[str, str] = field(default_factory=dict)
    """For sidecars: what the store needs."""


class Pod:
    """One place for a pod; what runs there is replaced after each kill."""

    def __init__(self, wiring: Wiring, number: int) -> None:
        """Nothing runs before `start`."""
        self.name = f"pod-{number}"
        self.life = 1
        """Counts nodes: a lost one takes the pod's identity and data with it."""
        self.kills = 0
        self.sidecar: Child | None = None
        self.agent: Child | None = None
        self._wiring = wiring
        self._folder = wiring.folder / self.name
        self.admin_port, self._proxy_port = free_ports(2)

    @property
    def uid(self) -> str:
        """What Kubernetes would give as the pod's UID."""
        return f"{self.name}-{self.life}"

    @property
    def data(self) -> Path:
        return self._folder / f"data-{self.life}"

    @property
    def model(self) -> str:
        return os.environ.get("OPENAI_MODEL", "gpt-4o-mini")

    @property
    def admin_url(self) -> str:
        """What the kubelet asks."""
        return f"http://{LOOPBACK}:{self.admin_port}"

    @property
    def proxy_url(self) -> str:
        """What agents and operators ask."""
        return f"http://{LOOPBACK}:{self._proxy_port}"

    @property
    def socket(self) -> Path:
        return self.data / "agent.sock"

    def start(self) -> None:
        """Start what doesn't run."""
        if self.sidecar is None or not self.sidecar.is_alive:
            self.start_sidecar()
        if self.agent is None or not self.agent.is_alive:
            self.start_agent()

    def start_sidecar(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        argv, log = python("coatcheck", "sidecar"), self._folder / "sidecar.log"
        self.sidecar = Child(argv, env=self.sidecar_env(), log=log)

    def start_agent(self) -> None:
        argv, log = python("examples.demo.agent"), self._folder / "agent.log"
        self.agent = Child(argv, env=self.agent_env(), log=log)

    def sidecar_env(self) -> dict[str, str]:
        own = {
            "COATCHECK_STORE": self._wiring.store,
            "COATCHECK_DATA": str(self.data),
            "COATCHECK_SOCKET": str(self.socket),
            "COATCHECK_ADMIN_LISTEN": f"{LOOPBACK}:{self.admin_port}",
            "COATCHECK_LISTEN": f"{LOOPBACK}:{self._proxy_port}",
            "COATCHECK_POD_UID": self.uid,
            "COATCHECK_HEARTBEAT_S": str(HEARTBEAT_S),
            "COATCHECK_LEASE_S": str(LEASE_S),
            "COATCHECK_PAUSE_MAX_S": str(PAUSE_MAX_S),
            "COATCHECK_CLAIM_POLL_S": str(CLAIM_POLL_S),
            "COATCHECK_GRACE_S": str(GRACE_S),
            "COATCHECK_TOOLS__OPENAI__UPSTREAM": self._wiring.model,
            "COATCHECK_TOOLS__OPENAI__EFFECT": "read",
            "COATCHECK_TOOLS__OPENAI__RECORD": "true",
            "COATCHECK_TOOLS__OPENAI__PRIVATE": "true",
            "COATCHECK_PRICES": json.dumps({self.model: PRICE}),
        }
        return own | dict(self._wiring.env)

    def agent_env(self) -> dict[str, str]:
        return {
            "COATCHECK_SOCKET": str(self.socket),
            "DEMO_PAYMENTS": self._wiring.payments,
            "DEMO_WITNESS": str(self._wiring.witness),
            "DEMO_DISK": self.uid,
            "DEMO_QUEUE": self._wiring.queue,
            "DEMO_LEVELS": self._wiring.levels,
            "DEMO_CONCURRENCY": str(self._wiring.concurrency),
            "OPENAI_MODEL": self.model,
        }

    def kill(self, blow: Blow) -> None:
        """SIGKILL, in no order that anybody could use; then the disk, if the node is lost."""
        struck = [self.sidecar] if blow.takes_sidecar else []
        struck += [self.agent] if blow.takes_agent else []
        for child in filter(None, struck):
            child.send(signal.SIGKILL)
        for child in filter(None, struck):
            child.kill()
        self.kills += 1
        if blow is Blow.NODE:
            self._move()

    def renew(self) -> None:
        """Both processes have ended in good order: another pod comes in this one's place."""
        self._move()
        self.start()

    def _move(self) -> None:
        shutil.rmtree(self.data)
        self.life += 1

    def pause(self) -> None:
        """SIGSTOP: what a frozen virtual machine looks like from inside."""
        for child in filter(None, (self.sidecar, self.agent)):
            child.send(signal.SIGSTOP)

    def resume(self) -> None:
        for child in filter(None, (self.sidecar, self.agent)):
            child.send(signal.SIGCONT)

    def died_by_itself(self) -> list[Child]:
        """Processes that ended though nobody killed them."""
        children = filter(None, (self.sidecar, self.agent))
        return [child for child in children if not child.is_alive]

    def stop(self) -> None:
        """The demo is over."""
        for child in filter(None, (self.agent, self.sidecar)):
            child.kill()
