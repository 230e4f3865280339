"""The whole table over HTTP: each class of call, each way an attempt can end, real sockets."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from coatcheck_sidecar.core import call
from coatcheck_sidecar.core.model import Effect
from coatcheck_sidecar.core.tool import HttpProbe, UpstreamKey
from coatcheck_sidecar.engine import errand
from tests.engine.harness import Yard
from tests.engine.proxying import (
    NO_HEADERS,
    Behaviour,
    Far,
    Got,
    Near,
    Seen,
    answer,
    near,
    raw,
    reset,
    tool_of,
)

WHOLE = b'{"whole":true}'


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "RETRY_DELAY_S", 0.01)
    monkeypatch.setattr(errand, "PROBE_RETRY_S", 0.01)


CLASSES: dict[str, dict[str, Any]] = {
    "R": {"effect": Effect.READ, "record": True},
    "I": {"effect": Effect.IDEMPOTENT},
    "K": {"effect": Effect.IDEMPOTENT, "upstream_key": UpstreamKey()},
    "P": {
        "effect": Effect.ONCE,
        "probe_settle_s": 0.0,
        "probe": HttpProbe(path="/sent?ref={key}", applied_when="/items/0"),
    },
    "U": {"effect": Effect.ONCE},
}


async def slow(_seen: Seen, _writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


CUT = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf", and_close=True)
EVENTS: dict[str, Behaviour] = {
    "reset": reset,
    "slow": slow,
    "cut": CUT,
    "408": answer(408),
    "409": answer(409),
    "425": answer(425),
    "429": answer(429, b"{}", "Retry-After: 0"),
    "500": answer(500),
    "503": answer(503),
    "401": answer(401),
    "302": answer(302, b"", "Location: /elsewhere"),
    "404": answer(404),
    "200": answer(200, WHOLE),
}


@dataclass(frozen=True)
class Then:
    """What the agent gets, under one key; how often it was sent, and probed."""

    first: int
    second: int
    sends: int
    probes: int = 0
    decision: str = "replayed"
    """Of the second answer."""


AGAIN = Then(200, 200, 2)
PROBED = Then(200, 200, 1, probes=1)
HELD = Then(424, 424, 1, decision="held")
OPEN = Then(401, 200, 2, decision="sent")


def final(status: int) -> Then:
    return Then(status, status, 1)


TABLE: dict[str, dict[str, Then]] = {
    # event:  R            I            K            P            U
    name: dict(zip("RIKPU", row, strict=True))
    for name, row in {
        "reset": (AGAIN, AGAIN, AGAIN, PROBED, HELD),
        "slow": (AGAIN, AGAIN, AGAIN, PROBED, HELD),
        "cut": (AGAIN, AGAIN, AGAIN, PROBED, Then(0, 424, 1, decision="held")),
        "408": (AGAIN, AGAIN, AGAIN, PROBED, HELD),
        "409": (final(409), final(409), AGAIN, final(409), final(409)),
        "425": (AGAIN,) * 5,
        "429": (AGAIN,) * 5,
        "500": (AGAIN, AGAIN, AGAIN, PROBED, final(500)),
        "503": (AGAIN, AGAIN, AGAIN, PROBED, HELD),
        "401": (OPEN,) * 5,
        "302": (final(302),) * 5,
        "404": (final(404),) * 5,
        "200": (final(200),) * 5,
    }.items()
}


async def ask(at: Near) -> Got:
    headers = {"Coatcheck-Key": "k"}
    try:
        return await at.ask("mail/send", json={"to": "a"}, headers=headers)
    except aiohttp.ClientPayloadError:
        return Got(0, NO_HEADERS, b"")


@pytest.mark.parametrize("class_", list(CLASSES))
@pytest.mark.parametrize("event", list(EVENTS))
async def test_the_table(yard: Yard, far: Far, class_: str, event: str) -> None:
    then = TABLE[event][class_]
    tools = tool_of(far, head_s=0.15 if event == "slow" else 5.0, **CLASSES[class_])
    at = await near(yard, tools)
    await at.agent()
    found = answer(200, json.dumps({"items": [{"id": 7}]}).encode())
    far.script = [EVENTS[event], *([found] if then.probes else [])]
    first = await ask(at)
    second = await ask(at)
    assert (first.status, second.status) == (then.first, then.second)
    assert second.decision == then.decision
    probes = [seen for seen in far.seen if seen.path.startswith("/base/sent")]
    assert (len(far.seen) - len(probes), len(probes)) == (then.sends, then.probes)
    if first.status and then.decision == "replayed":
        assert (second.body, second.headers.get("Location")) == (
            first.body,
            first.headers.get("Location"),
        )
    if probes:
        key = far.seen[0].headers["idempotency-key"]
        assert probes[0].path == f"/base/sent?ref={key}"
        assert first.json == {"id": 7}
    if len(far.seen) == 2 and not probes:
        keys = {seen.headers.get("idempotency-key") for seen in far.seen}
        assert len(keys) == 1
        assert (None in keys) == (class_ not in {"K", "P"})
