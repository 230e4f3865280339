"""A model that asks for the same charge in other words, after one failed: nothing fires twice.

Users' commonest duplicate. The bank charges and then fails; it neither honours keys nor can be
asked, and the tool has no business key. Live, and after a SIGKILL of sidecar and agent, in another
pod. What was charged is told by the bank's ledger.
"""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from examples.demo.ledger import read_ledger
from examples.demo.processes import LOOPBACK, Child, free_ports, python
from examples.demo.scenario import wait_for_http
from tests.e2e.reworded_servers import WORDINGS
from tests.e2e.sdk_world import LONG_S, get_json

pytestmark = pytest.mark.timeout(120)
HOWS: Final = ("error", "broken", "hang")
IDENTITIES: Final = ("content", "positional")
STEPS: Final = ("one", "many")
MODELS: Final = ("model", "forgetful")
"""Completions are recorded, or each life buys its own: in other words."""
SAME_WORDS: Final = 2
"""Place in `WORDINGS` of what is the first one, in another order."""


class World:
    """The servers, and pods with a data folder each; runs are named after their case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (self.port,) = free_ports(1)
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.ledger = folder / "ledger.jsonl"
        (folder / "store").mkdir()
        argv = python("tests.e2e.reworded_servers", "--port", str(self.port))
        argv += ["--ledger", str(self.ledger)]
        self.children = [Child(argv, env={}, log=folder / "servers.log")]
        tools: dict[str, dict[str, Any]] = {
            name: {"upstream": f"{self.url}/v1", "effect": "read", "record": name == "model"}
            for name in MODELS
        }
        for how, identity in itertools.product(HOWS, IDENTITIES):
            upstream = f"{self.url}/{how}"
            tools[f"{how}-{identity}"] = {"upstream": upstream, "identity": identity}
        for tool in tools.values():
            tool["private"] = True
        # JSON is YAML.
        (folder / "config.yaml").write_text(json.dumps({"tools": tools}))

    async def pod(self, name: str) -> Child:
        listen, admin = free_ports(2)
        env = {
            "COATCHECK_CONFIG": str(self.folder / "config.yaml"),
            "COATCHECK_DATA": str(self.folder / name),
            "COATCHECK_SOCKET": str(self.folder / f"{name}.sock"),
            "COATCHECK_STORE": (self.folder / "store").as_uri(),
            "COATCHECK_LISTEN": f"{LOOPBACK}:{listen}",
            "COATCHECK_ADMIN_LISTEN": f"{LOOPBACK}:{admin}",
            "COATCHECK_LEASE_S": "3",
            "COATCHECK_HEARTBEAT_S": "0.5",
            "COATCHECK_ORPHAN_WAIT_S": "0.5",
        }
        sidecar = Child(python("coatcheck", "sidecar"), env=env, log=self.folder / f"{name}.log")
        self.children.append(sidecar)
        await wait_for_http(f"{self.url}/arrivals")
        await wait_for_http(f"http://{LOOPBACK}:{admin}/readyz")
        return sidecar

    def agents(self, pod: str, cases: Iterable[tuple[str, ...]]) -> dict[str, Child]:
        made = {}
        for how, identity, steps, model in cases:
            run = f"{how}-{identity}-{steps}-{model}"
            argv = python("tests.e2e.reworded_agent", run, f"{how}-{identity}", model, steps)
            env = {"COATCHECK_SOCKET": str(self.folder / f"{pod}.sock")}
            made[run] = Child(argv, env=env, log=self.folder / f"{run}-{pod}.log")
        self.children += made.values()
        return made

    async def until_charged(self, runs: Iterable[str]) -> None:
        wanted = set(runs)
        async with asyncio.timeout(LONG_S):
            while set(self.charges()) < wanted:  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.05)

    def charges(self) -> Counter[str]:
        return Counter(charge.ref for charge in read_ledger(self.ledger))

    def arrivals(self) -> dict[str, int]:
        return dict(get_json(f"{self.url}/arrivals"))

    def close(self) -> None:
        for child in self.children:
            child.kill()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


async def calls_of(agent: Child) -> list[dict[str, Any]]:
    """What each charge came to, when the agent is over; its model has said all that it can."""
    assert await asyncio.to_thread(agent.wait, LONG_S) == 0, agent.last_words(3_000)
    said = agent.last_words(100_000).splitlines()
    assert said[-1] == "done: I give up."
    return [json.loads(line.split(maxsplit=2)[2]) for line in said if line.startswith("call ")]


def judge_held(found: dict[str, Any], *, reason: str) -> None:
    """Not fired, and it says because of which call."""
    body = found["body"]
    assert (found["status"], found["decision"]) == (424, "held"), found
    assert body["reason"] == reason, body
    (listed,) = body["calls"]
    assert listed["first_sent_ms"], body


async def test_live_another_wording_is_held(world: World) -> None:
    await world.pod("pod-1")
    cases = list(itertools.product(("error", "broken"), IDENTITIES, STEPS, MODELS[:1]))
    agents = world.agents("pod-1", cases)
    for (how, _, steps, _), (run, agent) in zip(cases, agents.items(), strict=True):
        first, *others = await calls_of(agent)
        assert len(others) == len(WORDINGS) - 1
        if how == "error":
            assert (first["status"], first["decision"]) == (500, "sent"), first
        else:
            judge_held(first, reason="lost")
        for place, found in enumerate(others, start=1):
            is_same = place == SAME_WORDS and steps == "one"
            if is_same and how == "error":
                assert (found["status"], found["decision"]) == (500, "replayed"), (run, found)
            else:
                judge_held(found, reason="lost" if is_same else "unresolved_predecessor")
    runs = dict.fromkeys(agents, 1)
    assert world.charges() == runs
    assert world.arrivals() == runs


async def test_after_a_kill_another_wording_in_another_pod_is_held(world: World) -> None:
    first = await world.pod("pod-1")
    cases = list(itertools.product(("hang",), IDENTITIES, STEPS, MODELS))
    killed = world.agents("pod-1", cases)
    await world.until_charged(killed)
    first.kill()
    for agent in killed.values():
        agent.kill()
    await world.pod("pod-2")
    agents = world.agents("pod-2", cases)
    for (_, _, steps, model), agent in zip(cases, agents.values(), strict=True):
        found = await calls_of(agent)
        begun = len(WORDINGS) - len(found)
        assert begun == (model == "forgetful")
        for place, one in enumerate(found, start=begun):
            is_same = place == 0 or (place == SAME_WORDS and steps == "one")
            is_diverged = place == begun and not is_same
            other = "replay_divergence" if is_diverged else "unresolved_predecessor"
            judge_held(one, reason="restarted" if is_same else other)
    runs = dict.fromkeys(agents, 1)
    assert world.charges() == runs
    assert world.arrivals() == runs
