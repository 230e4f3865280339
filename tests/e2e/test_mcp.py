"""Agents with an MCP client, killed and resumed: by the server's ledger, nothing is done twice."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from examples.demo.processes import LOOPBACK, python
from examples.demo.scenario import wait_for_http
from tests.e2e.mcp_world import LONG_S, McpPod, done, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]

SLOW_S: Final = 2.0
"""From a charge to its answer: long enough to be killed in."""
HTTP: Final = ("auto", "legacy")
"""The newest revision, without sessions, and the last one with them."""


class Shop(McpPod):
    """The sidecar, a shop behind it, and the shop's ledger."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ledger = folder / "ledger"
        self.ledger.touch()

    def argv(self, *args: str) -> list[str]:
        ledger = ("--ledger", str(self.ledger))
        return python("tests.e2e.mcp_shop", *ledger, "--delay-s", str(SLOW_S), *args)

    async def open(self, how: str) -> str:
        """What an agent is told: the shop by HTTP, or wrapped."""
        said = {"trust_hints": True, "record": True}
        if how != "stdio":
            url = f"http://{LOOPBACK}:{self.server_port}/mcp"
            self.child(self.argv("--port", str(self.server_port)), name="shop")
            await asyncio.gather(self.start({"shop": {"mcp": url, **said}}), wait_for_http(url))
            return how
        await self.start({"shop": {"mcp": "stdio:", **said}})
        wrapper = [sys.executable, "-m", "coatcheck", "mcp", "--tool", "shop", "--"]
        return json.dumps([*wrapper, *self.argv()])

    def charged(self) -> list[str]:
        """Every charge that the shop made, in order."""
        lines = self.ledger.read_text().splitlines()
        return [line.removeprefix("charge ") for line in lines if line.startswith("charge")]

    def wrapped_pids(self) -> list[int]:
        """Of the wrapper and of its server."""
        return [int(pid) for pid in self.ledger.with_suffix(".pids").read_text().split()]

    async def until_charged(self, count: int) -> None:
        async with asyncio.timeout(LONG_S):
            while len(self.charged()) < count:  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.02)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    made = Shop(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("how", [*HTTP, "stdio"])
async def test_a_killed_agent_is_given_what_it_had(shop: Shop, how: str) -> None:
    """Killed between two calls, then it goes by the same way without a call leaving."""
    told = await shop.open(how)
    first = shop.agent(told, "1", "2", life=0)
    had = await until(first, 2)
    first.kill()
    charged = len(shop.charged())
    again = await done(shop.agent(told, "1", "2", life=1))
    assert again[:2] == had
    assert [result["text"] for result in again] == [
        "price of 1",
        "receipt of 1",
        "price of 2",
        "receipt of 2",
    ]
    assert charged in (1, 2)
    assert shop.charged() == ["1", "2"]
    assert shop.ledger.read_text().count("look 1") == 1


@pytest.mark.parametrize("how", [*HTTP, "stdio"])
async def test_killed_in_a_call(shop: Shop, how: str) -> None:
    """The answer is taken in all the same, and is there when the call is asked for again."""
    told = await shop.open(how)
    first = shop.agent(told, "1", life=0)
    await shop.until_charged(1)
    first.kill()
    again = await done(shop.agent(told, "1", life=1))
    assert again[-1]["text"] == "receipt of 1"
    assert shop.charged() == ["1"]


async def test_killed_with_its_server_in_a_call(shop: Shop) -> None:
    """Nobody is left who could tell what became of it: in doubt, and not done again."""
    told = await shop.open("stdio")
    first = shop.agent(told, "1", life=0)
    await shop.until_charged(1)
    for pid in shop.wrapped_pids():
        os.kill(pid, signal.SIGKILL)
    first.kill()
    again = await done(shop.agent(told, "1", life=1))
    assert again[-1]["known"]["outcome"] == "unknown"
    assert shop.charged() == ["1"]


async def test_a_server_that_dies_in_a_call(shop: Shop) -> None:
    told = await shop.open("stdio")
    said = await until(shop.agent(told, "crash", "2", life=0), 2)
    assert said[1]["known"]["outcome"] == "unknown"
    assert shop.charged() == ["crash"]


@pytest.mark.parametrize("how", HTTP)
async def test_the_sidecar_is_killed_in_a_call(shop: Shop, how: str) -> None:
    """The agent's request fails; the next life is told that nobody knows."""
    told = await shop.open(how)
    first = shop.agent(told, "1", life=0)
    await shop.until_charged(1)
    assert shop.sidecar is not None
    shop.sidecar.kill()
    first.kill()
    await shop.start_sidecar()
    again = await done(shop.agent(told, "1", life=1))
    known = again[-1]["known"]
    assert (known["outcome"], known["tool"]) == ("unknown", "charge")
    assert shop.charged() == ["1"]
