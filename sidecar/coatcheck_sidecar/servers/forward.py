"""The forward proxy, for agents whose one lever is `HTTP_PROXY=http://<token>@127.0.0.1:7070`.

A plain request in absolute form is a call like any other: of the tool that has this upstream, or of
an unnamed one with its host for a name, where the configuration allows that host. Tunnels (CONNECT)
and WebSockets are opaque: nothing in them can be deduplicated, so they are open to the hosts and
ports that the configuration lists, and counted as `unprotected`.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from coatcheck.wire import Retry
from coatcheck_sidecar.core.address import literal
from coatcheck_sidecar.core.forward import Forward, Place, normal
from coatcheck_sidecar.core.relay import BadRequest, check_path, check_target
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.bindings import Binding, Bindings
from coatcheck_sidecar.ports import NotSent, Observer
from coatcheck_sidecar.servers.problems import Problem
from coatcheck_sidecar.servers.tunnel import tunnel
from coatcheck_sidecar.upstreams.dial import Streams, dial, hang_up

if TYPE_CHECKING:
    from aiohttp import web

    Busy = Callable[[str], AbstractContextManager[object]]
    Serve = Callable[[web.BaseRequest, Binding, Tool, str], Awaitable[web.StreamResponse]]

HOST: Final = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]{1,253})"
ABSOLUTE: Final = re.compile(
    rf"(?P<scheme>https?)://{HOST}(?::(?P<port>[0-9]{{1,5}}))?(?P<rest>[/?][!-\[\]-~]*)?", re.ASCII
)
"""RFC 9112, section 3.2.2, without what no proxy should forward: user info, fragment, backslash."""
AUTHORITY: Final = re.compile(rf"{HOST}:(?P<port>[0-9]{{1,5}})", re.ASCII)
"""RFC 9112, section 3.2.3."""
PORTS: Final = {"http": 80, "https": 443}
PORT_MAX: Final = 65_535
TUNNELS_MAX: Final = 256
UNNAMED_MAX: Final = 1_024
"""Hosts behind a `*`: each has connections of its own."""
HEAD_S: Final = 30.0
"""For an upstream's answer to an upgrade."""
STATUS: Final = re.compile(rb"HTTP/1\.1 (?P<status>[0-9]{3})(?: [^\r\n]*)?")
NOT_PASSED: Final = frozenset({
    "connection", "content-length", "date", "host", "keep-alive", "proxy-authenticate",
    "proxy-authorization", "proxy-connection", "server", "te", "trailer", "transfer-encoding",
    "upgrade", "coatcheck-run", "coatcheck-step", "coatcheck-key",
})  # fmt: skip
"""Of one hop (RFC 9110, section 7.6.1), or of ours; said anew where they are needed."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request wants to go."""

    scheme: str
    host: str
    port: int
    rest: str = "/"

    @property
    def authority(self) -> str:
        """As it is written in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS.get(self.scheme) else f"{host}:{self.port}"


def target_of(method: str, raw: str) -> Target:
    """Read the target of a request to a proxy, as it came; raises `Problem`."""
    found = (AUTHORITY if method == "CONNECT" else ABSOLUTE).fullmatch(raw)
    if found is None:
        raise _refused(400, "protocol_error", why="no target that a proxy could forward to")
    parts = found.groupdict()
    scheme = parts.get("scheme") or ""
    port = int(parts["port"] or PORTS[scheme])
    rest = parts.get("rest") or "/"
    rest = rest if rest.startswith("/") else f"/{rest}"
    if not 0 < port <= PORT_MAX:
        raise _refused(400, "protocol_error", why=f"{port} is no port")
    try:
        check_target(rest)
        check_path(rest.partition("?")[0])
    except BadRequest as error:
        raise _refused(400, "protocol_error", why=str(error)) from error
    return Target(scheme, normal(parts["host"] or ""), port, rest)


def token_of(said: Iterable[str]) -> str:
    """The user of a `Proxy-Authorization: Basic`, or its bearer; empty if there is no one such."""
    (header, *others) = [*said, ""]
    scheme, _, value = header.partition(" ")
    if len(others) > 1:
        return ""
    if scheme.lower() == "bearer":
        return value.strip()
    try:
        decoded = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    return decoded.partition(":")[0] if scheme.lower() == "basic" else ""


class ForwardProxy:
    """Handles what comes in absolute form, and CONNECT."""

    def __init__(
        self,
        forward: Forward | None,
        *,
        tools: Iterable[Tool],
        bindings: Bindings,
        serve: "Serve",
        busy: "Busy",
        observer: Observer,
    ) -> None:
        """`forward` is `None` where it is off.

        `serve` does a call: it gets the tool, and what of the URL stands behind its upstream.
        `busy` is entered meanwhile, with the agent's token.
        """
        self._forward = forward
        self._bindings = bindings
        self._serve = serve
        self._busy = busy
        self._unnamed: dict[str, Tool] = {}
        self._observer = observer
        self._tunnels = 0
        self._by_place: dict[tuple[str, str, int], list[tuple[str, Tool]]] = {}
        for tool in tools:
            self._place(tool)

    def _place(self, tool: Tool) -> None:
        url = urlsplit(tool.upstream or tool.mcp)
        port = url.port or PORTS.get(url.scheme, 0)
        known = self._by_place.setdefault((url.scheme, normal(url.hostname or ""), port), [])
        known.append((url.path.rstrip("/"), tool))
        known.sort(key=lambda entry: len(entry[0]), reverse=True)

    async def handle(self, request: "web.BaseRequest") -> "web.StreamResponse":
        """Answer one request; nothing is raised but cancellation."""
        try:
            token, binding = self._admitted(request)
            target = target_of(request.method, request.raw_path)
            with self._busy(token):
                if request.method == "CONNECT":
                    return await self._connect(request, target)
                tool, rest = self._tool(target)
                if "Upgrade" in request.headers:
                    return await self._upgrade(request, target)
                return await self._serve(request, binding, tool, rest)
        except Problem as problem:
            return problem.response()

    def _admitted(self, request: "web.BaseRequest") -> tuple[str, Binding]:
        if self._forward is None:
            why = "the forward proxy is off: set `forward`, or use a tool's route"
            raise _refused(403, "forbidden", why=why)
        if len(request.headers.getall("Host", [])) > 1:
            raise _refused(400, "protocol_error", why="two Host headers")
        token = token_of(request.headers.getall("Proxy-Authorization", []))
        binding = self._bindings.find(token)
        if binding is None:
            why = "no token of a run that is open here: HTTP_PROXY=http://<token>@127.0.0.1:7070"
            headers = {"Proxy-Authenticate": 'Basic realm="coatcheck"'}
            raise _refused(407, "unknown_token", why=why, headers=headers)
        return token, binding

    def _tool(self, target: Target) -> tuple[Tool, str]:
        """Whose call it is, and what stands behind the tool's upstream."""
        path = target.rest.partition("?")[0]
        for base, tool in self._by_place.get((target.scheme, target.host, target.port), ()):
            if path != base and not path.startswith(f"{base}/"):
                continue
            if tool.mcp:
                why = f"{tool.name} is an MCP server: point the client at its route"
                raise _refused(403, "forbidden", why=why)
            return tool, target.rest[len(base) :]
        return self._unnamed_tool(target), target.rest

    def _unnamed_tool(self, target: Target) -> Tool:
        place = self._allowed(target, (self._forward or Forward()).allow)
        upstream = f"{target.scheme}://{target.authority}"
        if upstream not in self._unnamed:
            if len(self._unnamed) >= UNNAMED_MAX:
                raise _refused(503, "unavailable", why=f"{UNNAMED_MAX} hosts are known already")
            # With its port: no name of the configuration has a colon.
            name = f"{target.host}:{target.port}"
            tool = Tool(name=name, upstream=upstream, private=_is_private(place))
            self._unnamed[upstream] = tool
        return self._unnamed[upstream]

    def _allowed(self, target: Target, places: Iterable[Place]) -> Place:
        for place in places:
            if place.holds(target.host, target.port):
                return place
        which = f"{target.host}:{target.port}"
        why = f"{which} is not among the hosts that the configuration's `forward` lists"
        raise _refused(403, "forbidden", why=why)

    async def _connect(self, request: "web.BaseRequest", target: Target) -> "web.StreamResponse":
        from aiohttp import web

        streams = await self._dial(target, how="connect")
        response = web.StreamResponse(status=200, reason="Connection established")
        return await self._carry(request, response, streams=streams)

    async def _upgrade(self, request: "web.BaseRequest", target: Target) -> "web.StreamResponse":
        """A WebSocket: its head is passed on, and only a 101 opens the tunnel.

        Were another answer carried as it came, the agent would take the connection for one that it
        can send calls by, and nobody would look at them.
        """
        from aiohttp import web

        is_plain = target.scheme == "http" and request.method == "GET"
        is_plain = is_plain and not request.can_read_body
        if request.headers["Upgrade"].lower() != "websocket" or not is_plain:
            raise _refused(403, "forbidden", why="of upgrades, only plain WebSockets are passed on")
        streams = await self._dial(target, how="upgrade")
        try:
            headers = await _ask_upgrade(request, target, streams=streams)
        except BaseException:
            await hang_up(streams[1])
            raise
        response = web.StreamResponse(status=101, headers=headers)
        return await self._carry(request, response, streams=streams)

    async def _dial(self, target: Target, *, how: str) -> Streams:
        place = self._allowed(target, (self._forward or Forward()).connect)
        if self._tunnels >= TUNNELS_MAX:
            why = f"{TUNNELS_MAX} tunnels are open"
            raise _refused(503, "unavailable", why=why, retry=Retry.LATER)
        try:
            streams = await dial(target.host, target.port, is_private_ok=_is_private(place))
        except NotSent as error:
            raise _refused(502, "unavailable", why=str(error), retry=Retry.LATER) from error
        self._observer.note("unprotected", host=target.host, how=how)
        return streams

    async def _carry(
        self, request: "web.BaseRequest", response: "web.StreamResponse", *, streams: Streams
    ) -> "web.StreamResponse":
        response.force_close()
        self._tunnels += 1
        try:
            await response.prepare(request)
            await tunnel(request, response, streams=streams)
        finally:
            self._tunnels -= 1
            await hang_up(streams[1])
        return response


