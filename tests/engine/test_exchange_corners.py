"""What answers meet on their way: no record, no patience, long events, a queue that is left."""

import asyncio
from typing import Any

import aiohttp
import pytest

from coatcheck_sidecar.core import call
from coatcheck_sidecar.core.model import Effect
from coatcheck_sidecar.core.tool import UpstreamKey
from coatcheck_sidecar.engine import answers
from coatcheck_sidecar.engine import outside as outside_module
from tests.engine.harness import Yard, until
from tests.engine.proxying import (
    STREAM_HEAD,
    Far,
    Seen,
    answer,
    gate,
    near,
    raw,
    reset,
    stream,
    tool_of,
)

KEYED: dict[str, Any] = {"effect": Effect.IDEMPOTENT, "upstream_key": UpstreamKey()}
RECORDED: dict[str, Any] = {"effect": Effect.READ, "record": True}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "RETRY_DELAY_S", 0.01)
    monkeypatch.setattr(outside_module, "POLL_S", 0.01)


@pytest.mark.parametrize("tool", [RECORDED, KEYED])
async def test_what_cannot_be_recorded_never_looks_complete(
    yard: Yard, far: Far, tool: dict[str, Any]
) -> None:
    at = await near(yard, tool_of(far, **tool))
    agent = await at.agent()
    opened = asyncio.Event()

    async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        await stream(writer, b"data: 1\n\n", b"data: [DONE]\n\n", end=False)
        await opened.wait()
        await stream(writer)

    far.script = [behave]
    async with at.session.post(at.urls["r1"] + "/mail/x", json={}) as response:
        assert await response.content.readany() == b"data: 1\n\n"
        await agent.finish()
        opened.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            assert b"DONE" not in await response.content.read()


async def test_a_passed_read_is_tried_again_while_there_is_patience(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far, effect=Effect.READ, patience_s=0.5))
    await at.agent()
    far.script = [reset, answer(503), answer(429, b"{}", "Retry-After: 0")]
    got = await at.ask("mail/x")
    assert (got.status, got.json) == (200, {"n": 4})
    far.script = [answer(429, b'{"no":1}', "Retry-After: 60")]
    got = await at.ask("mail/x")
    assert (got.status, got.json, got.headers["Retry-After"]) == (429, {"no": 1}, "60")
    far.script = [reset] * 50
    got = await at.ask("mail/x")
    assert (got.status, got.json["reason"]) == (502, "lost")


async def test_an_error_too_long_to_wait_for_is_cut(
    yard: Yard, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "ERROR_BYTES_MAX", 1_000)
    at = await near(yard, tool_of(far, patience_s=0.0, effect=Effect.IDEMPOTENT))
    await at.agent()
    far.script = [answer(500, b"x" * 5_000), answer(401, b"x" * 5_000)]
    for _ in range(2):
        with pytest.raises(aiohttp.ClientPayloadError):
            await at.ask("mail/x", json={})
    assert (await at.ask("mail/x", json={})).status == 200


async def test_an_event_longer_than_what_is_held_goes_out_in_pieces(
    yard: Yard, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "HELD_BYTES_MAX", 1_000)
    at = await near(yard, tool_of(far, **RECORDED))
    await at.agent()
    pieces = [b"data: " + b"x" * 600] + [b"y" * 600] * 4 + [b"\n\n"]

    async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        await stream(writer, *pieces)

    far.script = [behave]
    async with at.session.post(at.urls["r1"] + "/mail/x", json={}) as response:
        first = await response.content.readany()
        assert 0 < len(first) < 3_000
        assert first + await response.content.read() == b"".join(pieces)


async def test_however_many_pings_come_the_last_event_stays(
    yard: Yard, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "HELD_BYTES_MAX", 1_000)
    at = await near(yard, tool_of(far, **RECORDED))
    await at.agent()
    opened = asyncio.Event()
    long, pings = [b"data: " + b"x" * 600, b"y" * 600, b"\n\n"], [b": ping\n\n" * 200] * 2

    async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        await stream(writer, *long, *pings, end=False)
        await opened.wait()
        await stream(writer)

    far.script = [behave]
    async with at.session.post(at.urls["r1"] + "/mail/x", json={}) as response:
        first = await response.content.readexactly(606)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await response.content.readany()
        opened.set()
        assert first + await response.content.read() == b"".join([*long, *pings])


async def test_whoever_left_the_queue_gives_its_turn_on(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far, effect=Effect.READ, concurrency=1))
    await at.agent()
    opened, late = gate(answer(200))
    far.script = [late]
    first = asyncio.ensure_future(at.ask("mail/x"))
    await until(lambda: far.seen)
    second = asyncio.ensure_future(at.ask("mail/x"))
    third = asyncio.ensure_future(at.ask("mail/x"))
    await asyncio.sleep(0.05)
    second.cancel()
    await asyncio.sleep(0.05)
    opened.set()
    assert {(await first).status, (await third).status} == {200}
    assert len(far.seen) == 2


@pytest.mark.parametrize(("status", "became"), [(200, "took place"), (422, "was refused with 422")])
async def test_of_an_answer_that_was_cut_its_status_is_told(
    yard: Yard, far: Far, status: int, became: str
) -> None:
    at = await near(yard, tool_of(far))
    await at.agent()
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    far.script = [raw(head.encode() + b'{"n"', and_close=True)]
    with pytest.raises(aiohttp.ClientError):
        await at.ask("mail/x", json={})
    again = await at.ask("mail/x", json={})
    assert (again.status, again.json["reason"]) == (424, "response_truncated")
    assert again.json["upstream_status"] == status
    assert became in again.json["detail"]
    assert len(far.seen) == 1
