"""How places with one container stop it: by which signal, and how long before SIGKILL.

Where each figure is from:

- AgentCore: SIGTERM, 15 s before the session's microVM goes (Amazon Bedrock AgentCore, Runtime).
- Cloud Run: SIGTERM, 10 s, services and jobs alike (Container runtime contract).
- Fly.io: SIGINT, 5 s; `kill_signal` and `kill_timeout` in fly.toml, at most 300 s on shared CPUs
  (App configuration).
- ECS: SIGTERM, 30 s; `stopTimeout` of the container, on Fargate at most 120 s (Task definition
  parameters).
- systemd: SIGTERM, 90 s, which is DefaultTimeoutStopSec; `TimeoutStopSec` (systemd.service(5)).
- A laptop: nobody sends SIGKILL. 30 s is Kubernetes' own default.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from signal import SIGINT, SIGTERM, Signals
from typing import Final


@dataclass(frozen=True, slots=True)
class Platform:
    """One place, as it documents itself."""

    stop: Signals
    """What it sends first. SIGTERM and SIGINT begin a drain anywhere."""
    grace_s: float
    """From that signal to SIGKILL, unless it is told otherwise."""
    grace_s_max: float
    """The longest that it can be told."""
    variables: tuple[str, ...] = ()
    """It sets one of these, and nobody else does."""


LAPTOP: Final = "laptop"
SYSTEMD: Final = "systemd"
MAIN_PID: Final = "SYSTEMD_EXEC_PID"
"""Which process the manager started; systemd 248 and later."""
PLATFORMS: Final[Mapping[str, Platform]] = {
    "agentcore": Platform(SIGTERM, 15, 15),
    "cloud-run": Platform(SIGTERM, 10, 10, ("K_SERVICE", "CLOUD_RUN_JOB", "CLOUD_RUN_WORKER_POOL")),
    "fly": Platform(SIGINT, 5, 300, ("FLY_MACHINE_ID", "FLY_APP_NAME")),
    "ecs": Platform(
        SIGTERM, 30, 120, ("ECS_CONTAINER_METADATA_URI_V4", "ECS_CONTAINER_METADATA_URI")
    ),
    SYSTEMD: Platform(SIGTERM, 90, math.inf, ("INVOCATION_ID",)),
    LAPTOP: Platform(SIGINT, 30, math.inf),
}
"""By name. AgentCore documents no variable of its own: it must be named."""


def detect(environ: Mapping[str, str], *, pid: int) -> str:
    """The name of the place where process `pid` has this environment."""
    for name, platform in PLATFORMS.items():
        if any(environ.get(variable) for variable in platform.variables):
            return LAPTOP if name == SYSTEMD and not _is_service(environ, pid) else name
    return LAPTOP


def _is_service(environ: Mapping[str, str], pid: int) -> bool:
    """The manager started this very process: a desktop's terminal has an INVOCATION_ID as well."""
    return environ.get(MAIN_PID, str(pid)) == str(pid)
