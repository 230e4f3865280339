"""What agents wait for when a sidecar starts, and what comes after."""

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import coatcheck_sidecar.__main__ as page
from coatcheck.wire import FrameReader, encode_message
from coatcheck_sidecar.config import load_config
from tests.cli.test_processes import WAIT_S, coatcheck, free_port, settings

HELLO = {"protocol": [1, 1], "client": "test", "incarnation": bytes(16)}
LISTENING = """
import os, signal, sys
from coatcheck_sidecar.cli.main import main
from coatcheck_sidecar.servers.control import ControlServer

start = ControlServer.start

async def start_and_tell(self):
    await start(self)
    print(*{module.partition(".")[0] for module in sys.modules}, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

ControlServer.start = start_and_tell
main(["sidecar"])
"""
LATE = {"aiohttp", "prometheus_client", "structlog"}
"""Imported when agents are served already."""
NEVER = {"click", "difflib", "obstore", "pydantic", "rich", "yaml"}
"""Not for a sidecar with a directory as store, and neither flags nor a file."""


def test_no_agent_waits_for_what_it_does_not_need(tmp_path: Path) -> None:
    env = settings(tmp_path, free_port()) | {"COATCHECK_STORE": (tmp_path / "store").as_uri()}
    ran = subprocess.run(
        [sys.executable, "-c", LISTENING], env=env, capture_output=True, text=True, check=False,
        timeout=WAIT_S,
    )  # fmt: skip
    loaded = set(ran.stdout.split())
    assert {"asyncio", "msgpack", "uvloop", "coatcheck_sidecar"} <= loaded, ran.stderr
    assert not (LATE | NEVER) & loaded
    # A SIGTERM in the middle of the start is kept for its end.
    assert ran.returncode == 0, ran.stderr
    events = [json.loads(line)["event"] for line in ran.stderr.splitlines()]
    assert events.index("started") < events.index("drain")


def test_flags_are_read_as_the_environment_is(tmp_path: Path) -> None:
    ran = coatcheck("sidecar", "--lease-s", "1", env=settings(tmp_path, free_port()))
    alone = coatcheck("sidecar", env=settings(tmp_path, free_port()) | {"COATCHECK_LEASE_S": "1"})
    assert (ran.returncode, alone.returncode) == (64, 64)
    assert ran.stderr.replace("flag: --lease-s", "environment: COATCHECK_LEASE_S") == alone.stderr


async def test_agents_are_answered_while_the_rest_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config({}, environ=settings(tmp_path, free_port()))
    is_listening, is_answered = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def import_slowly() -> None:
        loop.call_soon_threadsafe(is_listening.set)
        assert is_answered.wait(WAIT_S)

    async def greet() -> None:
        await is_listening.wait()
        reader, writer = await asyncio.open_unix_connection(str(config.socket))
        writer.writelines(encode_message("hello", 1, HELLO))
        assert FrameReader().feed(await reader.read(65_536))
        is_answered.set()
        writer.close()

    monkeypatch.setattr(page, "_import_the_rest", import_slowly)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        group.create_task(greet())
        async with page.running(config) as parts:
            assert is_answered.is_set()
            assert parts.admin.port
