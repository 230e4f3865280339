"""The asyncio client against a scripted sidecar on a real socket."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

import coatcheck
from tests.client.fake import (
    HELLO,
    LEFT,
    AwaitClose,
    Drop,
    Expect,
    Fake,
    Line,
    Ok,
    Pause,
    Push,
    Quiet,
    Refuse,
    opened,
    packed,
)

GO = {"decision": "go", "call": 7, "attempt": 1, "upstream_key": "k-7"}
TOLD = Ok({"seq": 9, "draining": False})


async def eventually(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110 - what it waits for happens on another thread
            await asyncio.sleep(0.01)


async def test_a_run_from_open_to_finish(path: Path) -> None:
    script = [
        *opened(input=packed({"n": 1}), step=3, state={"count": 2}),
        Expect("commit", {"step": 3, "level": "node", "schema": 1}, packed({"count": 3})),
        Ok({"seq": 5, "step": 4, "draining": False}),
        Expect("finish", {"step": 4, "state_length": 8}, packed({"count": 4}) + packed("done")),
        Ok({"seq": 6}),
        AwaitClose(),
    ]
    with Fake(path, script):
        async with coatcheck.open_run("r", schema=1) as run:
            assert (run.id, run.epoch, run.input, run.state) == ("r", 1, {"n": 1}, {"count": 2})
            numbers = []
            async for step in run.steps():
                numbers.append(step.number)
                if step.number == 3:
                    await step.commit({"count": 3})
                    assert run.state == {"count": 3}
                else:
                    await run.finish("done", state={"count": 4})
            assert numbers == [3, 4]
            with pytest.raises(coatcheck.StepOver, match="run r is finished"):
                await step.commit({})


async def test_a_break_resumes_and_sends_again(path: Path) -> None:
    first = [*opened(epoch=4), Expect("commit", {"step": 1}), Drop(away_s=0.3)]
    second = [
        *HELLO,
        Expect(
            "open",
            {"run": "r", "create": False, "resume": {"epoch": 4, "calls": {}, "answered": []}},
        ),
        Ok({"run": "r", "epoch": 5, "step": 1, "has_state": False, "draining": False}),
        Expect("commit", {"step": 1}, packed(["s"])),
        Ok({"seq": 5, "step": 2, "draining": False}),
        *LEFT,
    ]
    with Fake(path, first, second) as fake:
        async with coatcheck.open_run("r", schema=1) as run:
            await run.commit(["s"])
            assert run.epoch == 5
        hellos = [m.body["incarnation"] for m in fake.seen if m.type == "hello"]
        commits = [m.id for m in fake.seen if m.type == "commit"]
    assert len(hellos) == 2
    assert hellos[0] == hellos[1]
    assert len(hellos[0]) == 16
    assert commits[0] == commits[1]


async def test_an_idle_client_resumes_by_itself(path: Path) -> None:
    again = [
        *HELLO,
        Expect("open", {"resume": {"epoch": 1, "calls": {}, "answered": []}}),
        Ok({"epoch": 2, "draining": True}),
        Expect("release", {"reason": "draining"}),
        Ok({"seq": 3}),
        AwaitClose(),
    ]
    with Fake(path, [*opened(), Drop(away_s=0.1)], again):
        async with coatcheck.open_run("r", schema=1) as run:
            await eventually(lambda: run.draining)
            assert run.epoch == 2


async def test_the_second_commit_is_a_patch_and_whole_after_a_break(path: Path) -> None:
    old, new = "a" * 100_000, "a" * 99_999 + "b"
    first = [
        *opened(),
        Expect("commit", {"patch": "(absent)"}, packed(old)),
        Ok({"seq": 5, "step": 2}),
        Expect("commit", {"patch": {"base": 5, "length": 100_005, "ranges": [[98304, 1701]]}}),
        Drop(),
    ]
    second = [
        *HELLO,
        Expect("open"),
        Ok({"epoch": 2}),
        Expect("commit", {"step": 2, "patch": "(absent)"}, packed(new)),
        Ok({"seq": 6, "step": 3}),
        *LEFT,
    ]
    with Fake(path, first, second):
        async with coatcheck.open_run("r", schema=1) as run:
            await run.commit(old)
            await run.commit(new)
            assert run.step_number == 3


async def test_a_base_that_is_not_held_makes_a_whole_commit(path: Path) -> None:
    old, new = "a" * 100_000, "a" * 99_999 + "b"
    script = [
        *opened(),
        Expect("commit", {"patch": "(absent)"}),
        Ok({"seq": 5, "step": 2}),
        Expect("commit", {"step": 2}),
        Refuse("conflict"),
        Expect("commit", {"step": 2, "patch": "(absent)"}, packed(new)),
        Ok({"seq": 6, "step": 3}),
        *LEFT,
    ]
    with Fake(path, script):
        async with coatcheck.open_run("r", schema=1) as run:
            await run.commit(old)
            await run.commit(new)


async def test_tools_run_at_once(path: Path) -> None:
    both = asyncio.Barrier(2)

    async def meet(name: str) -> str:
        async with asyncio.timeout(5):
            await both.wait()
        return f"{name} by {coatcheck.current_key()}"

    script = [
        *opened(),
        Expect("call", {"step": 1, "tool": "meet", "effect": "once"}, packed({"name": "a"}), "a"),
        Expect("call", {"tool": "meet"}, packed({"name": "b"}), "b"),
        Ok({**GO, "call": 2, "upstream_key": "k-b"}, to="b"),
        Ok({**GO, "call": 1, "upstream_key": "k-a"}, to="a"),
        Expect("outcome", {"kind": "result"}, name="x"),
        Expect("outcome", {"kind": "result"}, name="y"),
        Ok({"seq": 9}, to="y"),
        Ok({"seq": 9}, to="x"),
        *LEFT,
    ]
    with Fake(path, script):
        async with coatcheck.open_run("r", schema=1) as run:
            call = run.step.tool(meet)
            assert list(await asyncio.gather(call("a"), call("b"))) == ["a by k-a", "b by k-b"]


async def test_a_plain_function_runs_in_a_thread(path: Path) -> None:
    def key() -> str:
        return coatcheck.current_key()

    result = Expect("outcome", {"call": 7, "attempt": 1, "kind": "result"}, packed("k-7"))
    with Fake(path, [*opened(), Expect("call"), Ok(GO), result, TOLD, *LEFT]):
        async with coatcheck.open_run("r", schema=1) as run:
            assert await run.step.tool(key)() == "k-7"


async def test_a_cancelled_tool_is_reported_failed(path: Path) -> None:
    started = asyncio.Event()

    async def slow() -> None:
        started.set()
        await asyncio.sleep(60)

    failed = Expect("outcome", {"call": 7, "kind": "failed"})
    with Fake(path, [*opened(), Expect("call"), Ok(GO), failed, TOLD, *LEFT]):
        async with coatcheck.open_run("r", schema=1) as run:
            task = asyncio.ensure_future(run.step.tool(slow)())
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_a_go_that_nobody_waits_for_is_given_back(path: Path) -> None:
    script = [
        *opened(),
        Expect("call"),
        Pause(0.2),
        Ok(GO),
        Expect("outcome", {"call": 7, "kind": "not_applied"}),
        TOLD,
        *LEFT,
    ]

    async def never() -> None:
        pytest.fail("it was called")

    with Fake(path, script) as fake:
        async with coatcheck.open_run("r", schema=1) as run:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await run.step.tool(never)()
            await eventually(lambda: fake.seen[-1].type == "outcome")


async def test_a_running_call_is_reported_when_the_sidecar_comes_back(path: Path) -> None:
    resumed = asyncio.Event()

    async def work() -> str:
        async with asyncio.timeout(5):
            await resumed.wait()
        return "worked"

    second = [
        *HELLO,
        Expect("open", {"resume": {"epoch": 1, "calls": {7: "running"}, "answered": []}}),
        Ok({"epoch": 2}),
        Push("drain", {"deadline_s": 30.0}),
        Expect("outcome", {"call": 7, "kind": "result"}, packed("worked")),
        TOLD,
        Expect("release", {"reason": "draining"}),
        Ok({"seq": 1}),
        AwaitClose(),
    ]
    with Fake(path, [*opened(), Expect("call"), Ok(GO), Pause(0.1), Drop(0.1)], second):
        async with coatcheck.open_run("r", schema=1) as run:
            task = asyncio.ensure_future(run.step.tool(work)())
            await eventually(lambda: run.draining)
            resumed.set()
            assert await task == "worked"


async def test_pushes_set_flags_at_once(path: Path) -> None:
    pushes: list[Line] = [
        Push("checkpoint_please"),
        Push("signal", {"name": "approval"}),
        Push("deadline", {"left_s": 60.0}),
        Push("from_a_newer_sidecar", {"x": 1}),
        Push("drain", {"deadline_s": 30.0}),
    ]
    left: list[Line] = [Expect("release", {"reason": "draining"}), Ok({"seq": 1}), AwaitClose()]
    with Fake(path, [*opened(), *pushes, *left]):
        async with coatcheck.open_run("r", schema=1) as run:
            await eventually(lambda: run.draining)
            assert [step async for step in run.steps()] == []


async def test_a_commit_of_ones_own_loop_ends_it_when_the_pod_drains(path: Path) -> None:
    script = [
        *opened(),
        Expect("commit"),
        Ok({"seq": 2, "step": 2, "draining": True}),
        Expect("release", {"reason": "draining", "error": "(absent)"}),
        Ok({"seq": 3}),
        AwaitClose(),
    ]
    reached = False
    with Fake(path, script):
        async with coatcheck.open_run("r", schema=1) as run:
            await run.commit({})
            reached = True
    assert not reached


async def test_fenced_is_told_and_not_absorbed(path: Path) -> None:
    async def loop(run: coatcheck.Run) -> None:
        async for _ in run.steps():
            await asyncio.sleep(0.01)

    fake = Fake(path, [*opened(), Push("fenced", {"epoch": 8}), AwaitClose()])
    with fake, pytest.raises(coatcheck.Fenced, match="epoch 8"):
        async with coatcheck.open_run("r", schema=1) as run:
            await loop(run)


async def test_what_is_under_way_is_told_of_being_fenced_at_once(path: Path) -> None:
    fake = Fake(path, [*opened(), Expect("commit"), Push("fenced", {"epoch": 8}), AwaitClose()])
    with fake, pytest.raises(coatcheck.Fenced, match="epoch 8"):
        async with coatcheck.open_run("r", schema=1) as run:
            await run.commit({})


async def test_a_resume_that_is_refused_for_good_ends_it(path: Path) -> None:
    refused = [*HELLO, Expect("open"), Refuse("fenced", {"epoch": 9}), AwaitClose()]
    fake = Fake(path, [*opened(), Expect("commit"), Drop()], refused)
    with fake, pytest.raises(coatcheck.Fenced):
        async with coatcheck.open_run("r", schema=1) as run:
            await run.commit({})


async def test_a_resume_that_has_to_wait_is_tried_again(path: Path) -> None:
    refused = [*HELLO, Expect("open"), Refuse("unavailable", {"retry": "later"}), AwaitClose()]
    again: list[Line] = [
        *HELLO,
        Expect("open", {"resume": {"epoch": 1, "calls": {}, "answered": []}}),
    ]
    done: list[Line] = [Ok({"epoch": 2}), Expect("commit"), Ok({"seq": 1, "step": 2}), *LEFT]
    with Fake(path, [*opened(), Expect("commit"), Drop()], refused, [*again, *done]):
        async with coatcheck.open_run("r", schema=1) as run:
            await run.commit({})


async def test_no_more_calls_wait_at_once_than_the_sidecar_takes(path: Path) -> None:
    limits = {"requests": 2}
    script = [
        Expect("hello"),
        Ok({"protocol": 1, "limits": limits}),
        Expect("open"),
        Ok({"run": "r", "epoch": 1, "step": 1, "has_state": False}),
        Expect("call", name="a"),
        Quiet(0.1),
        Ok({**GO, "call": 1}, to="a"),
        Expect("call", name="b"),
        Ok({**GO, "call": 2}, to="b"),
        Expect("outcome", name="x"),
        Expect("outcome", name="y"),
        Ok(to="x"),
        Ok(to="y"),
        *LEFT,
    ]
    gate = asyncio.Barrier(2)

    async def meet(number: int) -> int:
        await gate.wait()
        return number

    with Fake(path, script):
        async with coatcheck.open_run("r", schema=1) as run:
            call = run.step.tool(meet)
            assert list(await asyncio.gather(call(1), call(2))) == [1, 2]


async def test_parked_is_absorbed_and_not_released(path: Path) -> None:
    script = [
        *opened(),
        Expect("wait", {"name": "approval", "step": 1}, packed({"amount": 3})),
        Refuse("parked", {"retry": "later"}),
        AwaitClose(),
    ]
    with Fake(path, script):
        async with coatcheck.open_run("r", schema=1) as run:
            await run.wait_for("approval", {"amount": 3})
            pytest.fail("it was not parked")


@pytest.mark.parametrize(
    ("error", "reason", "text"),
    [
        (ValueError("bad"), "error", "ValueError: bad"),
        (coatcheck.InDoubt("who knows"), "in_doubt", "InDoubt: who knows"),
        (coatcheck.Held("ask"), "held", "Held: ask"),
        (coatcheck.ReplayDivergence("other"), "held", "ReplayDivergence: other"),
        (asyncio.CancelledError(), "left", "(absent)"),
    ],
)
async def test_why_a_run_is_left(path: Path, error: BaseException, reason: str, text: str) -> None:
    left: list[Line] = [
        Expect("release", {"reason": reason, "error": text}),
        Ok({"seq": 1}),
        AwaitClose(),
    ]
    with Fake(path, [*opened(), *left]), pytest.raises(type(error)):
        async with coatcheck.open_run("r", schema=1):
            raise error
