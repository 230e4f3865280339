"""What whoever injects decides, and what he is told. Pure values."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SIDECAR: Final = "coatcheck"
"""The container's name, and its port's."""
RUN_VOLUME: Final = "coatcheck-run"
DATA_VOLUME: Final = "coatcheck-data"
CONFIG_VOLUME: Final = "coatcheck-config"
RUN_PATH: Final = "/run/coatcheck"
DATA_PATH: Final = "/var/lib/coatcheck"
CONFIG_PATH: Final = "/etc/coatcheck"
SOCKET: Final = f"{RUN_PATH}/agent.sock"
ADMIN_PORT: Final = 7071
LOOPBACK_PORT: Final = 7070
USER_ID: Final = 65532
"""User and group of the sidecar; its group may use the socket."""
ANNOTATION: Final = "coatcheck.dev/inject"
"""`"true"` asks the webhook; `"false"` keeps everybody out."""
INJECTED: Final = "coatcheck.dev/injected"
"""The release that injected, and what it takes to undo that."""
CONTAINERS: Final = "coatcheck.dev/containers"
"""The agents' containers by name, with commas, where nobody says it otherwise."""
GRACE_S: Final = 30
"""terminationGracePeriodSeconds of a pod that doesn't say: the API server's default."""
IMAGE: Final = "coatcheck/coatcheck"
"""Where the image is, unless told otherwise; its tag is the release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How to inject."""

    store: str
    """URL of the store."""
    image: str
    version: str
    """Of the release that injects, for the annotation."""
    containers: tuple[str, ...] = ()
    """The agents', by name. None: by annotation, or the only one that can be meant."""
    grace_s: int | None = None
    """The pod's terminationGracePeriodSeconds from now on; `None`: as it is."""
    mode: str = "enforce"
    hook_token: str = ""
    """What the hooks say and the sidecar demands; none if empty."""
    is_plain: bool = False
    """As a second container, for clusters before 1.29, instead of a native sidecar."""
    config_map: str = ""
    """ConfigMap with `config.yaml`: tools, prices."""
    secret: str = ""
    """Secret whose entries become the sidecar's environment: the store's credentials, say."""


class Severity(StrEnum):
    """How much a finding matters."""

    INFO = "info"
    """Good to know."""
    WARNING = "warning"
    """Something is lost by it."""
    ERROR = "error"
    """It will not work so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about a pod that its owner should know."""

    severity: Severity
    code: str
    """Stable, for machines: `hook-kept`."""
    what: str
    """What is so, with names and figures."""
    why: str
    """Why it matters."""
    mend: str
    """What to do; empty if there is nothing to do."""


class Refused(Exception):  # noqa: N818 - what became of it, as the other endings are called
    """It can't be injected, or not safely. The message says what, why, and the mend."""

    def __init__(self, code: str, reason: str) -> None:
        """`code` is stable, as that of a finding."""
        super().__init__(reason)
        self.code = code
        self.reason = reason
