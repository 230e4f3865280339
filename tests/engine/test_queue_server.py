"""The listener for scalers: two questions, two probes, and never an old answer."""

import asyncio

import aiohttp
import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.waiting import Waiting
from coatcheck_sidecar.engine.lookout import Look
from coatcheck_sidecar.ports import StoreError
from coatcheck_sidecar.servers.queue import Desk, queue_server


class Looks:
    def __init__(self) -> None:
        self.count = 0
        self.is_away = False

    async def look(self) -> Look:
        self.count += 1
        await asyncio.sleep(0.01)
        if self.is_away:
            raise StoreError("the link is down")
        return Look((Waiting(queue="mail", ready=self.count),), False)


async def status(session: aiohttp.ClientSession, path: str, *, method: str = "GET") -> int:
    async with session.request(method, path) as response:
        return response.status


async def test_answers_and_probes_and_nothing_else() -> None:
    looks = Looks()
    server = queue_server(Desk(looks, SystemClock(), every_s=0.0), host="127.0.0.1", port=0)
    await server.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
        async with session.get("/v1/queue") as response:
            assert (await response.json())["wanted"] == 1
        async with session.get("/v1/queues/mail") as response:
            assert (await response.json())["ready"] == 2
            assert response.headers["Cache-Control"] == "no-store"
        async with session.get("/v1/queues/other") as response:
            assert await response.json() == {
                "queue": "other", "wanted": 0, "ready": 0, "later": 0, "owned": 0, "undoing": 0,
                "parked": 0, "held": 0, "is_cut": False,
            }  # fmt: skip
        assert [await status(session, path) for path in ("/livez", "/readyz")] == [200, 200]
        for path in ("/", "/metrics", "/drain", "/v1/runs", "/v1/queues/a%2Fb", "/v1/queues/"):
            assert await status(session, path) == 404
        assert await status(session, "/v1/queue", method="POST") == 405
        looks.is_away = True
        assert await status(session, "/readyz") == 200  # by the look of a moment ago
        for path in ("/v1/queue", "/v1/queues/mail", "/readyz"):
            assert await status(session, path) == 503
        assert await status(session, "/livez") == 200
    await server.close()


async def test_all_who_ask_in_a_moment_get_one_look_and_a_failed_one_is_not_kept() -> None:
    looks = Looks()
    desk = Desk(looks, SystemClock(), every_s=60.0)
    looks.is_away = True
    with pytest.raises(StoreError):
        await desk.look()
    looks.is_away = False
    found = await asyncio.gather(*(desk.look() for _ in range(10)))
    assert looks.count == 2
    assert all(look is found[0] for look in found)
