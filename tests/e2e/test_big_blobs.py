"""A blob of 100 MB through a real sidecar: as quick as a plain upload, in little memory."""

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import obstore
import pytest
from obstore.store import S3Store

from coatcheck.http import blobs
from tests.e2e.real_sidecar import real_sidecar
from tests.e2e.test_memory import watched
from tests.servers import S3Server, ServerUnavailableError, ministack, seaweedfs

LENGTH: Final = 100_000_000
ROUNDS: Final = 3
RATIO_MAX: Final = 1.5


@pytest.fixture(params=[ministack, seaweedfs], ids=["ministack", "seaweedfs"])
def server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    try:
        with request.param() as server:
            yield server
    except ServerUnavailableError as error:
        pytest.skip(str(error))


@contextlib.contextmanager
def timed(into: list[float]) -> Iterator[None]:
    began_s = time.perf_counter()
    yield
    into.append(time.perf_counter() - began_s)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_100_mb_there_and_back(server: S3Server, tmp_path: Path) -> None:
    store_url = server.make_bucket("runs-of-blobs")
    plain = S3Store(
        "runs-of-blobs",
        endpoint=server.endpoint,
        region=server.env["AWS_REGION"],
        access_key_id=server.env["AWS_ACCESS_KEY_ID"],
        secret_access_key=server.env["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True, "timeout": "60s"},
        virtual_hosted_style_request=False,
    )
    took: dict[str, list[float]] = {"plain put": [], "put": [], "plain get": [], "get": []}
    environ = {**server.env, "COATCHECK_STORE": store_url}
    source = tmp_path / "source"
    async with real_sidecar(tmp_path, {}, **environ) as real:
        wire, proxy = await real.agent()
        url = f"{proxy}/~blobs"
        await asyncio.to_thread(blobs.put, url, b"warm")
        async with watched(real):
            for number in range(ROUNDS):
                data = os.urandom(LENGTH)
                source.write_bytes(data)
                with timed(took["plain put"]):
                    await obstore.put_async(plain, f"plain{number}", data, use_multipart=False)
                with timed(took["put"]):
                    name = await asyncio.to_thread(blobs.put, url, source)
                with timed(took["plain get"]):
                    answer = await obstore.get_async(plain, f"plain{number}")
                    assert len(await answer.bytes_async()) == LENGTH
                with timed(took["get"]):
                    found = await asyncio.to_thread(blobs.get, url, name)
                assert found == data
                await asyncio.to_thread(blobs.drop, url, name)
        await wire.drop()
    middle = {what: statistics.median(times) for what, times in took.items()}
    print({what: round(each, 3) for what, each in middle.items()})
    assert middle["put"] <= RATIO_MAX * middle["plain put"]
    assert middle["get"] <= RATIO_MAX * middle["plain get"]
