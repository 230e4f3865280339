"""The demo's judge must be above suspicion: its payments server, its ledger, its model."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI

from examples.demo.ledger import Charge, Ledger, audit, read_ledger
from examples.demo.model import answer, completion
from examples.demo.processes import LOOPBACK, Child, free_ports, python
from examples.demo.scenario import wait_for_http
from examples.demo.witness import Saying, What, lost_checkpoints, steps_again

ASKED: Any = {"role": "user", "content": "Charge these:\ninv-1/1: 250 cents\ninv-1/2: 75 cents"}
TOOLS: Any = [
    {"type": "function", "function": {"name": "charge", "parameters": {"type": "object"}}}
]


class Server:
    """One of the demo's servers."""

    def __init__(self, folder: Path, name: str, *args: str) -> None:
        self.port = free_ports(1)[0]
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._argv = python(f"examples.demo.{name}", "--port", str(self.port), *args)
        self._log = folder / f"{name}.log"
        self.child = self.start()

    def start(self) -> Child:
        self.child = Child(self._argv, env={}, log=self._log)
        return self.child


@pytest.fixture(params=["honour", "ignore"])
def keys(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def payments(tmp_path: Path, keys: str) -> Iterator[Server]:
    server = Server(
        tmp_path, "payments", "--ledger", str(tmp_path / "ledger.jsonl"), "--keys", keys
    )
    yield server
    server.child.kill()


async def charge(url: str, ref: str, *, cents: int = 250, key: str = "k-1") -> tuple[int, str]:
    headers = {"Idempotency-Key": key}
    body = {"ref": ref, "cents": cents}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/charges", json=body, headers=headers) as reply,
    ):
        return reply.status, await reply.text()


async def look_up(url: str, ref: str) -> list[object]:
    params = {"ref": ref}
    async with aiohttp.ClientSession() as http, http.get(f"{url}/charges", params=params) as reply:
        return list((await reply.json())["charges"])


async def test_keys_are_honoured_or_not(payments: Server, keys: str, tmp_path: Path) -> None:
    await wait_for_http(f"{payments.url}/charges?ref=x")
    answers = await asyncio.gather(*(charge(payments.url, "inv-1/1") for _ in range(3)))
    payments.child.kill()
    payments.start()
    await wait_for_http(f"{payments.url}/charges?ref=x")
    answers.append(await charge(payments.url, "inv-1/1"))
    made = read_ledger(tmp_path / "ledger.jsonl")
    assert len(made) == len({text for _, text in answers}) == (1 if keys == "honour" else 4)
    assert len(await look_up(payments.url, "inv-1/1")) == len(made)
    status, _ = await charge(payments.url, "inv-1/2")
    assert status == (422 if keys == "honour" else 201)


async def test_a_client_that_is_gone_was_charged_nevertheless(
    payments: Server, keys: str, tmp_path: Path
) -> None:
    await wait_for_http(f"{payments.url}/charges?ref=x")
    _, writer = await asyncio.open_connection(LOOPBACK, payments.port)
    body = b'{"ref": "inv-9/1", "cents": 1}'
    head = f"POST /charges HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    await writer.drain()
    writer.transport.abort()
    async with asyncio.timeout(5):
        while not read_ledger(tmp_path / "ledger.jsonl"):  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.02)


def test_a_ledger_drops_the_line_that_a_kill_cut(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    first = ledger.add("a/1", 5, key=None)
    ledger.close()
    with path.open("ab") as file:
        file.write(b'{"id": "ch_00002", "ref": "a/')
    again = Ledger(path)
    second = again.add("a/2", 6, key=None)
    again.close()
    assert read_ledger(path) == [first, second]


def test_an_audit_finds_what_is_wrong() -> None:
    made = [Charge(f"ch_{at}", ref, cents, None) for at, (ref, cents) in enumerate(
        [("a/1", 5), ("a/2", 6), ("a/2", 6), ("a/3", 8), ("b/1", 1)]
    )]  # fmt: skip
    found = audit(made, {"a/1": 5, "a/2": 6, "a/3": 7, "a/4": 9})
    assert (found.missing, found.doubled, found.stray) == (("a/4",), ("a/2",), ("a/3", "b/1"))
    assert not found.is_clean
    assert audit(made[:1], {"a/1": 5}).is_clean


def saying(what: What, step: int, *, disk: str = "d1", level: str = "") -> Saying:
    return Saying(what, "r", step, 1, disk, level)


def test_a_witness_finds_lost_checkpoints() -> None:
    node = [saying(What.OPENED, 1), saying(What.ACKNOWLEDGED, 1, level="node")]
    remote = [saying(What.OPENED, 1), saying(What.ACKNOWLEDGED, 1, level="remote")]
    assert not lost_checkpoints([*node, saying(What.OPENED, 2)])
    assert not lost_checkpoints([*node, saying(What.OPENED, 1, disk="d2")])
    assert lost_checkpoints([*node, saying(What.OPENED, 1)])
    assert not lost_checkpoints([*remote, saying(What.OPENED, 2, disk="d2")])
    assert lost_checkpoints([*remote, saying(What.OPENED, 1, disk="d2")])
    # What the second disk never had is not asked of the first one when the run comes back.
    back = [*node, saying(What.OPENED, 1, disk="d2"), saying(What.OPENED, 1)]
    assert not lost_checkpoints(back)
    assert steps_again([saying(What.BEGAN, 1), saying(What.BEGAN, 1), saying(What.BEGAN, 2)]) == 1


def test_the_model_asks_for_the_next_line_until_all_are_done() -> None:
    messages = [ASKED]
    for ref in ("inv-1/1", "inv-1/2"):
        request = {"messages": messages, "tools": TOOLS}
        message, reason = answer(request)
        assert reason == "tool_calls"
        assert ref in message["tool_calls"][0]["function"]["arguments"]
        assert completion(request) == completion(request)
        tool = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "ch_1"}
        messages = [*messages, message, tool]
    message, reason = answer({"messages": messages, "tools": TOOLS})
    assert (message["content"], reason) == ("Charged 2 lines, 3.25 in all.", "stop")


async def test_the_model_speaks_the_api_streaming_and_not(tmp_path: Path) -> None:
    server = Server(tmp_path, "model", "--delay-s", "0")
    await wait_for_http(f"{server.url}/count")
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        whole = await client.chat.completions.create(
            model="demo",
            messages=[ASKED],
            tools=TOOLS,
        )
        arguments = name = ""
        stream = await client.chat.completions.create(
            model="demo",
            messages=[ASKED],
            tools=TOOLS,
            stream=True,
            stream_options={"include_usage": True},
        )
        usage = None
        async for chunk in stream:
            usage = chunk.usage or usage
            for call in chunk.choices[0].delta.tool_calls or [] if chunk.choices else []:
                assert call.function is not None
                name = call.function.name or name
                arguments += call.function.arguments or ""
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/count") as reply:
        assert await reply.json() == {"completions": 2, "distinct": 1}
    server.child.send(signal.SIGTERM)
    assert server.child.wait(5) == 0
    assert whole.choices[0].message.tool_calls is not None
    function = whole.choices[0].message.tool_calls[0].model_dump()["function"]
    assert (function["name"], function["arguments"]) == (name, arguments)
    assert usage is not None
    assert usage == whole.usage
