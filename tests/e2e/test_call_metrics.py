"""What a scraper reads of calls: each asking once, by what came of it."""

import asyncio
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.real_sidecar import real_sidecar
from tests.engine.proxying import Far, answer, far_server, reset


def tools(far: Far) -> dict[str, dict[str, Any]]:
    common = {"upstream": far.url, "private": True, "patience_s": 0.3}
    return {
        "read": {**common, "effect": "read"},
        "chat": {**common, "effect": "read", "record": True},
        "mail": {**common, "effect": "once", "key": "/id"},
    }


def counted(text: str, name: str) -> dict[str, float]:
    """A family's samples by their labels, as they stand in the text."""
    found = re.findall(rf"^coatcheck_{name}{{(.*)}} (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


@pytest.mark.timeout(60)
async def test_each_asking_is_counted_once_by_what_came_of_it(tmp_path: Path) -> None:
    async with far_server() as far, real_sidecar(tmp_path, tools(far)) as real:
        wire, url = await real.agent()

        async def ask(tool: str, number: int, **more: Any) -> tuple[int, str]:
            body = {"id": number, **more}
            async with session.post(f"{url}/{tool}/x", json=body) as response:
                await response.read()
                return response.status, response.headers.get("Coatcheck-Decision", "")

        async with aiohttp.ClientSession() as session:
            assert await ask("read", 1) == (200, "sent")
            assert await ask("chat", 1) == (200, "sent")
            assert await ask("mail", 1) == (200, "sent")
            assert await ask("mail", 1) == (200, "replayed")
            assert await ask("mail", 1, other="words") == (422, "refused")
            far.script = [reset]
            assert await ask("mail", 2) == (424, "held")
            assert await ask("mail", 2) == (424, "held")
            assert await ask("mail", 3) == (200, "sent")  # another business key
            await wire.drop()
            await asyncio.sleep(0.2)
            wire, url = await real.agent()
            far.script = [answer(200, b"{}")]
            assert await ask("mail", 4) == (424, "held")
            await wire.drop()
        text = real.metrics().decode()
    assert counted(text, "calls_total") == {
        'decision="passed",tool="read"': 1,
        'decision="sent",tool="chat"': 1,
        'decision="sent",tool="mail"': 2,
        'decision="replayed",tool="mail"': 1,
        'decision="refused",tool="mail"': 1,
        'decision="held",tool="mail"': 3,
    }
    assert counted(text, "calls_held_total") == {
        'reason="lost",tool="mail"': 2,
        'reason="replay_divergence",tool="mail"': 1,
    }
    added = counted(text, "call_added_seconds_count")
    assert added == {'decision="sent"': 3, 'decision="replayed"': 1}
