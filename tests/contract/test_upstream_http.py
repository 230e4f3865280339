"""What is known of an attempt: `NotSent` if nothing left, `Lost` if anything may have."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.ports import Headers, Lost, NotSent, Outgoing
from coatcheck_sidecar.upstreams.http import HttpUpstream
from tests.engine.proxying import Far, Seen, answer, far_server, raw, reset

CLOCK = SystemClock()


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    async with far_server() as made:
        yield made


@contextlib.asynccontextmanager
async def upstream(**more: Any) -> AsyncIterator[HttpUpstream]:
    made = HttpUpstream(Tool(name="t", **{"private": True, **more}), clock=CLOCK)
    try:
        yield made
    finally:
        await made.close()


def request(url: str, method: str = "GET", **more: Any) -> Outgoing:
    return Outgoing(
        method=method, url=url, **{"connect_s": 2.0, "head_s": 2.0, "idle_s": 2.0, **more}
    )


async def send(to: HttpUpstream, outgoing: Outgoing) -> tuple[int, Headers, bytes]:
    async with to.send(outgoing) as got:
        return got.status, got.headers, b"".join([piece async for piece in got.pieces()])


async def test_connections_are_used_again(far: Far) -> None:
    async with upstream() as to:
        for _ in range(3):
            status, _, body = await send(to, request(far.url + "/a?b", "POST", body=b"x"))
            assert (status, body[:4]) == (200, b'{"n"')
    assert (len(far.seen), far.connections) == (3, 1)
    assert far.seen[0].path == "/a?b"
    assert (far.seen[0].headers, far.seen[0].body) == (
        {"host": f"127.0.0.1:{far.port}", "content-length": "1"},
        b"x",
    )


async def test_one_that_is_alone_has_a_connection_of_its_own(far: Far) -> None:
    async with upstream() as to:
        await send(to, request(far.url, is_alone=False))
        await send(to, request(far.url, is_alone=True))
        await send(to, request(far.url, is_alone=True))
        await send(to, request(far.url, is_alone=False))
    assert far.connections == 3
    assert [seen.headers.get("connection") for seen in far.seen] == [None, "close", "close", None]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_nothing_is_sent_twice_on_a_stale_connection(far: Far, method: str) -> None:
    """A server that reads and hangs up: aiohttp's session would send a PUT again by itself."""
    async with upstream() as to:
        await send(to, request(far.url))
        far.script = [reset]
        with pytest.raises(Lost):
            await send(to, request(far.url, method))
        assert len(far.seen) == 2
        await send(to, request(far.url, method))
    assert (len(far.seen), far.connections) == (3, 2)


