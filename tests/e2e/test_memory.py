"""A body of any size passes through a sidecar that stays small."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.e2e.real_sidecar import Real, real_sidecar
from tests.engine.harness import until
from tests.engine.proxying import STREAM_HEAD, Behaviour, Far, Seen, far_server

MIB: Final = 2**20
PIECE: Final = b"x" * MIB
GROWTH_BYTES_MAX: Final = 64 * MIB
SIZES: Final = [
    pytest.param(100, marks=pytest.mark.timeout(60)),
    pytest.param(1024, marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
]
EFFECTS: Final = ("read", "idempotent")


def tools(far: Far, **more: Any) -> dict[str, dict[str, Any]]:
    """A passed and a recorded one."""
    return {
        effect: {"upstream": far.url, "private": True, "effect": effect, **more}
        for effect in EFFECTS
    }


def big_answer(mib: int) -> Behaviour:
    async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {mib * MIB}\r\n\r\n".encode())
        for _ in range(mib):
            writer.write(PIECE)
            await writer.drain()

    return behave


async def body(mib: int) -> AsyncIterator[bytes]:
    for _ in range(mib):
        yield PIECE


@contextlib.asynccontextmanager
async def watched(real: Real) -> AsyncIterator[None]:
    """Asserts that the process never gets much bigger meanwhile."""
    idle = most = real.resident_bytes()

    async def look() -> None:
        nonlocal most
        while True:
            most = max(most, real.resident_bytes())
            await asyncio.sleep(0.02)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
    print(f"{idle / MIB:.0f} MiB, {(most - idle) / MIB:.1f} MiB more at most")
    assert most - idle <= GROWTH_BYTES_MAX


@pytest.mark.parametrize("mib", SIZES)
async def test_big_bodies_both_ways(tmp_path: Path, mib: int) -> None:
    async with far_server() as far, real_sidecar(tmp_path, tools(far)) as real:
        far.keeps_bodies = False
        wire, url = await real.agent()
        async with aiohttp.ClientSession() as session:
            for effect in EFFECTS:
                async with session.post(f"{url}/{effect}/warm", data=b"x") as answer:
                    assert answer.status == 200
            for effect in EFFECTS:
                far.script = [big_answer(mib)]
                async with watched(real), session.post(f"{url}/{effect}/down") as answer:
                    length = 0
                    async for data in answer.content.iter_any():
                        length += len(data)
                    assert (answer.status, length) == (200, mib * MIB)
                async with watched(real), session.post(f"{url}/{effect}/up", data=body(mib)) as up:
                    assert up.status == 200
                assert far.seen[-1].length == mib * MIB
        assert not list((tmp_path / "data" / "spool-http").iterdir())
        await wire.drop()


async def test_a_stream_that_never_ends_is_left_when_nobody_listens(tmp_path: Path) -> None:
    ended = {effect: asyncio.Event() for effect in EFFECTS}

    async def forever(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        with contextlib.suppress(OSError):
            while not writer.is_closing():
                writer.write(b"7\r\ndata: 1\r\n2\r\n\n\n\r\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        ended[seen.path.strip("/")].set()
        raise ConnectionError

    async with far_server() as far, real_sidecar(tmp_path, tools(far, head_s=1.0)) as real:
        wire, url = await real.agent()
        far.script = [forever] * len(EFFECTS)
        async with aiohttp.ClientSession() as session:
            for effect in EFFECTS:
                answer = await session.post(f"{url}/{effect}/{effect}")
                assert await answer.content.read(5)
                answer.close()
        async with asyncio.timeout(10):
            for event in ended.values():
                await event.wait()
        await until(lambda: not far.writers)
        await wire.drop()
