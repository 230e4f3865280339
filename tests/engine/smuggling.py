"""Requests that two readers could take for different ones, and an upstream that reads strictly."""

import asyncio
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Final

PREFIX: Final = "/base/m/"
INNER: Final = b"GET /base/smuggled HTTP/1.1\r\nHost: upstream\r\nX-Inner: 1\r\n\r\n"
"""As an upstream would take it; here it is nobody's route."""
LINE: Final = re.compile(rb"[A-Z]+ (/[\x21-\x7e]*) HTTP/1\.1")
FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\x20-\x7e\x80-\xff\t]*)")
LENGTH: Final = re.compile(rb"[0-9]{1,12}")
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"
SPECIAL: Final = (
    b"\0", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x0b", b"\x0c", b"\x7f", b"\xff", b"\xc2\x85",
    b":", b";", b",", b"\r\n ", b"\r\n\t", b"\n\n", b"\r\r", b'"', b"%00", b"0", b"-", b"+", b"_",
)  # fmt: skip

FRAMINGS: Final = (
    b"Content-Length: {n}",
    b"Content-Length: +{n}",
    b"Content-Length: -{n}",
    b"Content-Length: 0{n}",
    b"Content-Length: 0x{n}",
    b"Content-Length: {n}.0",
    b"Content-Length: 1_0",
    b"Content-Length: {n}, {n}",
    b"Content-Length: {n}\r\nContent-Length: {n}",
    b"Content-Length: {n}\r\nContent-Length: 0",
    b"Content-Length: 0\r\nContent-Length: {n}",
    b"Content-Length: 0",
    b"Content-Length:",
    b"Content-Length: \xb2",
    b"Content-Length : {n}",
    b" Content-Length: {n}",
    b"Content-Length\t: {n}",
    b"Content-Length: {n}\0",
    b"Content-Length: {n}\x0b",
    b"Content_Length: {n}",
    b"Content-Length: 99999999999999999999999999",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunkedx",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: Chunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: chunked\t",
    b"Transfer-Encoding: 'chunked'",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: chunked;q=1",
    b"Transfer-Encoding : chunked",
    b" Transfer-Encoding: chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding: chu\r\n nked",
    b"X: y\r\n Transfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"X: y\0\r\nTransfer-Encoding: chunked",
    b"Transfer_Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding:",
    b"Transfer-Encoding: chunked\r\nContent-Length: {n}",
    b"Content-Length: {n}\r\nTransfer-Encoding: chunked",
    b"Content-Length: 4\r\nTransfer-Encoding: xchunked",
    b"Content-Length: 4\r\nTransfer-Encoding : chunked",
    b"Content-Length: {n}\r\nTransfer-Encoding: \x00chunked",
    b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    b"Connection: Content-Length\r\nContent-Length: {n}",
    b"Connection: close, Host\r\nContent-Length: {n}",
    b"Content-Length: {n}\r\nExpect: 100-continue",
    b"Content-Length: {n}\r\nConnection: Upgrade\r\nUpgrade: websocket",
    b"Content-Length: 0\r\nConnection: Upgrade\r\nUpgrade: websocket",
    b"Content-Length: 0\r\nConnection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: ",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked",
    b"Trailer: Content-Length\r\nTransfer-Encoding: chunked",
    b"X-Nothing: here",
)
CHUNKS: Final = (
    b"4\r\nabcd\r\n0\r\n\r\n",
    b"+4\r\nabcd\r\n0\r\n\r\n",
    b"-4\r\nabcd\r\n0\r\n\r\n",
    b"0x4\r\nabcd\r\n0\r\n\r\n",
    b" 4\r\nabcd\r\n0\r\n\r\n",
    b"4 \r\nabcd\r\n0\r\n\r\n",
    b"4\nabcd\n0\n\n",
    b"4\rabcd\r0\r\r",
    b"4\r\nabcdX\r\n0\r\n\r\n",
    b"4\r\nabcd0\r\n\r\n",
    b"4;x=y\r\nabcd\r\n0\r\n\r\n",
    b'4;x="\r\n\r\n"\r\nabcd\r\n0\r\n\r\n',
    b"4;x\nabcd\r\n0\r\n\r\n",
    b"4;\r\nabcd\r\n0;\r\n\r\n",
    b"00000000000000000000000000000004\r\nabcd\r\n0\r\n\r\n",
    b"fffffffffffffffff\r\nabcd\r\n0\r\n\r\n",
    b"4_0\r\nabcd\r\n0\r\n\r\n",
    b"\xd9\xa4\r\nabcd\r\n0\r\n\r\n",
    b"\r\n4\r\nabcd\r\n0\r\n\r\n",
    b"4\r\nabcd\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\n",
    b"4\r\nabcd\r\n0\r\nX : y\r\n\r\n",
    b"4\r\nabcd\r\n0\r\nX: y\r\n z\r\n\r\n",
    b"4\r\nabcd\r\n0\r\n\r\n\r\n",
    b"0\r\n\r\n",
    b"4\r\nabcd\r\n",
    b"abcd",
    b"",
)
VERSIONS: Final = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/0.9", b"HTTP/2.0", b"http/1.1")


