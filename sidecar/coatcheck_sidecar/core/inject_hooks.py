"""An agent's preStop hook: what it was, and the barrier in its place. Pure."""

import re
from collections.abc import Mapping
from typing import Any, Final

from coatcheck_sidecar.core.drain import BARRIER_HOLDS_S, BARRIER_SHARE
from coatcheck_sidecar.core.inject_choice import ADMIN_PORT

DRAIN: Final = "/drain"
BARRIER: Final = "/drain/barrier"
TOKEN_HEADER: Final = "Coatcheck-Hook-Token"  # noqa: S105 - a header's name
SHELLS: Final = re.compile(r"(?:/usr)?(?:/bin/)?(?:ba|da|a)?sh")
SLEEP: Final = re.compile(
    r"\s*(?:exec\s+)?(?:/usr)?(?:/bin/)?sleep\s+([0-9]+(?:\.[0-9]+)?)([smh]?)\s*;?\s*"
)
SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}


def hook(path: str, *, token: str) -> dict[str, Any]:
    """A request of the kubelet to the pod's IP. By number: a port's name is its container's own."""
    request: dict[str, Any] = {"path": path, "port": ADMIN_PORT}
    if token:
        request["httpHeaders"] = [{"name": TOKEN_HEADER, "value": token}]
    return {"httpGet": request}


def barrier(*, token: str, min_s: float = 0) -> dict[str, Any]:
    """Holds back the agent's SIGTERM until its runs are safe, and not less than `min_s`."""
    return hook(f"{BARRIER}?min_s={min_s:g}" if min_s else BARRIER, token=token)


def is_barrier(pre_stop: Mapping[str, Any]) -> bool:
    """Somebody has put it there."""
    request = pre_stop.get("httpGet")
    path = request.get("path") if isinstance(request, Mapping) else None
    return str(path or "").partition("?")[0] == BARRIER


def slept_s(pre_stop: Mapping[str, Any]) -> float | None:
    """How long a hook sleeps that does nothing else; `None` for any other."""
    if set(pre_stop) == {"sleep"} and isinstance(pre_stop["sleep"], Mapping):
        told = pre_stop["sleep"].get("seconds")
        return float(told) if isinstance(told, int) and not isinstance(told, bool) else None
    command = pre_stop["exec"].get("command") if _is_exec(pre_stop) else None
    if not isinstance(command, list) or not all(isinstance(word, str | int) for word in command):
        return None
    words = [str(word) for word in command]
    if len(words) == 3 and SHELLS.fullmatch(words[0]) and words[1] == "-c":
        script = words[2]
    else:
        script = " ".join(words) if len(words) == 2 else ""
    found = SLEEP.fullmatch(script)
    return None if found is None else float(found[1]) * SECONDS[found[2]]


def _is_exec(pre_stop: Mapping[str, Any]) -> bool:
    return set(pre_stop) == {"exec"} and isinstance(pre_stop["exec"], Mapping)


def described(pre_stop: Mapping[str, Any]) -> str:
    """A hook in a few words."""
    kind = next(iter(pre_stop), "nothing")
    inner = pre_stop.get(kind)
    if isinstance(inner, Mapping):
        shown = inner.get("command") or inner.get("path") or inner.get("port") or ""
        words = " ".join(map(str, shown)) if isinstance(shown, list) else str(shown)
        return f"{kind} {words}".strip()[:80]
    return str(kind)


def barrier_cap_s(grace_s: float) -> float:
    """The longest that the barrier holds back a SIGTERM (docs/shutdown.md)."""
    return grace_s - min(BARRIER_HOLDS_S, grace_s * BARRIER_SHARE)
