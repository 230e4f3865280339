"""How runs are opened, claimed and refused, and what the asyncio client makes of garbage."""

import asyncio
from pathlib import Path

import pytest

import coatcheck
from coatcheck import _clock
from tests.client.fake import (
    HELLO,
    LEFT,
    AwaitClose,
    Bytes,
    Expect,
    Fake,
    Line,
    Ok,
    Refuse,
    opened,
    packed,
)


async def test_a_run_owned_elsewhere_says_where(path: Path) -> None:
    refusal = Refuse("owned_elsewhere", {"address": "10.0.0.7:80", "retry": "later", "run": "r"})
    fake = Fake(path, [*HELLO, Expect("open"), refusal, AwaitClose()])
    with fake, pytest.raises(coatcheck.OwnedElsewhere) as caught:
        async with coatcheck.open_run("r", schema=1):
            pass
    assert caught.value.address == "10.0.0.7:80"
    assert (caught.value.retry, caught.value.run) == ("later", "r")


async def test_runs_are_claimed_for_ever_but_never_too_many(path: Path) -> None:
    def given(run: str) -> list[Line]:
        body = {"run": run, "epoch": 1, "step": 1, "has_state": False, "draining": False}
        return [*HELLO, Expect("open", {"queue": "q", "run": "(absent)"}), Ok(body)]

    patient = [
        *HELLO,
        Expect("open", {"create": False}),
        Refuse("unavailable", {"retry": "later"}),
        *given("b")[2:],
        *LEFT,
    ]
    with Fake(path, [*given("a"), *LEFT], patient, [*HELLO, Expect("open"), Refuse("draining")]):
        claimed = coatcheck.claim_runs("q", concurrency=1, schema=1)
        first = await anext(claimed)
        second = asyncio.ensure_future(anext(claimed))
        await asyncio.sleep(0.1)
        assert not second.done()
        async with first as run:
            assert run.id == "a"
        async with await second as run:
            assert run.id == "b"
        assert [run async for run in claimed] == []


async def test_the_result_of_a_run(path: Path) -> None:
    script: list[Line] = [
        *HELLO,
        Expect("result", {"run": "r"}),
        Ok({"status": "finished"}, packed([1])),
    ]
    with Fake(path, [*script, AwaitClose()]):
        assert await coatcheck.result("r") == ("finished", [1], None)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x00\x00\x00\x00", "no frame"),
        (b"\x00\x00\x00\x01\xc1", "not msgpack"),
    ],
)
async def test_garbage_ends_it_at_once(path: Path, data: bytes, why: str) -> None:
    fake = Fake(path, [*opened(), Expect("commit"), Bytes(data), AwaitClose()])
    with fake, pytest.raises(coatcheck.ProtocolError, match=why):
        async with coatcheck.open_run("r", schema=1) as run:
            await run.commit({})


async def test_a_protocol_that_is_too_new_is_named(path: Path) -> None:
    hello: list[Line] = [Expect("hello"), Ok({"protocol": 9, "limits": {}}), AwaitClose()]
    with Fake(path, hello), pytest.raises(coatcheck.ProtocolError, match="protocol 9"):
        async with coatcheck.open_run("r", schema=1):
            pass


async def test_no_sidecar_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coatcheck._desk.RECONNECT_S", 0.3)
    before_s = _clock.monotonic()
    with pytest.raises(coatcheck.Unavailable, match=str(path)):
        async with coatcheck.open_run("r", schema=1):
            pass
    assert _clock.monotonic() - before_s < 2


async def test_a_sidecar_that_comes_late_is_waited_for(path: Path) -> None:
    async def use() -> None:
        async with coatcheck.open_run("r", schema=1):
            pass

    task = asyncio.ensure_future(use())
    await asyncio.sleep(0.2)
    with Fake(path, [*opened(), *LEFT]):
        await task
