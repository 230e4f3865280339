"""The pod itself: data folder, socket and hooks, beside a sidecar that runs."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coatcheck_sidecar.cli import doctor_here
from coatcheck_sidecar.cli.doctor_here import may, of_folder, of_hooks, of_socket
from coatcheck_sidecar.config import Address, Config
from tests.cli.running import WAIT_S, environ
from tests.e2e.real_sidecar import Real, real_sidecar
from tests.servers import LOOPBACK, free_ports

ANY = "0.0.0.0"  # noqa: S104 - a setting's value


def doctor(real: Real, *args: str, **env: str) -> tuple[int, Any]:
    """As `kubectl exec` would run it."""
    ran = subprocess.run(
        [sys.executable, "-m", "coatcheck", "doctor", "--json", *args],
        env=environ(
            COATCHECK_DATA=str(real.folder / "data"),
            COATCHECK_SOCKET=str(real.folder / "agent.sock"),
            COATCHECK_STORE=(real.folder / "store").as_uri(),
            COATCHECK_ADMIN_LISTEN=f"{ANY}:{real.admin_port}",
            POD_IP=LOOPBACK,
            COATCHECK_SPOOL_BYTES_MAX="1048576",
            COATCHECK_JOURNAL_BYTES_MAX="1048576",
            **env,
        ),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert ran.stdout, ran.stderr
    (patient,) = json.loads(ran.stdout)["patients"]
    return ran.returncode, {one["code"]: one for one in patient["findings"]}


async def test_beside_a_sidecar_that_is_well_and_after_its_death(tmp_path: Path) -> None:
    async with real_sidecar(tmp_path, {}) as real:
        real.folder.joinpath("agent.sock").chmod(0o660)
        uid = str(os.getuid())
        status, found = doctor(real, "--agent-uid", uid)
        assert status == 0, found
        assert set(found) - {"data-in-memory", "data-unmounted"} == {"budget"}
        assert b"\ncoatcheck_draining 0.0\n" in real.metrics()
        wire, _ = await real.agent()  # the doctor began no drain: a run is still taken
        await wire.commit(b"s")
        await wire.release()
        await wire.drop()
        real.child.kill()
        status, found = doctor(real, "--only", "socket", "--only", "hooks")
        assert status == 1
        assert set(found) == {"socket-silent", "hook-unreachable"}


def test_settings_that_are_wrong_come_all_at_once(tmp_path: Path) -> None:
    real = Real(tmp_path, 1, 2, None)  # type: ignore[arg-type]
    status, found = doctor(real, COATCHECK_LEASE_S="1", COATCHECK_COLOUR="red")
    assert (status, set(found)) == (1, {"settings"})


def test_a_grace_of_the_environment_that_is_too_short(tmp_path: Path) -> None:
    real = Real(tmp_path, 1, 2, None)  # type: ignore[arg-type]
    args = ("--only", "settings")
    assert doctor(real, *args, COATCHECK_GRACE_S="1.5")[1].keys() == {"grace-short"}
    assert doctor(real, *args)[1] == {}


MOUNTS = "1 1 0:1 / / rw - {root} x rw\n2 1 0:2 / {at} rw - {kind} x rw\n"


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("ext4", []),
        ("tmpfs", ["data-in-memory"]),
        ("nfs4", ["data-on-network"]),
        ("fuse.s3fs", ["data-on-network"]),
        ("overlay", ["data-unmounted"]),
    ],
)
def test_where_the_data_folder_lies(tmp_path: Path, kind: str, found: list[str]) -> None:
    config = replace(Config(), data=tmp_path, spool_bytes_max=1, journal_bytes_max=1)
    mountinfo = MOUNTS.format(root="ext4", at=tmp_path, kind=kind)
    assert [one.code for one in of_folder(config, mountinfo=mountinfo)] == found


def test_a_data_folder_that_is_not_there_or_too_small(tmp_path: Path) -> None:
    (missing,) = of_folder(replace(Config(), data=tmp_path / "x"))
    assert missing.code == "data-not-writable"
    much = shutil.disk_usage(tmp_path).free * 2
    (small,) = of_folder(replace(Config(), data=tmp_path, spool_bytes_max=much), mountinfo="")
    assert small.code == "data-space"


@contextmanager
def listening(path: Path, mode: int) -> Iterator[Config]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        path.chmod(mode)
        yield replace(Config(), socket=path)


@pytest.fixture
def short(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path / "s"


def test_who_may_open_the_socket(short: Path) -> None:
    gid = 4242
    with listening(short, 0o660) as config:
        if os.getuid() == 0:
            os.chown(short, 65532, gid)

        def codes(uid: int, *gids: int) -> list[str]:
            return [one.code for one in of_socket(config, agent_uid=uid, agent_gids=gids)]

        group = short.stat().st_gid
        assert codes(12345) == ["socket-group"]
        assert codes(12345, group) == []
        assert codes(0) == []
        short.parent.chmod(0o700)
        assert codes(12345, group) == ["socket-group"]
        only = replace(config, allowed_uids=(1,))
        assert [one.code for one in of_socket(only, agent_uid=0)] == ["uid-not-allowed"]
        assert list(of_socket(config)) == []


def test_a_socket_that_nobody_has(short: Path) -> None:
    config = replace(Config(), socket=short)
    assert [one.code for one in of_socket(config, agent_uid=1)] == ["socket-silent"]
    with listening(short, 0o660):
        pass
    (stale,) = of_socket(config)  # the file is still there
    assert "refused" in stale.what


def test_owner_group_and_others_as_the_kernel_takes_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o604)
    found = tmp_path.stat()
    owner, group = found.st_uid, found.st_gid
    assert may(found, 4, uid=owner + 1, gids=())
    assert not may(found, 4, uid=owner + 1, gids=(group,))
    assert may(found, 6, uid=owner, gids=(group,))
    assert not may(found, 2, uid=owner + 1, gids=())


def hooks(host: str, port: int, **env: str) -> list[str]:
    config = replace(Config(), admin_listen=Address(host, port))
    return [one.code for one in of_hooks(config, environ=env)]


def test_a_port_that_somebody_else_has(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    assert hooks("127.0.0.1", port) == ["admin-on-loopback", "hook-unreachable"]
    assert hooks(ANY, port, POD_IP="127.0.0.1") == ["hook-unreachable"]
    monkeypatch.setattr(doctor_here, "_own_address", lambda: "127.0.0.1")
    assert hooks(ANY, port) == ["hook-unreachable"]
    other = subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", LOOPBACK, str(port)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        while _is_closed(port):
            pass
        (found,) = of_hooks(
            replace(Config(), admin_listen=Address(ANY, port)),
            environ={"POD_IP": "127.0.0.1"},
        )
        assert "somebody else" in found.what
    finally:
        other.kill()
        other.wait()


def _is_closed(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((LOOPBACK, port)) != 0


def test_its_own_address_is_one() -> None:
    assert doctor_here._own_address()
