"""A saga whose sidecars are killed, in small; `python -m tests.e2e.saga` kills at each refund."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from examples.demo.processes import environment
from tests.e2e.real_sidecar import real_sidecar
from tests.e2e.saga import QUICK, open_bank, play, tools_of
from tests.engine.harness import Wire, until


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("honours_keys", "point"),
    [
        pytest.param(True, "applied", marks=pytest.mark.slow),
        pytest.param(False, "came", marks=pytest.mark.slow),
        (False, "applied"),
    ],
)
async def test_each_undo_takes_place_once_newest_first(
    tmp_path: Path, honours_keys: bool, point: str
) -> None:
    saga = await play(tmp_path, honours_keys=honours_keys, point=point, kills=2)
    assert saga.faults() == []
    assert len(saga.doubts) == (0 if honours_keys else 2)


async def test_with_an_irreversible_call_done_it_goes_forward_and_says_so(tmp_path: Path) -> None:
    async with open_bank(honours_keys=True) as bank:
        letters = {"upstream": bank.url, "private": True, "irreversible": True}
        tools = {**tools_of(bank), "letters": letters}
        async with real_sidecar(tmp_path, tools, **QUICK) as real, aiohttp.ClientSession() as http:
            agent = await Wire.connect(real.folder / "agent.sock")
            await agent.hello()
            opened = await agent.open(on_drain="compensate")
            for path in ("bank/charges", "letters/charges"):
                async with http.post(f"{opened.body['proxy']}/{path}", json={}) as answer:
                    assert answer.status == 201
            said = await cli(tmp_path, "compensate", "r1", status=1)
            assert "(letters) is done and irreversible: run r1 goes forward" in said
            real.child.send(signal.SIGTERM)
            await until(lambda: [push.type for push in agent.pushes] == ["drain"])
            await agent.commit(b"state")
            await agent.release("draining")
            assert await asyncio.to_thread(real.child.wait, 10) == 0
            assert "undo_forward" in real.said
            assert bank.asked == []
            await agent.drop()
        shown = json.loads(await cli(tmp_path, "show", "r1", "--json"))
        assert (shown["status"], shown["step"]) == ("ready", 1)
        assert [undo["state"] for undo in shown["undos"]] == ["", "irreversible"]


async def test_an_operator_sees_what_is_taken_back(tmp_path: Path) -> None:
    async with open_bank(honours_keys=True) as bank:
        async with real_sidecar(tmp_path, tools_of(bank), **QUICK) as real:
            agent, url = await real.agent()
            target = f"{url}/bank/charges"
            async with aiohttp.ClientSession() as http, http.post(target, json={}) as answer:
                assert answer.status == 201
            await agent.release()
            await agent.drop()
            assert "POST /refunds" in await cli(tmp_path, "show", "r1")
            assert "is_irreversible" not in await cli(tmp_path, "log", "r1")
            queue = ["--queue", "default", "--yes", "--then", "resubmit"]
            assert "it is compensating" in await cli(tmp_path, "compensate", *queue)
            await until(lambda: bank.refunded == ["ch_1"], timeout_s=10)
            listed = ""
            while "1 call taken back; r1-2 was made in its place" not in listed:
                listed = await cli(tmp_path, "runs", "--all")
        assert "compensating" in await cli(tmp_path, "log", "r1")


async def cli(folder: Path, *args: str, status: int = 0) -> str:
    """What a command says, on whichever stream."""
    store = (folder / "store").as_uri()
    command = [sys.executable, "-m", "coatcheck", *args, "--store", store]
    ran = await asyncio.to_thread(
        subprocess.run, command, env=environment(), capture_output=True, text=True, check=False
    )
    assert ran.returncode == status, ran.stderr
    return ran.stdout + ran.stderr
