"""The forward proxy, against real upstreams; what it may not reach, it must not try."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from coatcheck_sidecar.core.forward import Forward, place
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.bindings import Binding, Bindings
from coatcheck_sidecar.servers import forward as module
from coatcheck_sidecar.servers import tunnel
from coatcheck_sidecar.servers.admin import HttpServer
from coatcheck_sidecar.servers.forward import ForwardProxy, Target, target_of, token_of
from coatcheck_sidecar.servers.problems import Problem
from tests.engine.harness import Notes, Pod

MIB = 1 << 20


@dataclass
class Far:
    """An upstream that speaks no HTTP: it says what it got, in capitals."""

    port: int = 0
    refusing_port: int = 0
    web_port: int = 0
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data.upper())
                await writer.drain()
        writer.close()

    async def refuse_upgrade(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.writers.append(writer)
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.read()
        writer.close()


@dataclass
class Proxy:
    port: int
    token: str
    notes: Notes
    handler: ForwardProxy
    served: list[tuple[str, str, str, bool]] = field(default_factory=list)
    """Tool, upstream, rest, whether it may be private."""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def authorization(self) -> str:
        return "Basic " + base64.b64encode(f"{self.token}:".encode()).decode()

    async def ask(
        self, head: str, *, token: bool = True, more: bytes = b""
    ) -> tuple[int, Any, Any]:
        """Status, and the connection."""
        said = f"Proxy-Authorization: {self.authorization}\r\n" if token else ""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        writer.write(f"{head}\r\n{said}\r\n".encode() + more)
        async with asyncio.timeout(5):
            answer = await reader.readuntil(b"\r\n\r\n")
        return int(answer.split()[1]), reader, writer

    async def status(self, head: str, *, token: bool = True) -> int:
        status, _, writer = await self.ask(head, token=token)
        await closed([writer])
        return status


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    made = Far()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    refusing = await asyncio.start_server(made.refuse_upgrade, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    made.refusing_port = refusing.sockets[0].getsockname()[1]
    app = web.Application()
    app.router.add_get("/ws", in_capitals)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.web_port = runner.addresses[0][1]
    yield made
    server.close()
    refusing.close()
    await closed(made.writers)
    await runner.cleanup()


async def closed(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def in_capitals(request: web.Request) -> web.WebSocketResponse:
    assert not {"Proxy-Authorization", "X-Hop", "Coatcheck-Key"} & set(request.headers)
    socket = web.WebSocketResponse(protocols=["chat"])
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data.upper())
    return socket


@pytest.fixture
async def proxy(pod: Pod, far: Far) -> AsyncIterator[Proxy]:
    agent = await pod.agent("r1")
    bindings = Bindings(b"s" * 32)
    keeper = pod.sidecar.keepers["r1"]
    calls = pod.sidecar._calls["r1"]
    token = bindings.bind(keeper, calls, incarnation=agent.incarnation)
    served: list[tuple[str, str, str, bool]] = []

    async def serve(
        _request: web.BaseRequest, binding: Binding, tool: Tool, rest: str
    ) -> web.StreamResponse:
        assert binding.keeper is keeper
        served.append((tool.name, tool.upstream, rest, tool.private))
        return web.Response(text="served")

    forward = Forward(
        allow=(place("allowed.example"), place("*.below.example:8080"), place("127.0.0.1")),
        connect=tuple(
            place(f"127.0.0.1:{port}") for port in (far.port, far.refusing_port, far.web_port, 1)
        ),
    )
    tools = [
        Tool(name="mail", upstream="http://mail.example/api"),
        Tool(name="mail2", upstream="http://mail.example/api/v2/"),
        Tool(name="root", upstream="http://root.example:81"),
        Tool(name="search", mcp="http://mcp.example/mcp"),
    ]
    handler = ForwardProxy(
        forward,
        tools=tools,
        bindings=bindings,
        serve=serve,
        busy=lambda _: contextlib.nullcontext(),
        observer=pod.notes,
    )
    server = HttpServer(handler.handle, host="127.0.0.1", port=0)
    await server.start()
    made = Proxy(server.port, token, pod.notes, handler, served)
    yield made
    await closed(made.writers)
    await server.close()


@pytest.mark.parametrize(
    ("url", "tool", "upstream", "rest"),
    [
        ("http://mail.example/api/send?x=1", "mail", "http://mail.example/api", "/send?x=1"),
        ("http://MAIL.example.:80/api", "mail", "http://mail.example/api", ""),
        ("http://mail.example/api?x", "mail", "http://mail.example/api", "?x"),
        ("http://mail.example/api/v2/a", "mail2", "http://mail.example/api/v2/", "/a"),
        ("http://root.example:81/a%2Fb", "root", "http://root.example:81", "/a%2Fb"),
        ("http://allowed.example/x?y=http://z/", "allowed.example:80", "http://allowed.example",
         "/x?y=http://z/"),
        ("http://allowed.example:8080", "allowed.example:8080", "http://allowed.example:8080", "/"),
        ("https://allowed.example", "allowed.example:443", "https://allowed.example", "/"),
        ("http://a.below.example:8080?q", "a.below.example:8080", "http://a.below.example:8080",
         "/?q"),
        ("http://2130706433:9/x", "127.0.0.1:9", "http://127.0.0.1:9", "/x"),
    ],
)  # fmt: skip
async def test_a_plain_request_is_a_call_of_the_tool_that_has_its_upstream(
    proxy: Proxy, url: str, tool: str, upstream: str, rest: str
) -> None:
    assert await proxy.status(f"POST {url} HTTP/1.1\r\nHost: whatever\r\nContent-Length: 0") == 200
    is_private = tool == "127.0.0.1:9"
    assert proxy.served == [(tool, upstream, rest, is_private)]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("GET http://mail.example/other", 403),
        ("GET http://mail.example/apix", 403),
        ("GET http://mail.example:81/api", 403),
        ("GET https://mail.example/api", 403),
        ("GET http://mcp.example/mcp", 403),
        ("GET http://below.example:8080/", 403),
        ("GET http://a.below.example/", 403),
        ("GET http://169.254.169.254/latest/meta-data/", 403),
        ("GET http://[fd00:ec2::254]/", 403),
        ("GET http://allowed.example.evil.example/", 403),
        ("GET http://allowed.example@evil.example/", 400),
        ("GET http://user:pass@allowed.example/", 400),
        ("GET http://allowed.example/../x", 400),
        ("GET http://mail.example/api/%2E%2e/admin", 400),
        ("GET http://mail.example/api/.", 400),
        ("GET http://mail.example/api/..;/admin", 400),
        ("GET http://allowed.example/a\\b", 400),
        ("GET http://allowed.example:0/", 400),
        ("GET http://allowed.example:99999/", 400),
        ("GET http:///x", 400),
        ("GET ftp://allowed.example/x", 400),
        ("GET http:allowed.example", 400),
        ("GET /v1/runs", 400),
        ("CONNECT allowed.example:443", 403),
        ("CONNECT 127.0.0.1", 400),
        ("CONNECT /v1/runs", 400),
        ("CONNECT http://allowed.example:443", 400),
        ("CONNECT 127.0.0.1:22", 403),
        ("CONNECT user@127.0.0.1:443", 400),
    ],
)
async def test_nothing_else_is_reached(proxy: Proxy, far: Far, target: str, status: int) -> None:
    assert await proxy.status(f"{target} HTTP/1.1\r\nHost: x") == status
    assert not proxy.served
    assert not far.connections


async def test_it_is_off_unless_it_is_on(
    proxy: Proxy, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = "GET http://allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\nHost: b"
    assert await proxy.status(two) == 400
    monkeypatch.setattr(proxy.handler, "_forward", None)
    for target in ("GET http://mail.example/api/x", f"CONNECT 127.0.0.1:{far.port}"):
        assert await proxy.status(f"{target} HTTP/1.1\r\nHost: x") == 403
    assert not proxy.served
    assert not far.connections


async def test_who_has_no_token_gets_nothing(proxy: Proxy, far: Far) -> None:
    for target in ("GET http://allowed.example/", f"CONNECT 127.0.0.1:{far.port}"):
        for said in (
            "", "Basic ?", "Basic " + base64.b64encode(b"0" * 32 + b":").decode(),
            f"Basic {proxy.token}", f"Bearer {proxy.token}x", f"Digest {proxy.token}",
        ):  # fmt: skip
            head = f"{target} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {said}"
            status, reader, writer = await proxy.ask(head, token=False)
            assert (status, await reader.read()) != (200, b"")
            assert status == 407
            writer.close()
    head = "GET http://allowed.example/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Bearer "
    assert await proxy.status(f"{head}{proxy.token}", token=False) == 200
    assert await proxy.status(f"{head}{proxy.token}") == 407  # two of them
    assert len(proxy.served) == 1
    assert not far.connections


async def test_a_tunnel_carries_anything_and_is_counted(proxy: Proxy, far: Far) -> None:
    head = f"CONNECT 127.0.0.1:{far.port} HTTP/1.1\r\nHost: 127.0.0.1:{far.port}"
    status, reader, writer = await proxy.ask(head, more=b"early ")
    assert status == 200
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await reader.readexactly(24) == b"EARLY GET / HTTP/1.1\r\n\r\n"
    (noted,) = proxy.notes.of("unprotected")
    assert noted == {"host": "127.0.0.1", "how": "connect"}
    big = b"x" * (4 * MIB)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(send(writer, big))
        assert await reader.readexactly(len(big)) == big.upper()
    writer.close()
    await writer.wait_closed()


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def test_an_end_that_reads_nothing_holds_back_the_other(proxy: Proxy, far: Far) -> None:
    _, reader, writer = await proxy.ask(f"CONNECT 127.0.0.1:{far.port} HTTP/1.1\r\nHost: x")
    # Its echo fills every buffer on the way, and then nothing moves.
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(send(writer, b"y" * (64 * MIB)), 1)
    read_ahead = len(await reader.read(MIB))
    assert 0 < read_ahead <= MIB
    writer.transport.abort()


async def test_a_tunnel_ends_when_either_end_does(
    proxy: Proxy, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TUNNELS_MAX", 1)
    head = f"CONNECT 127.0.0.1:{far.port} HTTP/1.1\r\nHost: x"
    _, _, writer = await proxy.ask(head)
    assert await proxy.status(head) == 503
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.05)
    monkeypatch.setattr(tunnel, "IDLE_S", 0.1)
    _, reader, writer = await proxy.ask(head)
    async with asyncio.timeout(2):
        assert await reader.read() == b""  # nothing moved
    writer.close()
    monkeypatch.undo()
    head = f"CONNECT 127.0.0.1:{far.refusing_port} HTTP/1.1\r\nHost: x"
    _, reader, writer = await proxy.ask(head, more=b"\r\n\r\n")
    assert await reader.readexactly(15) == b"HTTP/1.1 200 OK"
    writer.write_eof()
    async with asyncio.timeout(2):
        await reader.read()
    writer.close()


async def test_a_websocket_is_passed_on_where_tunnels_are(proxy: Proxy, far: Far) -> None:
    headers = {
        "Proxy-Authorization": proxy.authorization,
        "Coatcheck-Key": "k",
        "Connection": "Upgrade, X-Hop",
        "X-Hop": "1",
    }
    more: dict[str, Any] = {"headers": headers, "protocols": ("chat",)}
    via = f"http://127.0.0.1:{proxy.port}"
    async with aiohttp.ClientSession() as session:
        here = f"http://127.0.0.1:{far.web_port}/ws"
        async with session.ws_connect(here, proxy=via, **more) as socket:
            assert socket.protocol == "chat"
            await socket.send_str("abc" * 100_000)
            assert await socket.receive_str() == "ABC" * 100_000
        (noted,) = proxy.notes.of("unprotected")
        assert noted == {"host": "127.0.0.1", "how": "upgrade"}
        assert not proxy.served
        elsewhere = "http://allowed.example/ws"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(elsewhere, proxy=via, **more)
        assert refused.value.status == 403


async def test_an_upgrade_that_the_upstream_declines_opens_no_tunnel(
    proxy: Proxy, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = f"GET http://127.0.0.1:{far.refusing_port}/ws HTTP/1.1\r\nHost: x"
    status, reader, writer = await proxy.ask(f"{head}\r\nUpgrade: websocket")
    assert status == 502
    assert b"did not upgrade" in await reader.read()
    writer.close()
    assert far.heads[0].startswith(b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:")
    for wrong in ("Upgrade: h2c", "Upgrade: websocket\r\nContent-Length: 3"):
        assert await proxy.status(f"{head}\r\nConnection: Upgrade\r\n{wrong}") in (400, 403)
    posted = head.replace("GET", "POST")
    assert await proxy.status(f"{posted}\r\nUpgrade: websocket") == 403
    gone = "GET http://127.0.0.1:1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket"
    assert await proxy.status(gone) == 502
    assert await proxy.status("CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x") == 502
    monkeypatch.setattr(module, "HEAD_S", 0.1)
    silent = f"GET http://127.0.0.1:{far.port}/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket"
    assert await proxy.status(silent) == 502
    assert len(far.heads) == 1


@pytest.mark.parametrize(
    ("method", "raw", "found"),
    [
        ("GET", "http://H:81/a?b", Target("http", "h", 81, "/a?b")),
        ("GET", "https://[::1]/", Target("https", "::1", 443, "/")),
        ("CONNECT", "h:443", Target("", "h", 443)),
    ],
)
def test_targets(method: str, raw: str, found: Target) -> None:
    assert target_of(method, raw) == found
    assert Target("https", "::1", 443).authority == "[::1]"


def test_no_target() -> None:
    with pytest.raises(Problem):
        target_of("GET", "*")


def test_tokens() -> None:
    assert token_of([]) == token_of(["Basic"]) == token_of(["Basic /w=="]) == ""
    assert token_of(["bearer  x "]) == "x"
    assert token_of(["basic " + base64.b64encode(b"a:b:c").decode()]) == "a"
    assert token_of(["Bearer a", "Bearer a"]) == ""
