"""What the forward proxy may reach: hosts and ports of the configuration, and nothing else."""

import re
from dataclasses import dataclass
from typing import Final

from coatcheck_sidecar.core.address import literal

HOST: Final = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?", re.ASCII)
"""RFC 1123, and underscores as some clusters have them; `*.` stands for one name or more."""
PORT_MAX: Final = 65_535
CONNECT_PORT: Final = 443
"""Of a tunnel whose port is not said: tunnels are for TLS."""


@dataclass(frozen=True, slots=True)
class Place:
    """A host, or all below it (`*.example.com`), at one port or at any (`None`)."""

    host: str
    port: int | None = None

    def holds(self, host: str, port: int) -> bool:
        """`host` as a request names it; an address counts in every spelling."""
        if self.port not in (None, port):
            return False
        plain = normal(host)
        if self.host.startswith("*."):
            return literal(plain) is None and plain.endswith(self.host[1:])
        return plain == self.host


@dataclass(frozen=True, slots=True)
class Forward:
    """The forward proxy's two lists; it is on where there is a `Forward` at all."""

    allow: tuple[Place, ...] = ()
    """Plain HTTP requests in absolute form."""
    connect: tuple[Place, ...] = ()
    """Opaque tunnels: nothing in them is deduplicated."""


def normal(host: str) -> str:
    """One spelling of a host: lower case, no final dot, no brackets, addresses as usual."""
    bare = host.lower().removeprefix("[").removesuffix("]").removesuffix(".")
    return literal(bare) or bare


def place(text: str, *, default_port: int | None = None) -> Place:
    """Read `host`, `host:port`, `*.host`, `[::1]:80`. Raises `ValueError` with the mend."""
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, ""
    elif not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or not 0 < int(port) <= PORT_MAX:
        raise ValueError("must be host or host:port, such as api.example.com:443")
    is_v6 = re.fullmatch(r"\[[0-9a-fA-F:.]+\]", host) is not None and literal(host) is not None
    if not is_v6 and not HOST.fullmatch(host):
        raise ValueError("must be host or host:port, such as api.example.com:443")
    return Place(normal(host), int(port) if port else default_port)
