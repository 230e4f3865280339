"""Blobs over loopback: `PUT`, `HEAD`, `GET` and `DELETE` of `<proxy>/~blobs/<sha-256>`.

A `PUT` that broke off goes on: a `HEAD` says by `Coatcheck-Received` how much is here, and the next
`PUT` begins there, with a `Content-Range`.
"""

from collections.abc import AsyncIterator
from typing import Final
from weakref import WeakKeyDictionary

from aiohttp import web

from coatcheck.wire import ErrorCode
from coatcheck_sidecar.core.blob import NAME, range_of
from coatcheck_sidecar.core.relay import BadRequest, Target
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.bindings import Binding
from coatcheck_sidecar.engine.blobs import Blobs
from coatcheck_sidecar.engine.keeper import Keeper

RECEIVED: Final = "Coatcheck-Received"


class BlobRoute:
    """Answers requests below `~blobs`."""

    def __init__(self, *, bytes_max: int) -> None:
        """`bytes_max` bounds one blob."""
        self._bytes_max = bytes_max
        self._blobs: WeakKeyDictionary[Keeper, Blobs] = WeakKeyDictionary()

    async def answer(  # noqa: PLR0917 - as the proxy's other routes
        self, request: web.BaseRequest, binding: Binding, target: Target
    ) -> web.StreamResponse:
        """One request, to its end; raises `Refusal`, `BadRequest`."""
        name = target.rest.removeprefix("/")
        if not NAME.fullmatch(name):
            raise BadRequest(f"{name!r:.80} is no blob's name: the SHA-256 in 64 hex digits")
        keeper = binding.keeper
        blobs = self._blobs.get(keeper) or Blobs(keeper, bytes_max=self._bytes_max)
        self._blobs[keeper] = blobs
        match request.method:
            case "PUT":
                await self._put(request, blobs, name=name)
                return await _said(request, web.Response(status=201))
            case "HEAD":
                return await _said(request, _head(blobs, name))
            case "GET":
                return await _get(request, blobs, name=name)
            case "DELETE":
                await blobs.drop(name)
                return await _said(request, web.Response(status=204))
            case other:
                raise BadRequest(f"{other}: a blob takes PUT, HEAD, GET and DELETE")

    async def _put(self, request: web.BaseRequest, blobs: Blobs, *, name: str) -> None:
        length = request.content_length
        if length is None:
            raise BadRequest("a blob comes with its Content-Length")
        try:
            offset, whole = range_of(request.headers.get("Content-Range"), length=length)
        except ValueError as error:
            raise BadRequest(str(error)) from error
        await blobs.put(name, _pieces(request), offset=offset, length=whole)


async def _pieces(request: web.BaseRequest) -> AsyncIterator[bytes]:
    while data := await request.content.readany():
        yield data


def _head(blobs: Blobs, name: str) -> web.Response:
    length = blobs.length_of(name)
    if length is None:
        return web.Response(status=404, headers={RECEIVED: str(blobs.received(name))})
    return web.Response(status=200, headers={"Content-Length": str(length)})


async def _get(request: web.BaseRequest, blobs: Blobs, *, name: str) -> web.StreamResponse:
    length = blobs.length_of(name)
    if length is None:
        raise Refusal(ErrorCode.NOT_FOUND, f"this run has no blob {name}")
    response = web.StreamResponse(headers={"Content-Length": str(length)})
    pieces = blobs.get(name)
    # Damage of the first part is still an answer of its own.
    first = await anext(pieces, memoryview(b""))
    await response.prepare(request)
    await response.write(first)
    try:
        async for data in pieces:
            await response.write(data)
    except Refusal:  # the head is out: what can still be said is that this is not all
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write_eof()
    return response


async def _said(request: web.BaseRequest, response: web.Response) -> web.Response:
    await response.prepare(request)
    await response.write_eof()
    return response
