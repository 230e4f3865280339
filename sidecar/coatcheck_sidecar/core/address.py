"""Which addresses a tool's upstream may have: no way to the node's own services through a proxy.

Link-local addresses (a cloud's metadata service) never; loopback and private ranges only where the
tool says `private: true`. An IPv4 address inside an IPv6 one counts as what it stands for. All
addresses of a name must pass, then one is pinned: a name that answers otherwise a moment later
(DNS rebinding) changes nothing.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Address = IPv4Address | IPv6Address

NEVER: Final = (
    (IPv4Network("0.0.0.0/8"), "unspecified"),
    (IPv4Network("169.254.0.0/16"), "link-local, where metadata services are"),
    (IPv4Network("100.100.100.200/32"), "a metadata service"),  # Alibaba Cloud
    (IPv4Network("168.63.129.16/32"), "a service of the host"),  # Azure
    (IPv4Network("224.0.0.0/4"), "multicast"),
    (IPv4Network("240.0.0.0/4"), "reserved or broadcast"),
    (IPv6Network("::/128"), "unspecified"),
    (IPv6Network("fe80::/10"), "link-local"),
    (IPv6Network("fd00:ec2::/32"), "a service of the host, or metadata"),  # AWS
    (IPv6Network("fd20:ce::254/128"), "a metadata service"),  # Google Cloud
    (IPv6Network("ff00::/8"), "multicast"),
)
"""Refused whatever the tool says. A match of the other IP version is none."""
LOCAL_NAT64: Final = IPv6Network("64:ff9b:1::/48")
"""RFC 8215: what stands behind it is each network's own."""
NAT64: Final = IPv6Network("64:ff9b::/96")
COMPATIBLE: Final = IPv6Network("::/96")
"""RFC 4291, 2.5.5.1: deprecated, and still routed to the IPv4 address by some stacks."""
PART: Final = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+", re.ASCII)
PARTS_MAX: Final = 4


class Forbidden(Exception):  # noqa: N818 - says what was found, as its users do
    """An upstream may not be reached; the text says which address, and why."""


def obstacle(address: str, *, is_private_ok: bool) -> str | None:
    """Why `address` may not be reached, as the end of a sentence, or `None` if it may."""
    try:
        found = _unwrapped(ip_address(address.partition("%")[0]))
    except ValueError:
        return f"{address} is no address"
    shown = address if str(found) == address else f"{address} ({found})"
    for network, what in NEVER:
        if found in network:
            return f"{shown} is {what}: never reached"
    if (not found.is_global or found in LOCAL_NAT64) and not is_private_ok:
        return f"{shown} is loopback or private: reached only if the tool says `private: true`"
    return None


def pick(addresses: Sequence[str], *, is_private_ok: bool) -> str:
    """The address to pin, the resolver's first. Raises `Forbidden` if any may not be reached."""
    for address in addresses:
        why = obstacle(address, is_private_ok=is_private_ok)
        if why is not None:
            raise Forbidden(why)
    if not addresses:
        raise Forbidden("the name has no address")
    return addresses[0]


def literal(host: str) -> str | None:
    """The address that `host` spells, `None` for a name.

    Resolvers take `2130706433`, `0x7f.1` and `0177.0.0.1` for 127.0.0.1 (inet_aton of POSIX).
    """
    bare = host.removeprefix("[").removesuffix("]")
    if ":" in bare:
        try:
            return str(ip_address(bare.partition("%")[0]))
        except ValueError:
            return None
    parts = bare.removesuffix(".").split(".")
    if len(parts) > PARTS_MAX or not all(map(PART.fullmatch, parts)):
        return None
    *front, last = map(_number, parts)
    tail_bytes = PARTS_MAX - len(front)
    if last is None or last >= 256**tail_bytes or any(n is None or n > 255 for n in front):
        return None
    value = bytes(n for n in front if n is not None) + last.to_bytes(tail_bytes, "big")
    return str(IPv4Address(value))


def _number(part: str) -> int | None:
    base = 16 if part[:2] in ("0x", "0X") else 8 if part[0] == "0" else 10
    try:
        return int(part[2:] or "0", 16) if base == 16 else int(part, base)
    except ValueError:
        return None


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 one carries (mapped, 6to4, NAT64, compatible)."""
    if isinstance(address, IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is not None:
        return inner
    is_compatible = address in COMPATIBLE and int(address) > 1
    if address in NAT64 or is_compatible:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
