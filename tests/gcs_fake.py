"""The part of Google Cloud Storage's XML API that a store uses, with its limit of writes.

    async with gcs() as fake:
        os.environ["STORAGE_EMULATOR_HOST"] = fake.endpoint

By cloud.google.com/storage/docs/xml-api: generations count up, `x-goog-if-generation-match` is a
condition (0: nothing may be there), listings are of version 2. One object is written once in
`apart_s`; a write that comes sooner is answered 429, as the real service does.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final
from xml.sax.saxutils import escape

from aiohttp import web

PAGE: Final = 1_000


@dataclass(frozen=True)
class Kept:
    data: bytes
    generation: int
    written: datetime

    @property
    def headers(self) -> dict[str, str]:
        return {
            "ETag": f'"{hashlib.md5(self.data, usedforsecurity=False).hexdigest()}"',
            "x-goog-generation": str(self.generation),
            "Last-Modified": format_datetime(self.written, usegmt=True),
        }


@dataclass
class FakeGcs:
    apart_s: float = 0.0
    endpoint: str = ""
    buckets: dict[str, dict[str, Kept]] = field(default_factory=dict)
    refused: int = 0
    """Writes that came too soon."""
    _generation: int = 0
    _written_s: dict[tuple[str, str], float] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.Response:
        bucket, name = request.match_info["bucket"], request.match_info.get("name", "")
        objects = self.buckets.get(bucket)
        if objects is None:
            return _error(404, "NoSuchBucket")
        if not name:
            return _listing(objects, request.query)
        kept = objects.get(name)
        if request.method == "PUT":
            return await self._put(request, objects, bucket=bucket, name=name)
        if kept is None:
            return _error(404, "NoSuchKey")
        if request.method == "DELETE":
            del objects[name]
            return web.Response(status=204)
        return web.Response(body=kept.data, headers=kept.headers)

    async def _put(
        self, request: web.Request, objects: dict[str, Kept], *, bucket: str, name: str
    ) -> web.Response:
        data = await request.read()
        wanted = request.headers.get("x-goog-if-generation-match")
        kept = objects.get(name)
        if wanted is not None and int(wanted) != (kept.generation if kept else 0):
            return _error(412, "PreconditionFailed")
        now_s = time.monotonic()
        if now_s - self._written_s.get((bucket, name), float("-inf")) < self.apart_s:
            self.refused += 1
            return _error(429, "SlowDown")
        self._written_s[bucket, name] = now_s
        self._generation += 1
        objects[name] = made = Kept(data, self._generation, datetime.now(UTC))
        return web.Response(headers=made.headers)


def _listing(objects: dict[str, Kept], query: Mapping[str, str]) -> web.Response:
    prefix = query.get("prefix", "")
    after = query.get("continuation-token") or query.get("start-after", "")
    names = sorted(n for n in objects if n.startswith(prefix) and n > after)
    page = names[: int(query.get("max-keys", PAGE))]
    lines = "".join(
        f"<Contents><Key>{escape(name)}</Key><Size>{len(objects[name].data)}</Size>"
        f"<LastModified>{objects[name].written.isoformat().replace('+00:00', 'Z')}</LastModified>"
        f"<ETag>{escape(objects[name].headers['ETag'])}</ETag></Contents>"
        for name in page
    )
    if len(page) < len(names):
        lines += f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"
    text = f"<ListBucketResult>{lines}</ListBucketResult>"
    return web.Response(text=text, content_type="application/xml")


def _error(status: int, code: str) -> web.Response:
    text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


@asynccontextmanager
async def gcs(*, apart_s: float = 0.0) -> AsyncIterator[FakeGcs]:
    """One on loopback, with the bucket `runs`."""
    fake = FakeGcs(apart_s)
    fake.buckets["runs"] = {}
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{bucket}/{name:.+}", fake.handle)
    app.router.add_route("*", "/{bucket}", fake.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    fake.endpoint = f"http://127.0.0.1:{port}"
    try:
        yield fake
    finally:
        await runner.cleanup()