def corpus(
    route: str, host: str, *, seed: int, count: int, token: str = "", is_connect: bool = False
) -> Iterator[bytes]:
    """`count` requests to `route`, its number behind it, each with a second one in its tail.

    With a `token` they are a forward proxy's; CONNECT has no number.
    """
    rand = random.Random(seed)
    pairs = list(product(FRAMINGS, CHUNKS))
    rand.shuffle(pairs)
    for number in range(count):
        framing, body = pairs[number % len(pairs)]
        version = VERSIONS[0] if rand.random() < 0.75 else rand.choice(VERSIONS)
        tail = body + INNER if rand.random() < 0.8 else body
        said = framing.replace(b"{n}", str(len(tail if rand.random() < 0.5 else body)).encode())
        start = f"CONNECT {route} " if is_connect else f"POST {route}{number} "
        line = start.encode() + version
        head = [line, b"Host: " + host.encode(), b"Content-Type: text/plain"]
        head += [f"Proxy-Authorization: Bearer {token}".encode()] if token else []
        rand.shuffle(added := [said, b"X-Number: %d" % number])
        raw = b"\r\n".join([*head, *added, b"", b""]) + tail
        yield _mutated(raw, rand, start=len(line) - len(version)) if number % 3 == 0 else raw


def _mutated(raw: bytes, rand: random.Random, *, start: int) -> bytes:
    """Some byte doubled, dropped, or put in, behind the target."""
    at = rand.randrange(start, len(raw))
    match rand.randrange(4):
        case 0:
            return raw[:at] + rand.choice(SPECIAL) + raw[at:]
        case 1:
            return raw[:at] + raw[at + 1 :]
        case 2:
            return raw[:at] + raw[at : at + 1] * 2 + raw[at + 1 :]
        case _:
            return raw.replace(b"\r\n", rand.choice((b"\n", b"\r", b"\n\r")), rand.randrange(1, 5))


@dataclass
class Strict:
    """An upstream that takes one spelling of a request and notes all others as faults."""

    port: int = 0
    targets: list[str] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while True:
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = self._read(head)
                    self.bodies[self.targets[-1]] = await reader.readexactly(length)
                except asyncio.IncompleteReadError as error:
                    if error.partial:
                        self.faults.append(f"a request that is cut: {error.partial!r}")
                    break
                writer.write(ANSWER)
                await writer.drain()
        writer.close()

    def _read(self, head: bytes) -> int:
        line, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        found = LINE.fullmatch(line)
        self.targets.append(found[1].decode() if found else repr(line))
        pairs = [FIELD.fullmatch(one) for one in fields]
        if found is None or None in pairs:
            self.faults.append(f"not well formed: {head!r}")
        named = [(pair[1].lower(), pair[2].strip()) for pair in pairs if pair]
        lengths = [value for name, value in named if name == b"content-length"]
        others = [name for name, _ in named]
        if len(lengths) > 1 or not all(map(LENGTH.fullmatch, lengths)):
            self.faults.append(f"lengths {lengths}: {head!r}")
        hops = {b"transfer-encoding", b"upgrade", b"trailer", b"te", b"expect"} & {*others}
        if hops or others.count(b"host") != 1:
            self.faults.append(f"hop by hop {hops}, or hosts: {head!r}")
        return int(lengths[0]) if lengths else 0


async def say(port: int, raw: bytes, *, timeout_s: float) -> bytes:
    """Send bytes on a connection of their own; what comes back until it is quiet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = b""
    with suppress(OSError, TimeoutError):
        writer.write(raw)
        while data := await asyncio.wait_for(reader.read(65_536), timeout_s):
            said += data
    writer.transport.abort()
    return said
