"""What the cluster can reach of a real sidecar: health, metrics and the kubelet's two hooks."""

import asyncio
import contextlib
import os
import re
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from examples.demo.processes import LOOPBACK, free_ports, python
from tests.e2e.real_sidecar import Real, real_sidecar

POD_IP: Final = "127.0.0.2"
"""Another address of this machine, as a pod's own is another one than its loopback."""
LISTENS: Final = "0A"
"""State of a socket in /proc/net/tcp."""
OPEN: Final = {
    "/livez": {"GET", "HEAD"},
    "/readyz": {"GET", "HEAD"},
    "/startupz": {"GET", "HEAD"},
    "/metrics": {"GET", "HEAD"},
    "/drain": {"GET", "HEAD", "POST"},
    "/drain/barrier": {"GET", "HEAD"},
}
"""All that there is, and how it may be asked for."""
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
TOOL: Final = {"mail": {"upstream": f"http://{LOOPBACK}:9/", "private": True, "effect": "once"}}
TOKEN: Final = "t" * 32


@asynccontextmanager
async def pod(folder: Path, **environ: str) -> AsyncIterator[tuple[Real, str]]:
    """A sidecar whose admin port is on the pod's address alone; and that port's URL."""
    (port,) = free_ports(1)
    url = f"http://{POD_IP}:{port}"
    there = {"COATCHECK_ADMIN_LISTEN": f"{POD_IP}:{port}", **environ}
    async with real_sidecar(folder, TOOL, **there) as real:
        yield real, url


def listeners(pid: int) -> set[tuple[str, int]]:
    """Where a process listens, as the kernel tells it."""
    inodes = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(each)):
                inodes.add(found[1])
    places = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        address, port = fields[1].split(":")
        if fields[3] == LISTENS and fields[9] in inodes:
            places.add((socket.inet_ntoa(bytes.fromhex(address)[::-1]), int(port, 16)))
    for line in Path(f"/proc/{pid}/net/tcp6").read_text().splitlines()[1:]:
        fields = line.split()
        assert not (fields[3] == LISTENS and fields[9] in inodes), "nothing listens on IPv6 here"
    return places


async def paths_of(real: Real, session: aiohttp.ClientSession) -> dict[str, set[str]]:
    """What loopback offers, by its own document."""
    async with session.get(f"http://{LOOPBACK}:{real.port}/v1/openapi.json") as reply:
        document: dict[str, Any] = await reply.json()
    return {path: {verb.upper() for verb in verbs} for path, verbs in document["paths"].items()}


async def test_the_cluster_reaches_health_metrics_and_hooks_alone(tmp_path: Path) -> None:
    async with pod(tmp_path / "pod") as (real, url), aiohttp.ClientSession() as session:
        admin = (POD_IP, int(url.rpartition(":")[2]))
        assert listeners(real.child.pid) == {admin, (LOOPBACK, real.port)}
        local = await paths_of(real, session)
        assert len(local) > 10
        others = {path.replace("{run}", "r1").replace("{queue}", "q") for path in local}
        others |= {"/", "/v1", "/ui", "/mail/send", "/debug", "/metrics/", "/livez/x", "/drain/x"}
        others |= {"//metrics", "/v1/../metrics/x", "/%2e%2e/v1/runs"}
        for path in sorted(others):
            for method in METHODS:
                async with session.request(method, url + path) as reply:
                    assert reply.status in (404, 405), f"{method} {path}: {reply.status}"
        for path, allowed in OPEN.items():
            for method in set(METHODS) - allowed:
                async with session.request(method, url + path) as reply:
                    assert reply.status == 405, f"{method} {path}: {reply.status}"
        for path in ("/livez", "/readyz", "/startupz", "/metrics"):
            async with session.get(url + path) as reply:
                assert reply.status == 200, path
        assert '"drain"' not in real.said  # none of it began one


async def test_the_admin_port_is_no_proxy(tmp_path: Path) -> None:
    async with pod(tmp_path / "pod") as (real, url):
        port = int(url.rpartition(":")[2])
        for line in (
            f"GET http://{LOOPBACK}:{real.port}/v1/runs HTTP/1.1",
            f"CONNECT {LOOPBACK}:{real.port} HTTP/1.1",
        ):
            reader, writer = await asyncio.open_connection(POD_IP, port)
            writer.write(f"{line}\r\nHost: {LOOPBACK}\r\nConnection: close\r\n\r\n".encode())
            status = (await reader.readline()).split()[1]
            assert status in (b"404", b"405", b"400"), line
            writer.close()


async def test_the_rest_is_on_loopback_and_asks_who_is_there(tmp_path: Path) -> None:
    async with pod(tmp_path / "pod") as (real, url), aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"http://{POD_IP}:{real.port}/v1/runs")
        here = f"http://{LOOPBACK}:{real.port}"
        async with session.get(f"{here}/v1/runs") as reply:
            assert reply.status == 200
        for headers in ({"Host": "10.1.2.3"}, {"Host": "evil"}, {"Origin": "http://evil"}):
            async with session.get(f"{here}/v1/runs", headers=headers) as reply:
                assert reply.status == 403, headers
        for path in ("/metrics", "/drain", "/livez"):
            async with session.get(here + path) as reply:
                assert reply.status in (400, 404), path  # a tool that there is none of
        assert url


async def test_hooks_with_a_token_are_the_kubelets_alone(tmp_path: Path) -> None:
    async with (
        pod(tmp_path / "pod", COATCHECK_HOOK_TOKEN=TOKEN) as (real, url),
        aiohttp.ClientSession() as session,
    ):
        for path in ("/drain", "/drain/barrier"):
            async with session.get(url + path) as reply:
                assert reply.status == 403
        assert '"drain"' not in real.said
        assert TOKEN not in real.said
        async with session.get(f"{url}/drain", headers={"Coatcheck-Hook-Token": TOKEN}) as reply:
            assert reply.status == 200


@pytest.mark.parametrize("host", ["", "10.1.2.3"])
def test_agents_can_be_served_on_loopback_alone(host: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [*python("coatcheck", "sidecar"), "--listen", f"{host}:7070", "--store", "memory://"],
        env={**os.environ, "COATCHECK_DATA": str(tmp_path)},
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert ran.returncode == 64
    assert "must be a loopback address" in ran.stderr
