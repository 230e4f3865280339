import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from coatcheck_sidecar.core.drain import Latch
from coatcheck_sidecar.metrics import Metrics
from coatcheck_sidecar.servers.admin import HttpServer, admin_server, foreign
from coatcheck_sidecar.servers.hooks import Hooks


class View:
    is_started = False
    journal_is_dead = False


@asynccontextmanager
async def serving(server: HttpServer) -> AsyncIterator[aiohttp.ClientSession]:
    await server.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
        yield session
    await server.close()


class Drain:
    """Notes what triggers it; its barrier is a future."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, float | None]] = []
        self.passed = asyncio.get_running_loop().create_future()

    def begin(self, cause: str, *, grace_s: float | None = None) -> Latch:
        self.begun.append((cause, grace_s))
        return Latch(self.begun[0][0], 0.0, 29.0, 25.0)

    async def barrier(self) -> bool:
        return bool(await self.passed)


def admin(view: View, drain: Drain | None = None, *, token: str = "") -> HttpServer:
    hooks = Hooks(drain or Drain(), token=token)
    return admin_server(view, Metrics(version="1").render, hooks=hooks, host="127.0.0.1", port=0)


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


async def test_the_hooks_begin_a_drain_and_hold_back_what_waits_for_it() -> None:
    drain = Drain()
    async with serving(admin(View(), drain)) as session:
        assert await status(session, "/drain") == 200
        assert await status(session, "/drain") == 200  # a kubelet that was restarted
        async with session.post("/drain?deadline_s=2.5") as response:
            assert (response.status, await response.text()) == (200, "draining since preStop\n")
        assert drain.begun == [("preStop", None), ("preStop", None), ("request", 2.5)]
        waiting = asyncio.ensure_future(session.get("/drain/barrier"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        drain.passed.set_result(True)
        async with await waiting as response:
            assert await response.text() == "released\n"


async def test_a_barrier_with_a_minimum_is_not_passed_before() -> None:
    drain = Drain()
    drain.passed.set_result(True)
    loop = asyncio.get_running_loop()
    async with serving(admin(View(), drain)) as session:
        began_s = loop.time()
        assert await status(session, "/drain/barrier?min_s=0.2") == 200
        assert loop.time() - began_s >= 0.2
        assert await status(session, "/drain/barrier?min_s=-1") == 400


async def test_a_minimum_shortens_no_barrier() -> None:
    drain = Drain()
    async with serving(admin(View(), drain)) as session:
        waiting = asyncio.ensure_future(session.get("/drain/barrier?min_s=0.01"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        drain.passed.set_result(False)
        async with await waiting as response:
            assert await response.text() == "the time is over\n"


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT"])
async def test_whoever_only_looks_begins_no_drain(method: str) -> None:
    drain = Drain()
    async with serving(admin(View(), drain)) as session:
        for path in ("/drain", "/drain/barrier"):
            async with session.request(method, path) as response:
                assert response.status == 405
    assert not drain.begun


@pytest.mark.parametrize("said", ["", "x", "-1", "nan", "inf", "1e9"])
async def test_a_deadline_that_is_none_is_refused_and_begins_nothing(said: str) -> None:
    drain = Drain()
    asked = {"deadline_s": said}
    async with (
        serving(admin(View(), drain)) as session,
        session.get("/drain", params=asked) as response,
    ):
        assert response.status == 400
        assert repr(said) in await response.text()
    assert not drain.begun


async def test_hooks_with_a_token_are_for_those_who_say_it() -> None:
    drain = Drain()
    drain.passed.set_result(False)
    async with serving(admin(View(), drain, token="t" * 16)) as session:
        for path in ("/drain", "/drain/barrier"):
            assert await status(session, path) == 403
            async with session.get(path, headers={"Coatcheck-Hook-Token": "t" * 15}) as response:
                assert response.status == 403
        assert not drain.begun
        headers = {"Coatcheck-Hook-Token": "t" * 16}
        async with session.get("/drain", headers=headers) as response:
            assert response.status == 200
        async with session.get("/drain/barrier", headers=headers) as response:
            assert await response.text() == "the time is over\n"


@pytest.mark.parametrize("path", ["/", "/v1/runs", "/v1/drain", "/drain/x", "/metrics/x", "/debug"])
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
