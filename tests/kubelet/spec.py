"""What a pod is made of, as far as its end goes; and what was seen of it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

BACKOFF_S: Final = (10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""The kubelet's crash back-off, from the second restart on."""
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ExecHook:
    """A command in the container. Not killed when the grace is over, only with its container."""

    argv: Sequence[str]


@dataclass(frozen=True, slots=True)
class HttpGet:
    """A GET to the pod's IP. The kubelet sets no time-out and ignores the status."""

    port: int
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sleep:
    """The kubelet waits, and nothing runs."""

    seconds: int


Hook = ExecHook | HttpGet | Sleep


class Mesh(StrEnum):
    """What lies between the kubelet and a container's httpGet hook."""

    OPEN = "open"
    REFUSES = "refuses"
    """The hook fails at once: an event that nobody sees, and on to SIGTERM."""
    DROPS = "drops"
    """The hook hangs until the grace is over."""


class Restart(StrEnum):
    """The pod's `restartPolicy`; native sidecars are always restarted."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """One container: `is_sidecar` means a native one."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    pre_stop: Hook | None = None
    mesh: Mesh = Mesh.OPEN
    is_sidecar: bool = False
    is_pid_1: bool = True
    """The kernel keeps SIGTERM from a PID 1 without a handler; False: an image with an init."""
    startup_url: str | None = None
    """What follows a native sidecar is started once this answers 200."""


@dataclass(frozen=True, kw_only=True)
class PodSpec:
    """Containers as declared: the order of native sidecars is that of their start."""

    containers: tuple[ContainerSpec, ...]
    grace_s: int = 30
    """`terminationGracePeriodSeconds`, TGPS."""
    restart: Restart = Restart.ALWAYS
    backoff_s: tuple[float, ...] = BACKOFF_S


class What(StrEnum):
    """What can be seen of a pod; the last four have no container."""

    START = "start"
    PRE_STOP = "pre_stop"
    PRE_STOP_OVER = "pre_stop_over"
    TERM = "term"
    KILL = "kill"
    EXIT = "exit"
    KUBELET_DOWN = "kubelet_down"
    KUBELET_UP = "kubelet_up"
    OBJECT_GONE = "object_gone"
    """The API forgets the pod, which may still run: a second one may be started."""
    POD_GONE = "pod_gone"


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that was seen; `note` is an exit status, or how a hook ended."""

    at_s: float
    what: What
    name: str
    note: str = ""


class PodLog:
    """All that was seen, in order, in seconds since the last trigger."""

    def __init__(self) -> None:
        self._seen: list[Seen] = []
        self._origin_s = time.monotonic()

    def trigger(self) -> None:
        """Now is 0."""
        self._origin_s = time.monotonic()

    def say(self, what: What, name: str = "", *, note: str = "") -> None:
        self._seen.append(Seen(time.monotonic(), what, name, note))

    def since(self, moment_s: float) -> float:
        """A moment of the monotonic clock, in seconds since the trigger."""
        return moment_s - self._origin_s

    @property
    def seen(self) -> list[Seen]:
        """What was seen since the trigger."""
        return [
            Seen(self.since(each.at_s), each.what, each.name, each.note)
            for each in self._seen
            if each.at_s >= self._origin_s
        ]

    def all(self, what: What, name: str = "") -> list[float]:
        """When it was seen since the trigger."""
        return [each.at_s for each in self.seen if (each.what, each.name) == (what, name)]

    def at(self, what: What, name: str = "") -> float:
        """When it was first seen. Raises `LookupError` with all that was."""
        found = self.all(what, name)
        if not found:
            raise LookupError(f"no {what} of {name or 'the pod'} in:\n{self}")
        return found[0]

    def __str__(self) -> str:
        return "\n".join(
            f"{each.at_s:7.3f} {each.name:8} {each.what} {each.note}".rstrip() for each in self.seen
        )
