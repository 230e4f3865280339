"""The listener: who is let in, what is refused, what passes unchanged, and how big it may be."""

import asyncio
import gzip
import hashlib
import io
import json
import resource
from typing import Any

import pytest

from coatcheck_sidecar.core.model import Effect
from coatcheck_sidecar.stores.memory_journal import MemoryJournal
from tests.engine.harness import Yard, until
from tests.engine.proxying import Far, Near, Seen, answer, near, raw, tool_of

MIB = 1 << 20
RECORDED: dict[str, Any] = {"effect": Effect.READ, "record": True}


async def say(at: Near, data: bytes) -> tuple[int, bytes]:
    """Bytes as they are to the port; status and the rest of the answer until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    writer.write(data)
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        body = b""
        if b"Content-Length: " in head:
            body = await reader.readexactly(int(head.split(b"Content-Length: ")[1].split()[0]))
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body


async def test_who_is_not_let_in(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far))
    await at.agent()
    other = await at.agent("r2")
    path = at.urls["r1"].partition(f":{at.port}")[2]
    token = path.strip("/")
    cases = {
        "Host: evil.example": 403,
        "Host: 127.0.0.1\r\nHost: 127.0.0.1": 400,
        "Host: 127.0.0.1\r\nOrigin: https://evil.example": 403,
        "Host: 127.0.0.1\r\nOrigin: null": 403,
        "Host: 127.0.0.1\r\nCoatcheck-Run: r2": 403,
        "Host: 127.0.0.1\r\nCoatcheck-Step: 2": 422,
        "Host: 127.0.0.1\r\nCoatcheck-Key: a\r\nCoatcheck-Key: b": 400,
        "Host: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade": 501,
    }
    for headers, status in cases.items():
        got, _ = await say(at, f"GET {path}/mail/x HTTP/1.1\r\n{headers}\r\n\r\n".encode())
        assert got == status, (headers, got)
    targets = {
        f"/{'0' * 32}/mail/x": 404,
        f"/{token[:-1]}/mail/x": 400,
        f"/{token.upper()}/mail/x": 400 if token.upper() != token else 404,
        f"{path}/none/x": 404,
        f"{path}/mail/a/../x": 400,
        f"{path}/mail/%2e%2e/x": 400,
        f"{path}%2Fmail/x": 400,
        f"{path}/mail/%00": 400,
        "http://169.254.169.254/latest": 400,
        "/": 400,
        "*": 400,
    }
    for target, status in targets.items():
        got, said = await say(at, f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert got == status, target
        assert token.encode() not in said
    assert (await at.ask("mail/x", headers={"Coatcheck-Key": "k" * 300})).status == 400
    assert not far.seen
    assert (await at.ask("mail/x", headers={"Coatcheck-Run": "r1"})).status == 200
    assert (await at.ask("mail/x", run="r2", headers={"Coatcheck-Step": "1"})).status == 200
    assert other.run == "r2"


async def test_the_run_api_is_beside_the_routes(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far))
    assert await at.ask("", url=f"http://127.0.0.1:{at.port}/v1", method="GET") is not None
    status, body = await say(at, b"GET /v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert (status, body) == (200, b"local")


async def test_what_goes_along_and_what_does_not(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far))
    await at.agent()
    path = at.urls["r1"].partition(f":{at.port}")[2]
    head = (
        f"PATCH {path}/mail/a%2Fb/?q=%20&r HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: X-Hop\r\n"
        "X-Hop: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\nProxy-Authorization: x\r\n"
        "Coatcheck-Step: 1\r\nCoatcheck-Other: 1\r\nX-Two: a\r\nX-Two: b\r\n"
        "Expect: 100-continue\r\n"
        "Authorization: Bearer t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    writer.write(head.encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()
    (seen,) = far.seen
    assert (seen.method, seen.path, seen.body) == ("PATCH", "/base/a%2Fb/?q=%20&r", b"abc")
    assert seen.headers == {
        "host": f"127.0.0.1:{far.port}",
        "x-two": "b",
        "authorization": "Bearer t",
        "content-length": "3",
        "connection": "close",
    }


async def test_answers_pass_unchanged(yard: Yard, far: Far) -> None:
    packed = gzip.compress(b"x" * 10_000)
    said = [
        answer(200, packed, "Content-Encoding: gzip", "Set-Cookie: a=1", "Set-Cookie: b=2"),
        raw(b"HTTP/1.1 204 No\r\nX-A: 1\r\n\r\n"),
        raw(b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        raw(b"HTTP/1.0 200 OK\r\n\r\nuntil the end", and_close=True),
        raw(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
            b"2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"
        ),
    ]
    for record in (False, True):
        at = await near(yard, tool_of(far, effect=Effect.READ, record=record), me=f"p{record}.s1")
        await at.agent(f"r{record}")
        far.script = list(said)
        run = f"r{record}"
        for is_replayed in (False, True) if record else (False,):
            key = iter("abcde")
            got = [
                await at.ask("mail/x", run=run, headers={"Coatcheck-Key": next(key)}) for _ in said
            ]
            bodies = [packed, b"", b"ok", b"until the end", b"ok"]
            assert [one.body for one in got] == bodies
            assert [one.status for one in got] == [200, 204, 200, 200, 200]
            assert got[0].headers["Content-Encoding"] == "gzip"
            has_all = got[0].headers.getall("Set-Cookie", []) == ["a=1", "b=2"]
            assert (has_all, "X-A" in got[1].headers) == (not is_replayed, not is_replayed)


async def test_head_has_no_body(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far, **RECORDED))
    agent = await at.agent()
    far.script = [raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")] * 2
    got = await at.ask("mail/x", method="HEAD")
    assert (got.status, got.body, got.headers["Content-Length"]) == (200, b"", "5")
    await agent.drop()
    await until(lambda: at.pod.sidecar.keepers["r1"].agent is None)
    await at.agent()
    got = await at.ask("mail/x", method="HEAD")
    assert (got.status, got.body, got.decision) == (200, b"", "replayed")


async def test_a_big_body_is_spooled_and_sent_once(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far))
    await at.agent()
    body = bytes(range(256)) * (3 * MIB // 256)
    first = await at.ask("mail/x", data=io.BytesIO(body))
    assert hashlib.sha256(far.seen[0].body).digest() == hashlib.sha256(body).digest()
    second = await at.ask("mail/x", data=io.BytesIO(body))
    assert (first.decision, second.decision) == ("sent", "replayed")
    other = await at.ask("mail/x", data=io.BytesIO(body[:-1] + b"!"))
    assert other.decision == "sent"
    assert len(far.seen) == 2
    assert not list(at.folder.iterdir())


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_body_above_the_limit_is_413(yard: Yard, far: Far, is_told: bool) -> None:
    at = await near(yard, tool_of(far, request_bytes_max=2 * MIB))
    await at.agent()

    async def pieces() -> Any:
        for _ in range(5):
            yield b"x" * MIB

    got = await at.ask("mail/x", data=io.BytesIO(b"x" * 3 * MIB) if is_told else pieces())
    assert (got.status, got.json["code"], got.json["limit"]) == (413, "too_large", 2 * MIB)
    assert not far.seen
    assert not list(at.folder.iterdir())
    assert (await at.ask("mail/x", data=b"x" * MIB)).status == 200


async def test_a_body_that_breaks_off_is_not_sent(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far))
    await at.agent()
    path = at.urls["r1"].partition(f":{at.port}")[2]
    for size in (10, 2 * MIB):
        _, writer = await asyncio.open_connection("127.0.0.1", at.port)
        head = f"POST {path}/mail/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n"
        writer.write(head.encode() + b"x" * (size - 1))
        await asyncio.sleep(0.05)
        writer.transport.abort()
    await asyncio.sleep(0.1)
    assert not far.seen
    assert not list(at.folder.iterdir())


@pytest.mark.parametrize("record", [True, False])
async def test_memory_stays_bounded(yard: Yard, far: Far, record: bool) -> None:
    """200 MiB there and 200 MiB back; the agent and the upstream of this process keep nothing."""
    at = await near(yard, tool_of(far, effect=Effect.READ, record=record))
    await at.agent()
    far.keeps_bodies = False
    piece, count = b"x" * MIB, 200

    async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        length = len(piece) * count
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
        for _ in range(count):
            writer.write(piece)
            await writer.drain()

    async def pieces() -> Any:
        for _ in range(count):
            yield piece

    far.script = [behave]
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    length = 0
    async with at.session.post(at.urls["r1"] + "/mail/x", data=pieces()) as response:
        async for data in response.content.iter_any():
            length += len(data)
    assert length == far.seen[0].length == len(piece) * count
    after_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after_kib - before_kib < 64 * 1024


async def test_an_answer_too_big_to_keep(yard: Yard, far: Far) -> None:
    tools = tool_of(far, record_bytes_max=1_000, effects={"POST /read": Effect.READ}, record=True)
    at = await near(yard, tools)
    await at.agent()
    big = b"[" + b"1," * 1_000 + b"1]"
    far.script = [answer(200, big)] * 3
    key = {"Coatcheck-Key": "k"}
    for _ in range(2):
        got = await at.ask("mail/read", headers=key)
        assert (got.status, got.decision, got.body) == (200, "sent", big)
    first = await at.ask("mail/act", json={})
    assert (first.decision, first.body) == ("sent", big)
    second = await at.ask("mail/act", json={})
    assert (second.status, second.json["reason"]) == (424, "response_not_retained")
    assert len(far.seen) == 3


async def test_what_is_redacted_is_in_no_record(yard: Yard, far: Far) -> None:
    journal = MemoryJournal()
    at = await near(yard, tool_of(far, redact=("/secret", "/deep/0")), journal=journal)
    await at.agent()
    body = {"secret": "planted-1", "deep": ["planted-2"], "id": 7}
    far.script = [answer(200, json.dumps(body).encode(), "Set-Cookie: s=planted-3")]
    headers = {"Authorization": "Bearer planted-4"}
    first = await at.ask("mail/x", json={}, headers=headers)
    assert first.json == body
    assert far.seen[0].headers["accept-encoding"] == "identity"
    second = await at.ask("mail/x", json={}, headers=headers)
    assert second.json == {"secret": "", "deep": [""], "id": 7}
    await until(lambda: not at.pod.sidecar.keepers["r1"].log.unshipped)
    kept = [row.data for row in await journal.load()]
    kept += [(await yard.store.get(one.name)).data for one in await yard.store.list("")]  # type: ignore[union-attr]
    assert not [data for data in kept if b"planted" in data]
    notes = repr(at.pod.notes.all)
    assert "planted" not in notes
    assert at.urls["r1"].rpartition("/")[2] not in notes
