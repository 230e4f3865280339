"""What a break, a run that is over and another loop are to the asyncio client."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

import coatcheck
from coatcheck import sync
from tests.client.fake import (
    HELLO,
    LEFT,
    AwaitClose,
    Drop,
    Expect,
    Fake,
    Line,
    Ok,
    Quiet,
    Refuse,
    opened,
    packed,
)

RESUME = Expect(
    "open", {"run": "r", "create": False, "resume": {"epoch": 1, "calls": {}, "answered": []}}
)


def over(status: str, *, result: Any = None, error: str = "") -> list[Line]:
    body = {"run": "r", "epoch": 3, "step": 9, "status": status, "error": error}
    data = None if result is None else packed(result)
    return [*HELLO, Expect("open"), Ok({**body, "has_state": False, "draining": False}, data)]


async def test_a_run_that_is_over_is_opened_and_does_nothing(path: Path) -> None:
    with Fake(path, [*over("finished", result={"paid": 3}), AwaitClose()]):
        async with coatcheck.open_run("r", schema=1) as run:
            assert [step async for step in run.steps()] == []
            assert (run.is_finished, run.status, run.result) == (True, "finished", {"paid": 3})
            assert (run.state, run.error) == (None, None)
            with pytest.raises(coatcheck.StepOver, match="run r is finished"):
                await run.commit({})


def test_a_run_that_failed_is_opened_by_the_other_client_too(path: Path) -> None:
    with Fake(path, [*over("failed", error="no way"), AwaitClose()]):
        with sync.open_run("r", schema=1) as run:
            assert list(run.steps()) == []
        assert (run.is_finished, run.status, run.error) == (False, "failed", "no way")


async def test_a_run_that_ends_here_says_so(path: Path) -> None:
    finish: list[Line] = [Expect("finish"), Ok({"seq": 2}), AwaitClose()]
    with Fake(path, [*opened(), *finish]):
        async with coatcheck.open_run("r", schema=1) as run:
            assert run.status == "owned"
            await run.finish(5)
            assert (run.is_finished, run.result) == (True, 5)


async def test_the_first_commit_may_be_a_patch_of_what_open_gave(path: Path) -> None:
    old, new = "a" * 100_000, "a" * 99_999 + "b"
    patch = {"base": 31, "length": 100_005, "ranges": [[98304, 1701]]}
    script = [
        *opened(step=4, state=old, seq=31),
        Expect("commit", {"step": 4, "patch": patch}, packed(new)[98304:]),
        Ok({"seq": 32, "step": 5}),
        *LEFT,
    ]
    with Fake(path, script):
        async with coatcheck.open_run("r", schema=1) as run:
            await run.commit(new)


async def test_a_wait_is_sent_again_as_it_was(path: Path) -> None:
    first = [
        *opened(),
        Expect("wait", {"name": "go", "signals": []}),
        Ok({"signal": 17}, packed("one")),
        Expect("wait", {"name": "go", "signals": [17]}),
        Drop(),
    ]
    second = [
        *HELLO,
        RESUME,
        Ok({"epoch": 2}),
        Expect("wait", {"name": "go", "signals": [17]}),
        Ok({"signal": 21}, packed("two")),
        Expect("finish", {"signals": [17, 21]}),
        Ok({"seq": 30}),
        AwaitClose(),
    ]
    with Fake(path, first, second):
        async with coatcheck.open_run("r", schema=1) as run:
            assert [await run.wait_for("go"), await run.wait_for("go")] == ["one", "two"]
            await run.finish()


async def test_a_finish_whose_answer_was_lost_is_done(path: Path) -> None:
    second = [*HELLO, RESUME, Ok({"epoch": 1, "status": "finished"}, packed(5)), AwaitClose()]
    with Fake(path, [*opened(), Expect("finish"), Drop(0.1)], second):
        async with coatcheck.open_run("r", schema=1) as run:
            async for _ in run.steps():
                await run.finish(5)
            assert run.is_finished


async def test_a_run_that_was_cancelled_during_a_break_is_fenced(path: Path) -> None:
    second = [*HELLO, RESUME, Ok({"epoch": 1, "status": "cancelled"}), AwaitClose()]
    fake = Fake(path, [*opened(), Expect("commit"), Drop(0.1)], second)
    with fake, pytest.raises(coatcheck.Fenced, match="run r is cancelled"):
        async with coatcheck.open_run("r", schema=1) as run:
            await run.commit({})


async def test_a_run_that_parked_during_a_break_is_parked(path: Path) -> None:
    parked: list[Line] = [*HELLO, RESUME, Refuse("parked", {"retry": "later"}), AwaitClose()]
    with Fake(path, [*opened(), Expect("wait"), Drop(0.1)], parked):
        async with coatcheck.open_run("r", schema=1) as run:
            await run.wait_for("approval")
            pytest.fail("it was not parked")


async def test_a_sidecar_that_says_nothing_is_left(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coatcheck._aio.HANDSHAKE_S", 0.1)
    with Fake(path, [Expect("hello"), AwaitClose()], [*opened(), *LEFT]):
        async with coatcheck.open_run("r", schema=1):
            pass


async def test_a_state_that_cannot_be_read_gives_the_run_up(path: Path) -> None:
    body = {"run": "r", "epoch": 1, "step": 2, "seq": 5, "has_state": True}
    left: list[Line] = [Expect("release", {"reason": "error"}), Ok({"seq": 9}), AwaitClose()]
    fake = Fake(path, [*HELLO, Expect("open"), Ok(body, b"\xc1"), *left])
    with fake, pytest.raises(coatcheck.Damaged):
        async with coatcheck.open_run("r", schema=1):
            pytest.fail("it was opened")


async def test_leaving_waits_no_longer_than_it_says(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coatcheck._ops.RELEASE_S", 0.1)
    script = [*opened(), Expect("release", {"reason": "left"}), Quiet(0.05), AwaitClose()]
    with Fake(path, script):
        async with coatcheck.open_run("r", schema=1):
            pass


def run_under_uvloop(work: Coroutine[Any, Any, None]) -> None:
    uvloop = pytest.importorskip("uvloop", reason="the sidecar's extra brings uvloop")
    uvloop.run(work)


def test_under_uvloop(path: Path) -> None:
    """Its transports are no `asyncio.Transport`s."""

    async def agent() -> None:
        async with coatcheck.open_run("r", schema=1) as run:
            async with asyncio.timeout(10):
                await run.commit(["s"])
                await run.commit(["t"])

    first = [*opened(), Expect("commit", {"step": 1}), Ok({"seq": 2, "step": 2})]
    second = [*HELLO, RESUME, Ok({"epoch": 2}), Expect("commit", {"step": 2})]
    again: list[Line] = [Ok({"seq": 3, "step": 3}), *LEFT]
    with Fake(path, [*first, Expect("commit", {"step": 2}), Drop(0.1)], [*second, *again]):
        run_under_uvloop(agent())
