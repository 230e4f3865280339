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
from examples.demo.processes import free_ports
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
SETTINGS: dict[str, dict[str, Any]] = {
    "slow": {"head_s": 0.15},
    "shed": {"sheds_by_503": True},
    "too big": {"record_bytes_max": 1_024},
}
"""Of the tool, where an event needs more than the class of its calls."""
SAVES: dict[str, Any] = {"upstream_key": UpstreamKey(saves=frozenset({"2xx", "4xx", "5xx"}))}


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
    "shed": answer(503, b"{}", "Retry-After: 0"),
    "busy": answer(503, b"{}", "Retry-After: 0"),
    "421": answer(421),
    "500 saved": answer(500),
    "too big": answer(200, b"[" + b"1," * 1_000 + b"1]"),
    "401": answer(401),
    "403": answer(403),
    "407": answer(407),
    "400": answer(400),
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
REFETCHED = Then(200, 200, 2, decision="sent")
LOST = Then(200, 424, 1, decision="held")
"""It took place, and there is no answer to give again."""


def final(status: int) -> Then:
    return Then(status, status, 1)


def denied(status: int) -> Then:
    return Then(status, 200, 2, decision="sent")


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
        "shed": (AGAIN,) * 5,
        "busy": (AGAIN, AGAIN, AGAIN, PROBED, HELD),
        "421": (AGAIN,) * 5,
        "500 saved": (AGAIN, AGAIN, final(500), PROBED, final(500)),
        "too big": (REFETCHED, REFETCHED, LOST, LOST, LOST),
        "401": (denied(401),) * 5,
        "403": (denied(403),) * 5,
        "407": (denied(407),) * 5,
        "400": (final(400),) * 5,
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
    saves = SAVES if event == "500 saved" and class_ == "K" else {}
    tools = tool_of(far, **{"head_s": 5.0, **CLASSES[class_], **SETTINGS.get(event, {}), **saves})
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


@pytest.mark.parametrize("class_", list(CLASSES))
async def test_what_never_left_goes_when_there_is_somebody(
    yard: Yard, far: Far, class_: str
) -> None:
    """Nothing listens there: the agent is told so, nothing is in doubt, and it may ask again."""
    (port,) = free_ports(1)
    away = Far(port=port)
    at = await near(yard, tool_of(away, patience_s=0.1, **CLASSES[class_]))
    await at.agent()
    first = await ask(at)
    assert (first.status, first.decision) == (502, "refused")
    assert first.json["reason"] == "not_sent"
    server = await asyncio.start_server(far.serve, "127.0.0.1", port)
    second = await ask(at)
    assert (second.status, second.decision) == (200, "sent")
    assert len(far.seen) == 1
    server.close()
