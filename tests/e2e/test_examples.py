"""The agents that users copy: each is killed in the middle and goes on at the exact step."""

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from examples.demo.pods import HEARTBEAT_S, LEASE_S, PAUSE_MAX_S
from examples.demo.processes import LOOPBACK, ROOT, Child, free_ports, python
from examples.demo.scenario import wait_for_http

pytestmark = pytest.mark.timeout(90)
LONG_S = 40.0
"""For a step of a story on a machine that is busy with other tests."""


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A model to talk to, and a store that outlives every pod."""
    (tmp_path / "store").mkdir()
    port = free_ports(1)[0]
    argv = python("examples.demo.model", "--port", str(port), "--delay-s", "0.5")
    model = Child(argv, env={}, log=tmp_path / "model.log")
    yield {
        "OPENAI_BASE_URL": f"http://{LOOPBACK}:{port}/v1",
        "OPENAI_API_KEY": "none",
        "COATCHECK_STORE": (tmp_path / "store").as_uri(),
        "COATCHECK_HEARTBEAT_S": str(HEARTBEAT_S),
        "COATCHECK_LEASE_S": str(LEASE_S),
        "COATCHECK_PAUSE_MAX_S": str(PAUSE_MAX_S),
    }
    model.kill()


def pod_env(env: dict[str, str], folder: Path) -> dict[str, str]:
    """What one pod has for itself."""
    folder.mkdir(exist_ok=True)
    listen, admin = free_ports(2)
    return env | {
        "COATCHECK_DATA": str(folder / "data"),
        "COATCHECK_SOCKET": str(folder / "agent.sock"),
        "COATCHECK_LISTEN": f"{LOOPBACK}:{listen}",
        "COATCHECK_ADMIN_LISTEN": f"{LOOPBACK}:{admin}",
    }


async def until_said(child: Child, pattern: str) -> str:
    """Until the log holds it; the log. Raises `TimeoutError`."""
    async with asyncio.timeout(LONG_S):
        while not re.search(pattern, child.last_words(100_000)):
            assert child.is_alive, child.last_words()
            await asyncio.sleep(0.02)  # a file has no event to wait for
    return child.last_words(100_000)


def steps_in(log: str) -> list[int]:
    return [int(number) for number in re.findall(r"^step (\d+)$", log, re.MULTILINE)]


@pytest.mark.parametrize(
    ("script", "written"),
    [
        pytest.param("minimal_agent.py", "charges.txt", marks=pytest.mark.slow),
        ("minimal_agent_sync.py", "outbox.txt"),
    ],
)
async def test_a_minimal_agent_goes_on_at_the_step_where_it_was_killed(
    tmp_path: Path, env: dict[str, str], script: str, written: str
) -> None:
    command = [sys.executable, str(ROOT / "examples" / script), "order-1"]
    argv = python("coatcheck", "run", "--", *command)
    folder = tmp_path / "pod"
    killed = Child(argv, env=pod_env(env, folder), log=folder / "first.log")
    await until_said(killed, r"(?m)^step 3$")
    killed.kill()
    assert (folder / written).read_text().count("\n") == 2

    again = Child(argv, env=pod_env(env, folder), log=folder / "second.log")
    assert await asyncio.to_thread(again.wait, LONG_S) == 0, again.last_words()
    said = again.last_words(100_000)
    assert steps_in(said) == [3, 4]
    assert "in all." in said
    lines = (folder / written).read_text().splitlines()
    assert len(lines) == len(set(lines)) == 3


async def test_an_agent_behind_the_proxy_buys_each_completion_once(
    tmp_path: Path, env: dict[str, str]
) -> None:
    model = env.pop("OPENAI_BASE_URL")
    upstream = {"COATCHECK_TOOLS__OPENAI__UPSTREAM": model, "COATCHECK_TOOLS__OPENAI__PRIVATE": "1"}
    folder = tmp_path / "pod"
    options = ["--config", str(ROOT / "examples" / "proxy_agent.yaml")]
    command = [sys.executable, str(ROOT / "examples" / "proxy_agent.py"), "order-1"]
    argv = python("coatcheck", "run", *options, "--", *command)
    killed = Child(argv, env=pod_env(env | upstream, folder), log=folder / "first.log")
    await until_said(killed, r"(?m)^step 3$")
    killed.kill()
    again = Child(argv, env=pod_env(env | upstream, folder), log=folder / "second.log")
    assert await asyncio.to_thread(again.wait, LONG_S) == 0, again.last_words()
    said = again.last_words(100_000)
    assert steps_in(said) == [3, 4]
    assert "in all." in said
    lines = (folder / "parcels.txt").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 3
    async with aiohttp.ClientSession() as http, http.get(f"{model[:-3]}/count") as answer:
        count = await answer.json()
    # The sidecar died with the agent here: the completion that was cut may have been asked twice.
    assert count["distinct"] == 4
    assert count["completions"] <= 5


class ServedPod:
    """A sidecar and a chat service."""

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        self.env = pod_env(env, folder)
        self._folder = folder
        self._web_port = free_ports(1)[0]
        self.url = f"http://{LOOPBACK}:{self._web_port}"
        argv = python("coatcheck", "sidecar")
        self.sidecar = Child(argv, env=self.env, log=folder / "sidecar.log")
        script = str(ROOT / "examples" / "served_agent.py")
        args = ["--port", str(self._web_port), "--address", self.url]
        agent_env = {key: self.env[key] for key in self.env if not key.startswith("COATCHECK_")}
        agent_env["COATCHECK_SOCKET"] = self.env["COATCHECK_SOCKET"]
        self.agent = Child([sys.executable, script, *args], env=agent_env, log=folder / "agent.log")

    def kill(self) -> None:
        """May be killed twice."""
        for child in (self.sidecar, self.agent):
            child.send(signal.SIGKILL)
        self.sidecar.kill()
        self.agent.kill()

    async def say(self, chat: str, text: str, *, follow: bool = True) -> tuple[int, Any]:
        """Status and answer; asks again until somebody has the conversation."""
        url, body = f"{self.url}/chats/{chat}", {"text": text}
        async with asyncio.timeout(LONG_S), aiohttp.ClientSession() as http:
            while True:
                # Until its lease is over, a dead pod is where the conversation is said to be.
                with contextlib.suppress(aiohttp.ClientConnectorError):
                    async with http.post(url, json=body, allow_redirects=follow) as reply:
                        if reply.status == 200:
                            return 200, await reply.json()
                        if reply.status != 503:
                            return reply.status, reply.headers.get("Location")
                await asyncio.sleep(0.2)


async def test_a_served_agent_redirects_and_takes_over(tmp_path: Path, env: dict[str, str]) -> None:
    pods = [ServedPod(env, tmp_path / name) for name in ("a", "b")]
    old, new = pods
    try:
        await asyncio.gather(*(wait_for_http(pod.url) for pod in pods))
        answers = await asyncio.gather(*(old.say(chat, "Hello") for chat in ("anna", "bert")))
        assert [(status, body["step"]) for status, body in answers] == [(200, 1)] * 2
        assert await old.say("anna", "And again?") == (200, {**answers[0][1], "step": 2})
        status, where = await new.say("anna", "Anybody?", follow=False)
        assert (status, where) == (307, f"{old.url}/chats/anna")
        assert (await new.say("anna", "Anybody?"))[1]["step"] == 3
        old.kill()
        steps = [(await new.say(chat, "Still there?"))[1]["step"] for chat in ("anna", "bert")]
        assert steps == [4, 2]
    finally:
        for pod in pods:
            pod.kill()
