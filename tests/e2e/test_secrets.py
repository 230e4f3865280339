"""Planted credentials go to the upstream and back, and nowhere else."""

import asyncio
import stat
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.e2e.real_sidecar import Real, real_sidecar
from tests.engine.proxying import STREAM_HEAD, Far, Seen, answer, far_server, reset, stream
from tests.engine.smuggling import say

SENT: Final = {
    "Authorization": "Bearer planted-authorization",
    "Cookie": "session=planted-cookie",
    "X-Api-Key": "planted-api-key",
    "Proxy-Authorization": "Basic planted-proxy",
}
QUERY: Final = "api_key=planted-query"
BODY: Final = {
    "to": "marker-of-order",
    "card": "planted-4242424242424242",
    "password": "planted-password",
    "deep": {"token": "planted-deep"},
}
FORM: Final = "source[number]=planted-4242&source[cvc]=planted-123"
PATH: Final = "planted-7331:AAF"
"""Some upstreams take a token in the path."""
GIVEN: Final = (
    "Set-Cookie: session=planted-set-cookie",
    "X-Session: planted-session-header",
    "WWW-Authenticate: Bearer planted-challenge",
)
ANSWER: Final = b'{"visible":"marker-of-body","secret":"planted-redacted"}'
PLANTED: Final = b"planted-"
CONTROL: Final = b"marker-of-body"


def tools(far: Far) -> dict[str, dict[str, Any]]:
    common = {
        "upstream": f"{far.url}/base", "private": True, "redact": ["/secret"], "patience_s": 0.3,
        "show": ["/to"],
    }  # fmt: skip
    return {
        "read": {**common, "effect": "read"},
        "chat": {**common, "effect": "read", "record": True},
        "put": {**common, "effect": "idempotent"},
        "pay": {**common, "effect": "idempotent", "upstream_key": {"header": "Idempotency-Key"}},
        "mail": {**common, "effect": "once", "unresolved_ok": True},
        "probed": {
            **common,
            "effect": "once",
            "unresolved_ok": True,
            "probe_settle_s": 0.1,
            "probe": {
                "path": "/sent?ref={key}",
                "applied_when": "/items/0",
                "credentials": "env:PROBE_TOKEN",
            },
        },
    }


async def events(_seen: Seen, writer: asyncio.StreamWriter) -> None:
    head, line = STREAM_HEAD.rstrip(b"\r\n"), "\r\n".join(GIVEN).encode()
    writer.write(head + b"\r\n" + line + b"\r\n\r\n")
    await stream(writer, *[b"data: " + ANSWER + b"\n\n" for _ in range(3)])


async def use(real: Real, far: Far) -> list[bytes]:
    """Calls of every effect that end in every way; problems that were told."""
    wire, url = await real.agent()
    told = []
    async with aiohttp.ClientSession() as session:
        for tool in tools(far):
            scripts: dict[str, list[Any]] = {
                "fine": [answer(200, ANSWER, *GIVEN)],
                "events": [events],
                "denied": [answer(401, ANSWER, *GIVEN)],
                "wrong": [answer(400, ANSWER, *GIVEN)],
                "broken": [answer(500, ANSWER, *GIVEN)] * 3,
                "lost": [reset] * 20,
                "cut": [answer(200, ANSWER)] * 3,
            }
            for name, script in scripts.items():
                for _ in range(2):
                    far.script = list(script)
                    where = f"{url}/{tool}/{PATH}/{name}?{QUERY}"
                    kind = {"Content-Type": "application/x-www-form-urlencoded"}
                    form = {"data": FORM, "headers": SENT | kind}
                    body = {"json": BODY | {"n": name}, "headers": SENT}
                    for asked in (body, form):
                        async with session.post(where, **asked) as response:
                            data = await response.read()
                            if "problem" in response.content_type:
                                told.append(data)
        far.script = []
    token = url.rpartition("/")[2]
    bad = ("Authorization : Bearer planted-a", "Cookie: planted-b\0", " X: planted-c", "planted-d")
    for line in bad:
        head = f"POST /{token}/mail/x?{QUERY} HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n"
        await say(real.port, head.encode(), timeout_s=1)
    for head in (
        f"GET /{token}/mail/x?\r{QUERY} HTTP/1.1",
        f"{QUERY} / HTTP/1.1",
        "GET  planted-e",
    ):
        await say(real.port, f"{head}\r\nHost: localhost\r\n\r\n".encode(), timeout_s=1)
    await wire.commit(b"state", level="remote")
    await wire.drop()
    return told


def found_in(folder: Path, needle: bytes) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "config.yaml"]
    hits = []
    for path in files:
        data = path.read_bytes()
        if needle in data:
            at = data.index(needle)
            hits.append(f"{path.relative_to(folder)}: {data[max(0, at - 100) : at + 60]!r}")
    return hits


@pytest.mark.timeout(120)
async def test_no_credential_is_kept_or_told(tmp_path: Path) -> None:
    async with far_server() as far:
        async with real_sidecar(tmp_path, tools(far), PROBE_TOKEN="planted-probe") as real:
            mode = stat.S_IMODE((tmp_path / "agent.sock").stat().st_mode)
            assert mode & stat.S_IRWXO == 0, oct(mode)
            told = await use(real, far)
            metrics = real.metrics()
        sent = [seen for seen in far.seen if seen.headers.get("authorization", "").startswith("Be")]
        assert sent, "nothing came through"
        assert all(QUERY in seen.path for seen in sent)
        assert any(b"planted-password" in seen.body for seen in sent)
        assert any("planted-probe" in seen.headers.get("authorization", "") for seen in far.seen)
    assert len(told) > 4
    log = (tmp_path / "sidecar.log").read_text()
    assert "BadHttpMessage" in log
    kept = found_in(tmp_path, CONTROL)
    assert any("journal" in path or "data/" in path for path in kept), kept
    assert any(path.startswith("store/") for path in kept), kept
    assert found_in(tmp_path, PLANTED) == []
    assert found_in(tmp_path / "store", b"marker-of-order"), "no call was kept with its summary"
    assert PLANTED not in metrics
    assert not [data for data in told if PLANTED in data]
