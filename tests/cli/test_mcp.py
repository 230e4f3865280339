"""`coatcheck mcp`: a real server behind the wrapper, a real sidecar's proxy behind that."""

import asyncio
import io
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from coatcheck_sidecar.cli import mcp_wrapper
from coatcheck_sidecar.cli.mcp import command, name_of
from coatcheck_sidecar.cli.mcp_wrapper import wrap
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.tasks import TaskSet
from tests.engine.conftest import yard as yard
from tests.engine.harness import Wire, Yard, until
from tests.engine.proxying import Near, near

SERVER = """
import json, os, sys
made = open(sys.argv[1], "a")
for line in sys.stdin:
    said = json.loads(line)
    if said.get("method") == "tools/call":
        name = said["params"]["name"]
        made.write(name + "\\n"); made.flush()
        if name == "crash":
            os._exit(3)
        if name == "never":
            continue
    if "id" in said:
        answer = {"jsonrpc": "2.0", "id": said["id"], "result": {"content": []}}
        print(json.dumps(answer), flush=True)
"""


class Said(io.RawIOBase):
    """Standard output, as lines of JSON."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    @property
    def buffer(self) -> "Said":
        return self

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.lines.append(json.loads(bytes(data)))
        return len(data)


@dataclass
class Client:
    """An agent's MCP client, at the wrapper's standard input and output."""

    at: Near
    made: Path
    stdin: Any
    said: Said
    argv: list[str]
    tasks: TaskSet
    started: list[asyncio.Task[int]] = field(default_factory=list)

    def start(self, url: str = "") -> asyncio.Task[int]:
        place = f"{url or self.at.urls['r1']}/files?server=s"
        started = self.tasks.start(wrap(place, self.argv), name="wrapper")
        self.started.append(started)
        return started

    def send(self, method: str, number: int | None = 1, **params: Any) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        more = {} if number is None else {"id": number}
        self.write(json.dumps(message | more).encode())

    def call(self, name: str, number: int = 1) -> None:
        self.send("tools/call", number, name=name, arguments={})

    def write(self, line: bytes) -> None:
        self.stdin.write(line + b"\n")
        self.stdin.flush()

    async def hear(self, count: int = 1) -> Any:
        await until(lambda: len(self.said.lines) >= count)
        return self.said.lines[count - 1]


def outcome(message: Any) -> str:
    return str(message["result"]["_meta"]["dev.coatcheck/outcome"]["outcome"])


@pytest.fixture
async def at(yard: Yard) -> AsyncIterator[Near]:
    made = await near(yard, {"files": Tool(name="files", mcp="stdio:")})
    yield made
    await made.die()


@pytest.fixture
async def agent(at: Near) -> AsyncIterator[Wire]:
    made = await at.agent()
    yield made
    await made.drop()


@pytest.fixture
async def client(
    at: Near, agent: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Client]:
    reading, writing = os.pipe()
    script, made = tmp_path / "server.py", tmp_path / "made"
    script.write_text(SERVER)
    made.touch()
    said = Said()
    streams = SimpleNamespace(stdin=os.fdopen(reading, "rb"), stdout=said)
    monkeypatch.setattr(mcp_wrapper, "sys", streams)  # pytest captures the real ones
    argv, stdin = [sys.executable, str(script), str(made)], os.fdopen(writing, "wb")
    failed: list[BaseException] = []
    tasks = TaskSet(lambda _, error: failed.append(error))
    found = Client(at, made, stdin, said, argv, tasks)
    yield found
    if not stdin.closed:
        stdin.close()
    await asyncio.gather(*found.started, return_exceptions=True)
    assert not failed


async def test_all_passes_and_calls_are_recorded(client: Client, at: Near, yard: Yard) -> None:
    done = client.start()
    client.send("ping", 7)
    assert (await client.hear())["id"] == 7
    client.send("notifications/initialized", None)
    client.send("tools/list", 8)
    assert (await client.hear(2))["id"] == 8
    client.call("write", 9)
    assert (await client.hear(3))["id"] == 9
    client.call("write", 10)
    assert (await client.hear(4))["id"] == 10
    client.write(b"")
    client.write(b"{")
    assert (await client.hear(5))["error"]["code"] == -32700
    client.stdin.close()
    assert await done == 0
    assert client.made.read_text() == "write\n"
    (call,) = (await yard.log()).state.calls.values()
    assert call.tool == "files/write"


async def test_a_server_that_dies_in_a_call(client: Client) -> None:
    done = client.start()
    client.call("crash")
    assert outcome(await client.hear()) == "unknown"
    assert await done == 3


async def test_an_agent_that_goes_leaves_time_for_its_call(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_wrapper, "LAST_CALLS_S", 0.3)
    monkeypatch.setattr(mcp_wrapper, "STOP_S", 0.3)
    done = client.start()
    client.call("never")
    await until(lambda: client.made.read_text() == "never\n")
    client.stdin.close()
    assert await done == 0
    assert outcome(await client.hear()) == "unknown"


async def test_without_a_sidecar_nothing_is_made(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_wrapper, "LINK_WAIT_S", 0.2)
    client.start("http://127.0.0.1:9/" + "0" * 32)
    client.send("ping", 7)
    assert (await client.hear())["id"] == 7
    client.call("write")
    assert outcome(await client.hear(2)) == "not_applied"
    assert client.made.read_text() == ""


# The command


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """What would have been wrapped."""
    found: list[tuple[str, list[str]]] = []

    async def note(url: str, args: list[str]) -> int:
        found.append((url, args))
        return 5

    monkeypatch.setattr(mcp_wrapper, "wrap", note)
    return found


def test_the_command_line(ended: list[tuple[str, list[str]]]) -> None:
    env = {"COATCHECK_PROXY_URL": "http://127.0.0.1:7070/t/", "COATCHECK_MODE": ""}
    result = CliRunner().invoke(command, ["--tool", "files", "--", "sh", "-c", "x y"], env=env)
    assert result.exit_code == 5
    ((url, args),) = ended
    assert url == "http://127.0.0.1:7070/t/files?server=sh-x-y"
    assert args[1:] == ["-c", "x y"]


def test_whose_calls_they_are_must_be_known(ended: list[tuple[str, list[str]]]) -> None:
    env = {"COATCHECK_PROXY_URL": None, "COATCHECK_MODE": None}
    result = CliRunner().invoke(command, ["--", "sh"], env=env)
    assert (result.exit_code, ended) == (64, [])
    assert "COATCHECK_PROXY_URL" in result.output


def test_no_such_command(ended: list[tuple[str, list[str]]]) -> None:
    result = CliRunner().invoke(command, ["--", "no-such-command"])
    assert (result.exit_code, ended) == (127, [])


def test_switched_off_the_server_is_started_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    monkeypatch.setattr(os, "execv", lambda *args: found.append(args))
    env = {"COATCHECK_MODE": "off", "COATCHECK_PROXY_URL": None}
    CliRunner().invoke(command, ["--", "sh", "-c", "true"], env=env)
    assert found[0][1] == ["sh", "-c", "true"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["npx", "-y", "@scope/server-files", "/data"], "npx-server-files"),
        (["/usr/bin/python", "-m", "my.server"], "python-my.server"),
        (["server"], "server"),
        (["a" * 80], "a" * 64),
    ],
)
def test_a_servers_name(argv: list[str], expected: str) -> None:
    assert name_of(argv) == expected
