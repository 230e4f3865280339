"""Which connections of the pod go past the proxy, by the kernel's own table of sockets."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final, Literal, NamedTuple

ESTABLISHED: Final = 0x01
LISTEN: Final = 0x0A
"""States of a socket in /proc/net/tcp (include/net/tcp_states.h)."""
WORD_BYTES: Final = 4
"""An address is printed as 32-bit words, each in the machine's own order."""
FIELDS_MIN: Final = 10
"""`sl local remote st queues timer retransmits uid timeout inode`, and more."""
PORT_MAX: Final = 65_535
MEANT: Final = re.compile(
    r"(?:(?P<any>\*)(?=:)|\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<v4>[0-9.]+))(?P<bits>/\d{1,3})?"
    r"(?::(?P<port>\d{1,5}))?",
    re.ASCII,
)
HOSTS_MAX: Final = 20
"""Hosts told apart in a metric; connections to more are counted together."""
OTHER: Final = "other"

Address = IPv4Address | IPv6Address


class Socket(NamedTuple):
    """One line of /proc/net/tcp or tcp6."""

    local: Address
    local_port: int
    remote: Address
    remote_port: int
    state: int
    inode: int


def parse_tcp(text: str, *, order: Literal["little", "big"]) -> list[Socket]:
    """The sockets of /proc/net/tcp or tcp6; lines that are none are left out.

    `order` is the machine's (`sys.byteorder`). An IPv4 address within an IPv6 one is an IPv4 one.
    """
    found = []
    for line in text.splitlines():
        fields = line.split()
        try:
            local, local_port = _place(fields[1], order=order)
            remote, remote_port = _place(fields[2], order=order)
            state, inode = int(fields[3], 16), int(fields[FIELDS_MIN - 1])
        except (IndexError, ValueError):
            continue
        found.append(Socket(local, local_port, remote, remote_port, state, inode))
    return found


class Meant(NamedTuple):
    """Connections that are meant to go past the proxy: by network, by port, or both."""

    network: IPv4Network | IPv6Network | None
    port: int | None

    def has(self, socket: Socket) -> bool:
        """This connection is one of them."""
        is_there = self.network is None or socket.remote in self.network
        return is_there and self.port in (None, socket.remote_port)


def meant(text: str) -> Meant:
    """`10.0.0.0/8`, `10.1.2.3:5432`, `*:6379` or `[fd00::]/8:443`. Raises `ValueError`."""
    found = MEANT.fullmatch(text)
    port = int(found["port"]) if found and found["port"] else None
    if found is None or (port is not None and not 0 < port <= PORT_MAX):
        raise ValueError(f"{text!r:.80} must be as 10.0.0.0/8, 10.1.2.3:5432 or *:6379")
    if found["any"]:
        return Meant(None, port)
    host = (found["v6"] or found["v4"]) + (found["bits"] or "")
    return Meant(ip_network(host, strict=False), port)


def outgoing(
    sockets: Iterable[Socket], *, own: Collection[int], ok: Collection[Meant] = ()
) -> dict[str, int]:
    """Open connections that this network namespace began, by remote host.

    Without those to itself, those of the inodes `own`, and those that are `ok`. A connection from a
    port on which something listens is one that came in; one without an inode was not accepted yet.
    """
    known = list(sockets)
    listening = {socket.local_port for socket in known if socket.state == LISTEN}
    return dict(
        Counter(
            str(socket.remote)
            for socket in known
            if socket.state == ESTABLISHED
            and socket.inode
            and socket.inode not in own
            and socket.local_port not in listening
            and not socket.remote.is_loopback
            and socket.remote != socket.local
            and not any(one.has(socket) for one in ok)
        )
    )


def few(hosts: Mapping[str, int]) -> dict[str, int]:
    """The busiest hosts by name, all others as one."""
    ranked = sorted(hosts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ranked[HOSTS_MAX:])
    return dict(ranked[:HOSTS_MAX]) | ({OTHER: rest} if rest else {})


def _place(text: str, *, order: Literal["little", "big"]) -> tuple[Address, int]:
    digits, colon, port = text.partition(":")
    data = bytes.fromhex(digits)
    words = [data[at : at + WORD_BYTES] for at in range(0, len(data), WORD_BYTES)]
    packed = b"".join(word[::-1] if order == "little" else word for word in words)
    if len(packed) == WORD_BYTES and colon:
        return IPv4Address(packed), int(port, 16)
    address = IPv6Address(packed)
    return address.ipv4_mapped or address, int(port, 16)