async def test_a_connection_that_was_closed_meanwhile_is_not_used(far: Far) -> None:
    async with upstream() as to:
        far.script = [raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", and_close=True)]
        await send(to, request(far.url))
        await asyncio.sleep(0.05)
        await send(to, request(far.url, "POST"))
    assert far.connections == 2


async def test_what_fails_before_the_first_byte_is_not_sent(far: Far, tmp_path: Path) -> None:
    closed = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = closed.sockets[0].getsockname()[1]
    closed.close()
    await closed.wait_closed()
    late_s = CLOCK.boottime() - 1
    cases: list[tuple[dict[str, Any], Outgoing]] = [
        ({}, request(f"http://127.0.0.1:{port}")),
        ({}, request("http://does-not-exist.invalid/")),
        ({}, request(f"https://127.0.0.1:{far.port}")),
        ({}, request(far.url, until_boot_s=late_s)),
        ({}, request(far.url, headers=(("X", "a\r\nX-Evil: 1"),))),
        ({}, request(far.url, headers=(("X", "a\nb"),))),
        ({}, request(far.url + "/a b\r\nX: y")),
        ({"private": False}, request(far.url)),
        ({"private": False}, request(f"http://localhost:{far.port}")),
        ({"private": False}, request(f"http://2130706433:{far.port}")),
        ({}, request("http://169.254.169.254/latest")),
        ({"ca_file": str(tmp_path / "none.pem")}, request(far.url)),
    ]
    for more, outgoing in cases:
        async with upstream(**more) as to:
            with pytest.raises(NotSent):
                await send(to, outgoing)
    assert not far.seen


async def test_a_lease_that_holds_lets_it_go(far: Far) -> None:
    async with upstream() as to:
        status, _, _ = await send(to, request(far.url, until_boot_s=CLOCK.boottime() + 5))
    assert status == 200


async def slow(_seen: Seen, _writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def half(_seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf")
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    "behave",
    [
        reset,
        slow,
        half,
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf", and_close=True),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", and_close=True),
        raw(b"HTTP/1.1 200 OK\r\nContent-Le", and_close=True),
        raw(b"SSH-2.0-OpenSSH_9.6\r\n", and_close=True),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
        raw(b"", and_close=True),
    ],
)
async def test_what_fails_after_it_is_lost(far: Far, behave: Any) -> None:
    async with upstream() as to:
        far.script = [behave]
        with pytest.raises(Lost):
            await send(to, request(far.url, "POST", head_s=0.2, idle_s=0.2, body=b"x"))
        assert (await send(to, request(far.url)))[0] == 200
    assert len(far.seen) == 2


async def test_a_stream_that_says_something_now_and_then_is_waited_for(far: Far) -> None:
    async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        for _ in range(5):
            await asyncio.sleep(0.1)
            writer.write(b"x")

    far.script = [behave]
    async with upstream() as to:
        assert (await send(to, request(far.url, head_s=0.3, idle_s=0.3)))[2] == b"xxxxx"


async def test_a_body_in_a_file(far: Far, tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"abc" * 400_000)
    async with upstream() as to:
        assert (await send(to, request(far.url, "POST", body=path)))[0] == 200
        far.script = [reset]
        with pytest.raises(Lost):
            await send(to, request(far.url, "POST", body=path))
    assert far.seen[0].body == path.read_bytes()


async def test_an_upstream_that_answers_before_it_has_read_all(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"x" * 30_000_000)

    is_over = asyncio.Event()

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Big\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        await is_over.wait()
        writer.transport.abort()

    server = await asyncio.start_server(early, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with upstream() as to:
        status, _, body = await send(to, request(url, "POST", body=path))
    assert (status, body) == (413, b"no")
    is_over.set()
    server.close()
    await asyncio.sleep(0.05)


async def test_an_upstream_that_moved_is_found_again(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    asked: list[str] = []
    resolve = loop.getaddrinfo

    async def getaddrinfo(host: str, port: int, **more: Any) -> Any:
        asked.append(host)
        return await resolve("127.0.0.1", port, **more)

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    url = f"http://upstream.test:{far.port}"
    async with upstream() as to:
        for _ in range(2):
            await send(to, request(url, is_alone=True))
        assert asked == ["upstream.test"]
        with pytest.raises(NotSent):
            await send(to, request("http://upstream.test:1/", is_alone=True))
        await send(to, request(url, is_alone=True))
    assert len(asked) == 3


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """For `localhost`, signed by itself; its key lies in the same file."""
    path = tmp_path / "cert.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-keyout", tmp_path / "key.pem", "-out", path, "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return path


async def test_certificates_are_checked(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    async with far_server(tls=context) as far:
        url = f"https://localhost:{far.port}/x"
        async with upstream() as to:
            with pytest.raises(NotSent, match="certificate"):
                await send(to, request(url))
        async with upstream(ca_file=str(certificate)) as to:
            with pytest.raises(NotSent):
                await send(to, request(url.replace("localhost", "127.0.0.1")))
            assert (await send(to, request(url)))[0] == 200
    assert [seen.path for seen in far.seen] == ["/x"]


async def test_headers_of_the_connection_stay_behind(far: Far) -> None:
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"
        b"Keep-Alive: 5\r\nCoatcheck-Decision: forged\r\nX-Two: a\r\nX-Two: b\r\n\r\n"
    )
    far.script = [raw(head), answer(200, b"", "X-Caf\xc3\xa9: \xff")]
    async with upstream() as to:
        _, headers, _ = await send(to, request(far.url))
    assert headers == (("Content-Length", "0"), ("X-Two", "a"), ("X-Two", "b"))
