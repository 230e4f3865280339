"""Each library's transport: what it says to the proxy, and to nobody else."""

import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import aiohttp
import httpx
import httpx2
import pytest
import requests

from coatcheck._session import Session
from coatcheck._tool import HERE, Here
from coatcheck.http import KEY, RUN, STEP
from coatcheck.http.aiohttp import trace
from coatcheck.http.httpx import AsyncTransport, Transport
from coatcheck.http.httpx2 import AsyncTransport as AsyncTransport2
from coatcheck.http.httpx2 import Transport as Transport2
from coatcheck.http.requests import Adapter
from tests.client.script import RUN as OPENING

TOKEN = "0123456789abcdef0123456789abcdef"
BODY = b'{"amount": 3}'


class Seen(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def said(self) -> dict[str, str | None]:
        return {name: self.headers.get(name) for name in (RUN, STEP, KEY)}


class Server(ThreadingHTTPServer):
    """Remembers requests; `/<token>/away` leads to `elsewhere`."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.elsewhere = ""
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(Seen(self.command, self.path, dict(self.headers), body))
        is_away = self.path.endswith("/away")
        self.send_response(307 if is_away else 200)
        if is_away:
            self.send_header("Location", f"{self.server.elsewhere}/{TOKEN}/there")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """The proxy, which is this run's in step 3, and another host; call `k` is under way."""
    proxy, other = Server(), Server()
    proxy.elsewhere = other.url
    session = Session(OPENING)
    session.proxy = f"{proxy.url}/{TOKEN}"
    before = HERE.get()
    HERE.set(Here(session, 3, "k", is_named=True))
    yield proxy, other
    HERE.set(before)
    for server in (proxy, other):
        server.shutdown()
        server.server_close()


SAID = {RUN: "r", STEP: "3", KEY: "k"}
NOTHING = dict.fromkeys(SAID)


def post_by_httpx(url: str, headers: dict[str, str]) -> int:
    with httpx.Client(transport=Transport(), follow_redirects=True) as http:
        return http.post(url, content=BODY, headers=headers).status_code


def post_by_httpx2(url: str, headers: dict[str, str]) -> int:
    with httpx2.Client(transport=Transport2(), follow_redirects=True) as http:
        return http.post(url, content=BODY, headers=headers).status_code


def post_by_requests(url: str, headers: dict[str, str]) -> int:
    with requests.Session() as http:
        http.mount("http://", Adapter())
        return http.post(url, data=BODY, headers=headers, timeout=5).status_code


Post = Callable[[str, dict[str, str]], int]
AsyncPost = Callable[[str, dict[str, str]], Awaitable[int]]


@pytest.mark.parametrize("post", [post_by_httpx, post_by_httpx2, post_by_requests])
def test_without_asyncio(servers: tuple[Server, Server], post: Post) -> None:
    proxy, other = servers
    assert post(f"{proxy.url}/{TOKEN}/mail/send", {}) == 200
    assert post(f"{proxy.url}/{TOKEN}/mail/send", {KEY: "mine"}) == 200
    assert post(f"{other.url}/{TOKEN}/mail/send", {}) == 200
    assert post(f"{proxy.url}/{TOKEN}/mail/away", {}) == 200
    assert [seen.said for seen in proxy.seen] == [SAID, {**SAID, KEY: "mine"}, SAID]
    assert [seen.said for seen in other.seen] == [NOTHING, NOTHING]
    assert {seen.body for seen in proxy.seen + other.seen} == {BODY}


async def post_by_async_httpx(url: str, headers: dict[str, str]) -> int:
    async with httpx.AsyncClient(transport=AsyncTransport(), follow_redirects=True) as http:
        return (await http.post(url, content=BODY, headers=headers)).status_code


async def post_by_async_httpx2(url: str, headers: dict[str, str]) -> int:
    async with httpx2.AsyncClient(transport=AsyncTransport2(), follow_redirects=True) as http:
        return (await http.post(url, content=BODY, headers=headers)).status_code


async def post_by_aiohttp(url: str, headers: dict[str, str]) -> int:
    http = aiohttp.ClientSession(trace_configs=[trace()])
    async with http, http.post(url, data=BODY, headers=headers) as answer:
        return answer.status


@pytest.mark.parametrize("post", [post_by_async_httpx, post_by_async_httpx2, post_by_aiohttp])
async def test_with_asyncio(servers: tuple[Server, Server], post: AsyncPost) -> None:
    proxy, other = servers
    assert await post(f"{proxy.url}/{TOKEN}/mail/send", {}) == 200
    assert await post(f"{proxy.url}/{TOKEN}/mail/send", {KEY: "mine"}) == 200
    assert await post(f"{other.url}/{TOKEN}/mail/send", {}) == 200
    assert await post(f"{proxy.url}/{TOKEN}/mail/away", {}) == 200
    assert [seen.said for seen in proxy.seen] == [SAID, {**SAID, KEY: "mine"}, SAID]
    assert [seen.said for seen in other.seen] == [NOTHING, NOTHING]
    assert {seen.body for seen in proxy.seen + other.seen} == {BODY}


def test_a_read_goes_without_the_key(servers: tuple[Server, Server]) -> None:
    with httpx.Client(transport=Transport()) as http:
        http.get(f"{servers[0].url}/{TOKEN}/mail/list")
    assert servers[0].seen[0].said == {**SAID, KEY: None}
