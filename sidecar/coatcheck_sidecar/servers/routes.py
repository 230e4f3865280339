"""Where agents find their tools: the URL that `open` hands out, and the secret behind its token."""

import os
import re
import socket
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.bindings import Bindings
from coatcheck_sidecar.engine.calls import Calls
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.ports import Clock

UPSTREAM: Final = "COATCHECK_UPSTREAM_"
SECRET_FILE: Final = "proxy_secret"  # noqa: S105 - a name
SECRET_BYTES: Final = 32
SECRET_MODE: Final = 0o600


class Routes:
    """Hands out URLs below the listener's."""

    def __init__(self, bindings: Bindings, url: str, *, tools: Collection[Tool] = ()) -> None:
        """`url` is the listener's, without a path."""
        self._bindings = bindings
        self._url = url
        self.upstreams = upstreams_of(tools)
        self._variables = {variable: tool.name for tool in tools for variable in tool.env}

    def open(self, keeper: Keeper, calls: Calls, *, incarnation: bytes) -> str:
        """The URL that this life of the run's agent puts tools' names behind."""
        return f"{self._url}/{self._bindings.bind(keeper, calls, incarnation=incarnation)}"

    def environ(self, url: str) -> dict[str, str]:
        """The variables by which clients of other makers find their tool below `url`."""
        return {variable: f"{url}/{name}" for variable, name in self._variables.items()}


def upstreams_of(tools: Iterable[Tool]) -> dict[str, str]:
    """The variables by which agents find the upstreams themselves, where the mode is `off`."""
    found: dict[str, str] = {}
    for tool in tools:
        name = UPSTREAM + re.sub(r"\W", "_", tool.name).upper()
        found |= dict.fromkeys((name, *tool.env), tool.upstream or tool.mcp)
    return found


def read_secret(data: Path, clock: Clock) -> bytes:
    """The secret of a data folder, made on first use. Raises `OSError`."""
    path = data / SECRET_FILE
    if not path.exists():
        aside = data / f"{SECRET_FILE}.new"
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT, SECRET_MODE), "wb") as file:
            file.write(clock.random_bytes(SECRET_BYTES))
        aside.rename(path)
    return path.read_bytes()


def reserve(host: str, port: int) -> socket.socket:
    """A port, before anything answers on it: agents are told its URL first. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)
