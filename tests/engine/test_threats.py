"""Who may ask, by which URL, for how much, and where it may go: refused, and never forwarded."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.ports import NotSent, Outgoing
from coatcheck_sidecar.upstreams.http import HttpUpstream
from tests.engine.harness import Yard, until
from tests.engine.proxying import Far, Near, far_server, near, tool_of
from tests.engine.smuggling import say

QUIET_S = 1.0
STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")
BODY_MAX = 100_000


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    async with far_server() as made:
        yield made


@pytest.fixture
async def at(yard: Yard, far: Far) -> AsyncIterator[Near]:
    made = await near(yard, tool_of(far, request_bytes_max=BODY_MAX))
    agent = await made.agent()
    yield made
    good = await made.ask("mail/good")
    assert good.status == 200
    await agent.drop()
    await made.die()
    assert not list(made.folder.iterdir())


async def status_of(at: Near, raw: str | bytes) -> int:
    """Of the answer to these bytes; `{token}` and `{host}` are filled in. 0: hung up."""
    token = at.urls["r1"].rpartition("/")[2]
    data = raw if isinstance(raw, bytes) else raw.encode()
    data = data.replace(b"{token}", token.encode()).replace(b"{host}", b"127.0.0.1:%d" % at.port)
    found = STATUS.findall(await say(at.port, data, timeout_s=QUIET_S))
    return int(found[0]) if found else 0


def get(target: str, *headers: str, host: str = "Host: {host}\r\n") -> str:
    more = "".join(f"{line}\r\n" for line in headers)
    return f"GET {target} HTTP/1.1\r\n{host}{more}Connection: close\r\n\r\n"


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:1/",
        "http://{host}/{token}/mail/x",
        "//169.254.169.254/latest/",
        "/{token}/http://169.254.169.254/",
        "/{token}/169.254.169.254/latest",
        "/{token}/nothere/x",
        "/{token}/mail@evil.test/x",
        "/{token}/mail:80@evil.test/x",
        "/{token}@evil.test/mail/x",
        "/{token}/mail\\@evil.test/x",
        "/{token}/mail/../../admin",
        "/{token}/mail/%2e%2e/admin",
        "/{token}/mail/%2E./admin",
        "/{token}/mail/..;x/admin",
        "/{token}/mail/..%2fadmin",
        "/{token}/mail/..%5cadmin",
        "/{token}/mail/%00",
        "/{token}/mail/%0d%0aX:%20y",
        "/{token}/mail/%",
        "/{token}/mail/x#y",
        "/{token}//mail/x",
        "/%7btoken%7d/mail/x",
        "/./{token}/mail/x",
        "mail/x",
        "*",
        "",
    ],
)
async def test_no_target_leads_elsewhere(at: Near, far: Far, target: str) -> None:
    assert await status_of(at, get(target)) in (400, 403, 404)
    assert not far.seen


@pytest.mark.parametrize("line", ["CONNECT {host} HTTP/1.1", "CONNECT 169.254.169.254:80 HTTP/1.1"])
async def test_no_tunnel_unless_it_is_configured(at: Near, far: Far, line: str) -> None:
    assert await status_of(at, f"{line}\r\nHost: {{host}}\r\n\r\n") in (400, 403, 404, 405)
    assert not far.seen


@pytest.mark.parametrize("rest", ["@evil.test/", "/@evil.test/", "?u=http://evil.test/", "/a//b"])
async def test_what_is_in_the_path_stays_there(at: Near, far: Far, rest: str) -> None:
    """Forwarded or refused, never to another host."""
    status = await status_of(at, get(f"/{{token}}/mail{rest}"))
    assert status == (200 if rest[0] in "/?" else 400)
    for seen in far.seen:
        assert seen.headers["host"] == f"127.0.0.1:{far.port}"
        assert seen.path == f"/base{rest}"


@pytest.mark.parametrize(
    ("host", "more"),
    [
        ("", []),
        ("Host: \r\n", []),
        ("Host: evil.test\r\n", []),
        ("Host: evil.test:7070\r\n", []),
        ("Host: 127.0.0.1.evil.test\r\n", []),
        ("Host: 127.0.0.1@evil.test\r\n", []),
        ("Host: 10.0.0.7\r\n", []),
        ("Host: {host}\r\nHost: {host}\r\n", []),
        ("Host: {host}\r\nHost: evil.test\r\n", []),
        ("Host: {host}, evil.test\r\n", []),
        ("Host: evil.test@{host}\r\n", []),
        ("Host: {host}/evil.test\r\n", []),
        ("Host: localhost#.evil.test\r\n", []),
        ("Host: localhost\\.evil.test\r\n", []),
        ("Host: {host}\r\n", ["Origin: null"]),
        ("Host: {host}\r\n", ["Origin: http://evil.test"]),
        ("Host: {host}\r\n", ["Origin: http://127.0.0.1.evil.test"]),
        ("Host: {host}\r\n", ["Origin: http://{host}", "Origin: http://evil.test"]),
        ("Host: {host}\r\n", ["Origin: http://{host}", "Origin: http://{host}"]),
        ("Host: {host}\r\n", ["Origin: "]),
        ("Host: {host}\r\n", ["Origin: file://"]),
    ],
)
@pytest.mark.parametrize("target", ["/{token}/mail/x"])
async def test_a_page_in_a_browser_is_not_let_in(
    at: Near, far: Far, host: str, more: list[str], target: str
) -> None:
    assert await status_of(at, get(target, *more, host=host)) in (400, 403)
    assert not far.seen


async def test_tokens_can_not_be_guessed(at: Near, far: Far) -> None:
    token = at.urls["r1"].rpartition("/")[2]
    changed = token[:-1] + ("0" if token[-1] != "0" else "1")
    guesses = [changed, token[:31], token + "0", token.upper(), "0" * 32, "", token[:-2] + "%61"]
    for guess in guesses:
        if guess != token:
            assert await status_of(at, get(f"/{guess}/mail/x")) in (400, 404), guess
    assert not far.seen


async def test_a_url_ends_with_its_life_and_its_run(at: Near, far: Far) -> None:
    mine = at.urls["r1"]
    other = await at.agent("r2", incarnation=b"a" * 16)
    first = at.urls["r2"]
    await other.drop()
    await until(lambda: at.pod.sidecar.keepers["r2"].agent is None)
    other = await at.agent("r2", incarnation=b"b" * 16)
    second = at.urls["r2"]
    assert len({mine, first, second}) == 3
    got = await at.ask("mail/x", url=first)
    assert got.status in (404, 409, 410)
    assert got.json["code"] == "fenced"
    await other.finish()
    await until(lambda: "r2" not in at.pod.sidecar.keepers)
    got = await at.ask("mail/x", url=second)
    assert got.status in (404, 409, 410)
    assert not far.seen


async def test_no_call_is_counted_for_another_run_or_step(at: Near, far: Far) -> None:
    for said, status in [
        ({"Coatcheck-Run": "r2"}, 403),
        ({"Coatcheck-Run": ""}, 403),
        ({"Coatcheck-Step": "2"}, 422),
        ({"Coatcheck-Step": "01"}, 422),
        ({"Coatcheck-Step": "-1"}, 422),
    ]:
        got = await at.ask("mail/x", headers=said)
        assert (got.status, got.json["code"]) == (status, "conflict"), said
    twice = get("/{token}/mail/x", "Coatcheck-Run: r1", "Coatcheck-Run: r2")
    assert await status_of(at, twice) == 400
    assert not far.seen


BIG = "x" * 20_000


@pytest.mark.parametrize(
    ("raw", "statuses"),
    [
        (get(f"/{{token}}/mail/{BIG}"), (400, 414)),
        (get(f"/{{token}}/mail/{'x' * 9_000}"), (400, 414)),
        (get(f"/{{token}}/mail/?{'x' * 9_000}"), (400, 414)),
        (get("/{token}/mail/x", f"X-Long: {BIG}"), (400, 431)),
        (get("/{token}/mail/x", f"{BIG}: y"), (400, 431)),
        (get("/{token}/mail/x", *(f"X-{n}: y" for n in range(5_000))), (400, 431)),
        (get("/{token}/mail/x", f"Coatcheck-Key: {'k' * 300}"), (400,)),
        (
            "POST /{token}/mail/x HTTP/1.1\r\nHost: {host}\r\n"
            f"Content-Length: {BODY_MAX + 1}\r\n\r\n",
            (413,),
        ),
        (
            "POST /{token}/mail/x HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
            + f"4e20\r\n{BIG}\r\n" * 6,
            (413,),
        ),
        (
            "POST /{token}/mail/x HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
            + f"4\r\nabcd\r\n0\r\nX-T: {BIG}\r\n\r\n",
            (400,),
        ),
    ],
)
async def test_what_is_too_big_is_refused(
    at: Near, far: Far, raw: str, statuses: Sequence[int]
) -> None:
    assert await status_of(at, raw) in statuses
    assert not far.seen


CHUNKED = "POST /{token}/mail/x HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "rest"),
    [
        ("BAD\r\n\r\n", ""),
        ("GET /v1/runs HTTP/9.9\r\nHost: {host}\r\n\r\n", ""),
        ("GET /v1/runs HTTP/1.1\r\nHost : {host}\r\n\r\n", ""),
        (get(f"/{{token}}/mail/{BIG}"), ""),
        (get("/{token}/mail/x", f"X-Long: {BIG}"), ""),
        (f"{CHUNKED}zz\r\nabcd\r\n0\r\n\r\n", ""),
        (CHUNKED, "zz\r\nabcd\r\n0\r\n\r\n"),
        (f"{CHUNKED}4\r\nabcd", "X\r\n0\r\n\r\n"),
        (f"{CHUNKED}4\r\nabcd\r\n0\r\nX-T: {BIG}\r\n\r\n", ""),
    ],
)
async def test_what_can_not_be_read_is_a_problem_too(
    at: Near, far: Far, raw: str, rest: str
) -> None:
    token = at.urls["r1"].rpartition("/")[2]
    first, then = (
        part.replace("{token}", token).replace("{host}", f"127.0.0.1:{at.port}").encode()
        for part in (raw, rest)
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    writer.write(first)
    await asyncio.sleep(0.05)
    writer.write(then)
    try:
        async with asyncio.timeout(5):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.transport.abort()
    assert STATUS.match(head + b" ")
    assert head.split()[1] == b"400"
    assert b"Connection: close" in head
    assert b"application/problem+json" in head
    said = json.loads(body)
    assert (said["status"], said["code"], said["retry"]) == (400, "protocol_error", "never")
    assert len(said["detail"]) <= 200
    assert not far.seen


async def test_a_long_chunk_extension_is_dropped(at: Near, far: Far) -> None:
    """It is neither kept nor passed on: what is forwarded has the body, and its length.

    aiohttp's parser gives no hook by which to refuse it: the bytes end in llhttp.
    """
    head = "POST /{token}/mail/x HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert await status_of(at, f"{head}4;{BIG}\r\nabcd\r\n0\r\n\r\n") == 200
    (seen,) = far.seen
    assert (seen.body, seen.headers["content-length"]) == (b"abcd", "4")
    assert "transfer-encoding" not in seen.headers


# Where names lead


class Names:
    """A resolver that says what it is told, and counts."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, _host: str, port: int, **_more: Any) -> list[Any]:
        self.asked += 1
        said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        out = []
        for one in said.split():
            family = socket.AF_INET6 if ":" in one else socket.AF_INET
            out.append((family, socket.SOCK_STREAM, 6, "", (one, port)))
        return out


