"""As a program: an upstream that answers 4 KiB, or a plain aiohttp reverse proxy before one.

The proxy is the floor of ours: server and client of the same library, under the same loop, and
nothing in between.
"""

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web

ANSWER = b'{"data":"' + b"x" * 4_096 + b'"}'
JSON = {"Content-Type": "application/json"}


async def upstream(request: web.BaseRequest) -> web.StreamResponse:
    await request.read()
    return web.Response(body=ANSWER, headers=JSON)


def proxy_of(session: aiohttp.ClientSession, target: str) -> web.Server:
    async def proxy(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        headers = {k: v for k, v in request.headers.items() if k not in ("Host", "Content-Length")}
        async with session.request(
            request.method,
            target + request.path_qs,
            data=body,
            headers=headers,
            allow_redirects=False,
        ) as answer:
            reply = web.StreamResponse(status=answer.status)
            for name in ("Content-Type", "Content-Length"):
                if name in answer.headers:
                    reply.headers[name] = answer.headers[name]
            await reply.prepare(request)
            async for piece in answer.content.iter_any():
                await reply.write(piece)
            await reply.write_eof()
            return reply

    return web.Server(proxy)


async def serve(port: int, target: str | None) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        server = proxy_of(session, target) if target else web.Server(upstream)
        await asyncio.get_running_loop().create_server(server, "127.0.0.1", port)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
