"""The clock of an object store: read from an object, carried on by ours."""

import pytest
from aiohttp import web

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.ports import StoreError
from coatcheck_sidecar.stores import objects
from tests.contract.faults import CarelessS3, answering, error, open_at

STORE_MS = 1_795_348_800_000
"""What the fake says each object was written at: 2026-11-22 12:00:00 GMT."""


class Watch(SystemClock):
    at_s = 100.0

    def boottime(self) -> float:
        return self.at_s


async def test_a_reading_is_carried_on_and_renewed() -> None:
    server = CarelessS3()
    asked: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request.method)
        return await server.handle(request)

    watch = Watch()
    async with answering(handle) as endpoint:
        store = open_at(endpoint, clock=watch)
        assert await store.now_ms() == STORE_MS
        watch.at_s += 1.5
        assert await store.now_ms() == STORE_MS + 1500
        assert asked == ["PUT", "HEAD"]
        watch.at_s += objects.CLOCK_AGE_MAX_S
        assert await store.now_ms() == STORE_MS
    assert len(asked) == 4
    assert [name.rpartition("/")[0] for name in server.objects] == ["/bucket/prefix/clock"]


async def test_an_old_reading_is_not_passed_off_as_new() -> None:
    server = CarelessS3()
    is_down = False

    async def handle(request: web.Request) -> web.StreamResponse:
        return error(500, "InternalError") if is_down else await server.handle(request)

    watch = Watch()
    async with answering(handle) as endpoint:
        store = open_at(endpoint, clock=watch)
        await store.now_ms()
        is_down = True
        assert await store.now_ms() == STORE_MS
        watch.at_s += objects.CLOCK_AGE_MAX_S + 1
        with pytest.raises(StoreError, match="InternalError"):
            await store.now_ms()