async def attempt(upstream: HttpUpstream, url: str, *, is_alone: bool = True) -> int:
    request = Outgoing(
        method="GET", url=url, headers=(), body=b"", connect_s=2, head_s=2, idle_s=2,
        is_alone=is_alone,
    )  # fmt: skip
    async with upstream.send(request) as answer:
        return answer.status


def resolver(monkeypatch: pytest.MonkeyPatch, *answers: str) -> Names:
    names = Names(*answers)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names)
    return names


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",  # noqa: S104 - refused
        "fe80::1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fd00:ec2::254",
        "93.184.216.34 169.254.169.254",
    ],
)
@pytest.mark.parametrize("is_private_ok", [True, False])
async def test_no_name_leads_to_metadata(
    monkeypatch: pytest.MonkeyPatch, address: str, is_private_ok: bool
) -> None:
    names = resolver(monkeypatch, address)
    tool = Tool(name="t", upstream="http://good.test", private=is_private_ok)
    upstream = HttpUpstream(tool, clock=SystemClock())
    with pytest.raises(NotSent, match=r"never reached"):
        await attempt(upstream, "http://good.test/latest/meta-data")
    assert names.asked == 1
    await upstream.close()


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "[fe80::1]"]
)
async def test_nor_does_an_address_in_another_spelling(host: str) -> None:
    tool = Tool(name="t", upstream=f"http://{host}", private=True)
    upstream = HttpUpstream(tool, clock=SystemClock())
    with pytest.raises(NotSent):
        await attempt(upstream, f"http://{host}/")
    await upstream.close()


