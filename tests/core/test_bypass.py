from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.bypass import HOSTS_MAX, OTHER, few, meant, outgoing, parse_tcp

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"  # noqa: E501


def line(local: str, remote: str, *, state: str = "01", inode: int = 7) -> str:
    return f"   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000 0 0 {inode} 1\n"


POD, POD_V6 = "0500000A", "B80D0120000000000000000005000000"
REMOTE, REMOTE_V6 = "010200C0", "B80D0120000000000000000001000000"


def test_lines_of_the_kernel_are_read() -> None:
    (socket,) = parse_tcp(HEAD + line(f"{POD}:C350", f"{REMOTE}:01BB", inode=42), order="little")
    assert socket == (IPv4Address("10.0.0.5"), 50_000, IPv4Address("192.0.2.1"), 443, 1, 42)
    (six,) = parse_tcp(line(f"{POD_V6}:C350", f"{REMOTE_V6}:01BB"), order="little")
    assert six.remote == IPv6Address("2001:db8::1")
    mapped = "0000000000000000FFFF0000" + REMOTE
    (four,) = parse_tcp(line(f"{mapped}:0001", f"{mapped}:0002"), order="little")
    assert four.remote == IPv4Address("192.0.2.1")
    (big,) = parse_tcp(line("0A000005:C350", "C0000201:01BB"), order="big")
    assert big.remote == IPv4Address("192.0.2.1")


def test_only_what_began_here_and_is_not_ours_goes_past_the_proxy() -> None:
    text = (
        line(f"{POD}:C350", f"{REMOTE}:01BB")
        + line(f"{POD}:C351", f"{REMOTE}:01BB", inode=8)
        + line(f"{POD}:C352", f"{REMOTE}:01BB", inode=99)  # the sidecar's own
        + line(f"{POD}:C353", f"{REMOTE}:01BB", state="06")  # TIME_WAIT
        + line(f"{POD}:C354", f"{REMOTE}:01BB", inode=0)
        + line(f"{POD}:1F90", "00000000:0000", state="0A")  # listens on 8080 ...
        + line(f"{POD}:1F90", f"{REMOTE}:D000")  # ... and this one came in
        + line("0100007F:C355", "0100007F:1B9E")  # loopback
        + line(f"{POD}:C356", f"{POD}:1F90")  # to itself
        + line(f"{POD}:C357", "030200C0:0050")
    )
    sockets = parse_tcp(text, order="little")
    assert outgoing(sockets, own={99}) == {"192.0.2.1": 2, "192.0.2.3": 1}


@pytest.mark.parametrize(
    ("ok", "left"),
    [
        ("192.0.2.0/24", {"2001:db8::1": 1}),
        ("192.0.2.1", {"192.0.2.3": 1, "2001:db8::1": 1}),
        ("192.0.2.1:443", {"192.0.2.3": 1, "2001:db8::1": 1}),
        ("192.0.2.1:444", {"192.0.2.1": 1, "192.0.2.3": 1, "2001:db8::1": 1}),
        ("*:443", {"192.0.2.3": 1}),
        ("[2001:db8::]/32", {"192.0.2.1": 1, "192.0.2.3": 1}),
        ("[2001:db8::1]:443", {"192.0.2.1": 1, "192.0.2.3": 1}),
    ],
)
def test_what_is_meant_to_go_past_the_proxy_is_not_counted(ok: str, left: dict[str, int]) -> None:
    text = (
        line(f"{POD}:C350", f"{REMOTE}:01BB")
        + line(f"{POD}:C357", "030200C0:0050")
        + line(f"{POD_V6}:C350", f"{REMOTE_V6}:01BB")
    )
    assert outgoing(parse_tcp(text, order="little"), own=(), ok=[meant(ok)]) == left


@pytest.mark.parametrize(
    "text", ["", "*", "db.internal:5432", "10.0.0.0/33", "10.0.0.1:0", "10.0.0.1:70000", "fd00::1"]
)
def test_what_names_no_connections_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be as|does not appear"):
        meant(text)


def test_hosts_are_few() -> None:
    hosts = {f"192.0.2.{n}": n + 1 for n in range(HOSTS_MAX + 3)}
    assert few(hosts)[OTHER] == 1 + 2 + 3
    assert len(few(hosts)) == HOSTS_MAX + 1
    assert few({"a": 1}) == {"a": 1}


@given(st.text(max_size=300))
def test_other_text_holds_no_sockets(text: str) -> None:
    assert parse_tcp(text, order="little") == []
    assert parse_tcp("0: zz:1 00000000:1 01 0 0 0 0 0 1\n0: 00:1 00:1 01\n", order="little") == []
