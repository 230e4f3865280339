import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from coatcheck_sidecar.metrics import Metrics
from coatcheck_sidecar.servers.admin import HttpServer, admin_server, foreign


class View:
    is_started = False
    journal_is_dead = False


@asynccontextmanager
async def serving(server: HttpServer) -> AsyncIterator[aiohttp.ClientSession]:
    await server.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
        yield session
    await server.close()


def admin(view: View) -> HttpServer:
    return admin_server(view, Metrics(version="1").render, host="127.0.0.1", port=0)


async def status(session: aiohttp.ClientSession, path: str) -> int:
    async with session.get(path) as response:
        return response.status


async def test_health_follows_the_sidecar() -> None:
    view = View()
    async with serving(admin(view)) as session:
        assert await status(session, "/livez") == 200
        assert await status(session, "/readyz") == 200
        assert await status(session, "/startupz") == 503
        view.is_started = True
        assert await status(session, "/startupz") == 200
        view.journal_is_dead = True
        assert await status(session, "/readyz") == 503
        assert await status(session, "/livez") == 200


async def test_metrics_are_served_as_prometheus_has_them() -> None:
    async with serving(admin(View())) as session, session.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        assert "coatcheck_build_info" in await response.text()


@pytest.mark.parametrize("path", ["/", "/v1/runs", "/drain", "/metrics/x", "/debug"])
async def test_the_admin_port_has_nothing_else(path: str) -> None:
    async with serving(admin(View())) as session:
        assert await status(session, path) == 404
        async with session.post("/livez") as response:
            assert response.status == 405


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:7070", "127.9.9.9", "[::1]:80", "LOCALHOST"]
)
def test_loopback_hosts(host: str) -> None:
    assert foreign([host], origins=[]) is None
    assert foreign([host], origins=[f"http://{host}"]) is None


@pytest.mark.parametrize(
    "host",
    ["", "evil", "127.0.0.1.evil", "10.0.0.1", "[::2]", "[", "localhost.evil", "a@127.0.0.1.b"],
)
def test_other_hosts(host: str) -> None:
    assert foreign([host], origins=[]) is not None


def test_origins_that_are_none() -> None:
    assert foreign([], origins=[]) is not None
    assert foreign(["localhost", "localhost"], origins=[]) is not None
    assert foreign(["localhost"], origins=["null"]) is not None
    assert foreign(["localhost"], origins=["http://localhost"] * 2) is not None


def test_aiohttp_is_not_imported_before_a_server_is_made() -> None:
    code = "import sys, coatcheck_sidecar.servers.admin; print('aiohttp' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "False\n"
