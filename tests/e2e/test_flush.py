"""A few rounds of the flush campaign, in each `make test`; they mostly wait, so all at once."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.flush import FOUR, TRIALS, Trial, run_round
from tests.e2e.throttle import SLOW, throttled
from tests.servers import LOOPBACK, ministack

ENFORCE = replace(TRIALS["enforce-four"], after_s=(7.0, 9.0))
WARN = replace(TRIALS["warn"], load=replace(FOUR, runs=6, every_s=1.0), after_s=(5.0, 6.0))
EVICTION = TRIALS["eviction"]


@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_what_is_acknowledged_is_off_the_pod_when_its_grace_is_over(tmp_path: Path) -> None:
    with ministack() as server:

        async def found(trial: Trial, name: str) -> tuple[tuple[str, ...], float, int]:
            (tmp_path / name).mkdir()
            found = await run_round(trial, server, tmp_path / name, seed=1)
            return found.lost, found.value("flush_budget_warnings_total"), found.acknowledged

        enforce, warn, eviction, again = await asyncio.gather(
            found(ENFORCE, "enforce"),
            found(WARN, "warn"),
            found(EVICTION, "eviction"),
            found(EVICTION, "again"),
        )
    assert enforce[:2] == ((), 0)
    assert enforce[2] >= 2
    assert eviction[:2] == again[:2] == ((), 0)
    assert eviction[2] > 20
    # Without the budget it is lost, and the metric said so before the trigger.
    assert warn[0]
    assert warn[1] > 0


async def test_the_link_is_as_slow_as_it_says() -> None:
    """What shows losses must itself be shown: 200 KB up take 0.8 s, and a round trip 0.15."""
    got = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 20):
            got.extend(data)
            if len(got) == 200_000:
                writer.write(b"done")
        writer.close()

    far = await asyncio.start_server(serve, LOOPBACK, 0)
    url = f"http://{LOOPBACK}:{far.sockets[0].getsockname()[1]}"
    loop = asyncio.get_running_loop()
    async with throttled(url, SLOW) as link:
        reader, writer = await asyncio.open_connection(LOOPBACK, link.port)
        began_s = loop.time()
        writer.write(bytes(200_000))
        assert await reader.readexactly(4) == b"done"
        assert 0.9 < loop.time() - began_s < 1.6
        writer.write(bytes(100_000))
        await asyncio.sleep(0.3)
        link.cut()
        assert not await _rest(reader)
        writer.close()
        assert 200_000 < len(got) < 290_000  # what was on its way is lost
    far.close()
    await far.wait_closed()


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""
