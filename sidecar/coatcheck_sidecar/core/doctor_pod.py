"""A pod template as the doctor sees it: its sidecar, its agents, what they were told. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from coatcheck_sidecar.core.inject_choice import (
    CONFIG_PATH,
    RUN_VOLUME,
    SIDECAR,
    SOCKET,
    Finding,
    Refused,
    Severity,
)
from coatcheck_sidecar.core.inject_pod import MESH_PROXIES, Pod, agents_of

PREFIX: Final = "COATCHECK_"
Container = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """A pod with a sidecar in it."""

    pod: Pod
    sidecar: Container
    agents: tuple[Container, ...]
    is_init: bool
    """The sidecar is among the init containers."""

    def told(self, name: str, default: str = "") -> str | None:
        """A setting of the sidecar, `default` if nothing sets it; `None` if that can't be known."""
        env = variables(self.sidecar)
        if PREFIX + name in env:
            return env[PREFIX + name]
        return None if self._has_more else default

    @property
    def _has_more(self) -> bool:
        """Settings from flags, a ConfigMap, a Secret or a file, which no template shows."""
        mounts = self.sidecar.get("volumeMounts") or []
        has_file = any(_is_below(CONFIG_PATH, str(mount.get("mountPath"))) for mount in mounts)
        has_flags = any(str(word).startswith("--") for word in words_of(self.sidecar))
        return bool(self.sidecar.get("envFrom")) or has_file or has_flags

    def number(self, name: str, default: float) -> float | None:
        """A setting that is a number; `None` if it can't be known, or is none."""
        told = self.told(name, str(default))
        try:
            return None if told is None else float(told)
        except ValueError:
            return None

    def lies(self, container: Container, path: str) -> tuple[Mapping[str, Any], str] | None:
        """The volume that a path lies in, and where in it; `None`: in the container itself."""
        mounts = [
            (str(mount.get("mountPath")).rstrip("/") or "/", mount)
            for mount in container.get("volumeMounts") or []
        ]
        over = [(at, mount) for at, mount in mounts if _is_below(path, at)]
        if not over:
            return None
        at, mount = max(over, key=lambda one: len(one[0]))
        volumes = {one.get("name"): one for one in self.pod.spec.get("volumes") or []}
        volume = volumes.get(mount.get("name"), {"name": mount.get("name")})
        below = f"{mount.get('subPath') or ''}/{path[len(at.rstrip('/')) :]}"
        return volume, "/".join(part for part in below.split("/") if part)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def variables(container: Container) -> dict[str, str | None]:
    """A container's environment as far as it is written; `None`: it comes from elsewhere."""
    return {
        str(one.get("name")): None if "valueFrom" in one else str(one.get("value") or "")
        for one in container.get("env") or []
    }


def words_of(container: Container) -> list[str]:
    """What it runs, as far as it is written."""
    return [str(w) for w in [*(container.get("command") or []), *(container.get("args") or [])]]


def is_sidecar(container: Container) -> bool:
    """By its name, or since it is told a store."""
    return container.get("name") == SIDECAR or (
        "sidecar" in words_of(container) and f"{PREFIX}STORE" in variables(container)
    )


def subject_of(pod: Pod) -> Subject | None:
    """The sidecar with its agents; `None` if there is no sidecar."""
    found = [(one, True) for one in pod.inits if is_sidecar(one)]
    found += [(one, False) for one in pod.containers if is_sidecar(one)]
    if not found:
        return None
    sidecar, is_init = found[0]
    others = [one for one in pod.containers if one is not sidecar]
    return Subject(pod, sidecar, _agents(pod, others), is_init)


def _agents(pod: Pod, others: list[dict[str, Any]]) -> tuple[Container, ...]:
    """Who uses the socket; where nobody seems to, whoever may be meant to."""
    users = [one for one in others if _uses_socket(one)]
    if users:
        return tuple(users)
    try:
        return tuple(others[place] for place in agents_of(replace(pod, containers=others), ()))
    except Refused:
        return tuple(one for one in others if one["name"] not in MESH_PROXIES)


def _uses_socket(container: Container) -> bool:
    mounts = container.get("volumeMounts") or []
    return f"{PREFIX}SOCKET" in variables(container) or any(
        mount.get("name") == RUN_VOLUME or _is_below(SOCKET, str(mount.get("mountPath")))
        for mount in mounts
        if str(mount.get("mountPath")).rstrip("/")
    )


def error(code: str, *, what: str, why: str, mend: str) -> Finding:
    """It will not work so."""
    return Finding(severity=Severity.ERROR, code=code, what=what, why=why, mend=mend)


def warning(code: str, *, what: str, why: str, mend: str) -> Finding:
    """Something is lost by it."""
    return Finding(severity=Severity.WARNING, code=code, what=what, why=why, mend=mend)


def info(code: str, *, what: str, why: str, mend: str = "") -> Finding:
    """Good to know."""
    return Finding(severity=Severity.INFO, code=code, what=what, why=why, mend=mend)