def _is_private(place: Place) -> bool:
    """Named by its address: a name may come to mean another one, and is never private."""
    return place.host == "localhost" or literal(place.host) is not None


async def _ask_upgrade(
    request: "web.BaseRequest", target: Target, *, streams: Streams
) -> list[tuple[str, str]]:
    """Send the head; the headers of a 101. Raises `Problem` for any other answer."""
    reader, writer = streams
    named = ",".join(request.headers.getall("Connection", [])).lower().split(",")
    dropped = NOT_PASSED | {name.strip() for name in named}
    passed = [
        (name, value) for name, value in request.headers.items() if name.lower() not in dropped
    ]
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    lines = [f"{name}: {value}" for name, value in [("Host", target.authority), *upgrade, *passed]]
    head = "\r\n".join([f"{request.method} {target.rest} HTTP/1.1", *lines, "", ""])
    writer.write(head.encode("utf-8", "surrogateescape"))
    try:
        async with asyncio.timeout(HEAD_S):
            answer = await reader.readuntil(b"\r\n\r\n")
    except (TimeoutError, OSError, EOFError, asyncio.LimitOverrunError) as error:
        why = f"{target.host} did not answer the upgrade: {error!r:.100}"
        raise _refused(502, "unavailable", why=why) from error
    first, *rest = answer.removesuffix(b"\r\n\r\n").split(b"\r\n")
    status = STATUS.fullmatch(first)
    if status is None or status["status"] != b"101":
        raise _refused(502, "unavailable", why=f"{target.host} did not upgrade: {first!r:.60}")
    pairs = [line.decode("latin-1").partition(":") for line in rest]
    kept = [(name, value.strip()) for name, _, value in pairs if name.lower() not in NOT_PASSED]
    return [*upgrade, *kept]


def _refused(
    status: int,
    code: str,
    *,
    why: str,
    headers: dict[str, str] | None = None,
    retry: Retry = Retry.NEVER,
) -> Problem:
    """The connection ends with it: what follows a refused tunnel is not to be read as requests."""
    return Problem(status, code, detail=why, headers=headers, retry=retry, close=True)