async def test_private_addresses_only_if_the_tool_says_so(
    monkeypatch: pytest.MonkeyPatch, far: Far
) -> None:
    resolver(monkeypatch, "127.0.0.1")
    url = f"http://good.test:{far.port}/"
    closed = HttpUpstream(Tool(name="t", upstream=url), clock=SystemClock())
    with pytest.raises(NotSent, match="private: true"):
        await attempt(closed, url)
    assert not far.connections
    opened = HttpUpstream(Tool(name="t", upstream=url, private=True), clock=SystemClock())
    assert await attempt(opened, url) == 200
    await closed.close()
    await opened.close()


async def test_a_name_is_asked_for_once_and_pinned(
    monkeypatch: pytest.MonkeyPatch, far: Far
) -> None:
    """DNS rebinding: whatever the name says later, the address stays."""
    names = resolver(monkeypatch, "127.0.0.1", "169.254.169.254")
    url = f"http://good.test:{far.port}/"
    upstream = HttpUpstream(Tool(name="t", upstream=url, private=True), clock=SystemClock())
    for is_alone in (True, True, False):
        assert await attempt(upstream, url, is_alone=is_alone) == 200
    assert (names.asked, len(far.seen)) == (1, 3)
    await upstream.close()


async def test_an_address_that_comes_after_a_failure_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch, far: Far
) -> None:
    names = resolver(monkeypatch, "127.0.0.2", "169.254.169.254")
    url = f"http://good.test:{far.port}/"
    upstream = HttpUpstream(Tool(name="t", upstream=url, private=True), clock=SystemClock())
    with pytest.raises(NotSent, match="no connection"):
        await attempt(upstream, url)
    with pytest.raises(NotSent, match="never reached"):
        await attempt(upstream, url)
    assert names.asked == 2
    await upstream.close()
