from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.address import Forbidden, literal, obstacle, pick

NEVER = [
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "0.0.0.0",  # noqa: S104 - never bound
    "0.1.2.3",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "fd20:ce::254",
    "ff02::1",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "64:ff9b::a9fe:a9fe",
    "::a9fe:a9fe",
]
PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "192.0.2.1",
    "::1",
    "fc00::1",
    "fd12:3456::1",
    "64:ff9b:1::1",
    "::ffff:127.0.0.1",
    "64:ff9b::a00:1",
    "2002:7f00:1::",
]
PUBLIC = ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", NEVER)
@pytest.mark.parametrize("is_private_ok", [False, True])
def test_the_nodes_own_services_are_never_reached(address: str, is_private_ok: bool) -> None:
    found = obstacle(address, is_private_ok=is_private_ok)
    assert found is not None
    assert found.endswith("never reached")


@pytest.mark.parametrize("address", PRIVATE)
def test_private_ranges_are_reached_if_the_tool_says_so(address: str) -> None:
    assert "private: true" in (obstacle(address, is_private_ok=False) or "")
    assert obstacle(address, is_private_ok=True) is None


@pytest.mark.parametrize("address", PUBLIC)
def test_all_others_are_reached(address: str) -> None:
    assert obstacle(address, is_private_ok=False) is None


def test_what_is_no_address_is_refused() -> None:
    assert obstacle("metadata", is_private_ok=True) == "metadata is no address"


def test_one_bad_address_of_a_name_spoils_all() -> None:
    assert pick(["1.1.1.1", "2606:4700::1111"], is_private_ok=False) == "1.1.1.1"
    with pytest.raises(Forbidden, match=r"10\.0\.0\.1 is loopback or private"):
        pick(["1.1.1.1", "10.0.0.1"], is_private_ok=False)
    assert pick(["10.0.0.1", "1.1.1.1"], is_private_ok=True) == "10.0.0.1"
    with pytest.raises(Forbidden, match="no address"):
        pick([], is_private_ok=True)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.1", "127.0.0.1"),
        ("0xA9.0xFE.0xA9.0xFE", "169.254.169.254"),
        ("0xA9FEA9FE", "169.254.169.254"),
        ("2852039166", "169.254.169.254"),
        ("1.2.3.4.", "1.2.3.4"),
        ("0", "0.0.0.0"),  # noqa: S104 - never bound
        ("0x", "0.0.0.0"),  # noqa: S104 - never bound
        ("[::1]", "::1"),
        ("::ffff:7f00:1", "::ffff:127.0.0.1"),
        ("fe80::1%25eth0", "fe80::1"),
        ("a:b:c", None),
        ("4294967296", None),
        ("256.1.1.1", None),
        ("1.2.3.256", None),
        ("09.1.1.1", None),
        ("1.09", None),
        ("1.2.3.4.5", None),
        ("1..2", None),
        ("", None),
        ("example.com", None),
        ("0x7g", None),
        ("\uff11.1.1.1", None),
    ],
)
def test_an_address_in_any_spelling_is_known(host: str, address: str | None) -> None:
    found = literal(host)
    if found is not None and address is not None and ":" in found:
        assert IPv6Address(found) == IPv6Address(address)
    else:
        assert found == address


@given(st.ip_addresses(v=4))
def test_an_address_inside_another_is_judged_alike(inner: IPv4Address) -> None:
    number = int(inner)
    wrapped = [
        IPv6Address(0xFFFF << 32 | number),
        IPv6Address(0x2002 << 112 | number << 80),
        IPv6Address(0x64FF9B << 96 | number),
    ]
    for is_private_ok in (False, True):
        plain = obstacle(str(inner), is_private_ok=is_private_ok)
        for outer in wrapped:
            found = obstacle(str(outer), is_private_ok=is_private_ok)
            assert (found is None) == (plain is None)
    assert literal(str(number)) == literal(hex(number)) == str(inner)
