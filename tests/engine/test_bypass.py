import socket
from pathlib import Path

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.bypass import meant
from coatcheck_sidecar.engine.bypass import BypassSampler
from coatcheck_sidecar.events import Events
from coatcheck_sidecar.sockets import read_bypass
from tests.engine.test_accounts import Noted

TABLE = (
    "  sl  local_address rem_address st\n"
    "   0: 0500000A:C350 010200C0:01BB 01 0:0 0:0 0 0 0 7 1\n"
    "   1: 0500000A:C351 020200C0:01BB 01 0:0 0:0 0 0 0 8 1\n"
)


def test_the_table_of_the_namespace_is_held_against_our_own_sockets(tmp_path: Path) -> None:
    (tmp_path / "self/net").mkdir(parents=True)
    (tmp_path / "self/fd").mkdir()
    (tmp_path / "self/net/tcp").write_text(TABLE)
    (tmp_path / "self/fd/3").symlink_to("socket:[8]")
    (tmp_path / "self/fd/4").symlink_to("/dev/null")
    (tmp_path / "self/fd/5").write_text("")
    assert read_bypass(proc=tmp_path) == {"192.0.2.1": 1}
    assert read_bypass([meant("*:443")], proc=tmp_path) == {}


def test_where_there_is_no_such_table_nothing_is_seen(tmp_path: Path) -> None:
    assert read_bypass(proc=tmp_path) == {}


def test_the_kernel_in_front_of_us_is_understood() -> None:
    """Connections of our own, and those over loopback, are none."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        assert "127.0.0.1" not in read_bypass()


async def test_a_host_is_told_once_and_its_connections_counted() -> None:
    noted = Noted()
    seen = [{"192.0.2.1": 2}, {"192.0.2.1": 1, "192.0.2.2": 1}, {}]
    samples = iter(seen)
    sampler = BypassSampler(lambda: next(samples), clock=SystemClock(), observer=noted)
    for expected in seen:
        await sampler.sample()
        assert sampler.connections == expected
    assert sampler.most == {"192.0.2.1": 2, "192.0.2.2": 1}
    assert [fields["host"] for _, fields in noted.events] == ["192.0.2.1", "192.0.2.2"]


async def test_it_goes_on_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    class EnoughError(Exception):
        pass

    looks = 0

    def read() -> dict[str, int]:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise EnoughError
        return {}

    monkeypatch.setattr("coatcheck_sidecar.engine.bypass.SAMPLE_S", 0.001)
    sampler = BypassSampler(read, clock=SystemClock(), observer=Events())
    with pytest.raises(EnoughError):
        await sampler.run()
