"""An agent that would rather wait for an operator's decision than get the 424."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.real_sidecar import real_sidecar
from tests.e2e.saga import QUICK
from tests.e2e.test_saga import cli
from tests.engine.proxying import answer, far_server, reset


@pytest.mark.timeout(60)
@pytest.mark.parametrize("header", [{"Coatcheck-Wait": "40"}, {"Prefer": "wait=40"}])
@pytest.mark.parametrize(
    ("verdict", "decision", "value", "sends"),
    [
        (("--applied", "--value", '{"id": 7}'), "replayed", {"id": 7}, 1),
        (("--retry", "--force"), "sent", {"id": 8}, 2),
        ((), "held", None, 1),
    ],
)
async def test_who_waits_gets_what_the_operator_decided(
    tmp_path: Path,
    header: dict[str, str],
    verdict: tuple[str, ...],
    decision: str,
    value: dict[str, Any] | None,
    sends: int,
) -> None:
    if not verdict:  # nobody decides: the time is soon over
        header = {name: said.replace("40", "0.5") for name, said in header.items()}
    async with far_server() as far, aiohttp.ClientSession() as http:
        tools = {"mail": {"upstream": far.url, "private": True, "effect": "once"}}
        async with real_sidecar(tmp_path, tools, **QUICK) as real:
            wire, url = await real.agent()
            far.script = [reset, answer(201, b'{"id": 8}')]

            async def ask() -> tuple[int, str, Any]:
                async with http.post(f"{url}/mail/x", json={}, headers=header) as got:
                    return (
                        got.status,
                        got.headers["Coatcheck-Decision"],
                        await got.json(content_type=None),
                    )

            asking = asyncio.ensure_future(ask())
            if verdict:
                while "mail" not in (listed := await cli(tmp_path, "doubts", "r1", "--json")):
                    assert not asking.done()
                number = next(n for n in range(1, 9) if f'"number": {n}' in listed)
                assert not asking.done()
                await cli(tmp_path, "resolve", "r1", str(number), *verdict, "--by", "ann")
            status, decided, said = await asking
            await wire.drop()
        assert decided == decision
        assert (status, said.get("code")) == (424, "in_doubt") if value is None else said == value
        assert len(far.seen) == sends
