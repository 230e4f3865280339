"""The client without asyncio against the same scripted sidecar."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import coatcheck
from coatcheck import sync
from tests.client.fake import (
    HELLO,
    LEFT,
    AwaitClose,
    Bytes,
    Drop,
    Expect,
    Fake,
    Line,
    Ok,
    Pause,
    Push,
    Refuse,
    opened,
    packed,
)

GO = {"decision": "go", "call": 7, "attempt": 1, "upstream_key": "k-7"}
TOLD = Ok({"seq": 9, "draining": False})


def test_a_run_from_open_to_finish(path: Path) -> None:
    def refund(invoice: str) -> dict[str, str]:
        return {"invoice": invoice, "key": sync.current_key()}

    script = [
        *opened(step=3, state={"count": 2}),
        Expect("call", {"step": 3, "tool": "refund"}, packed({"invoice": "i"})),
        Ok(GO),
        Expect("outcome", {"kind": "result"}, packed({"invoice": "i", "key": "k-7"})),
        TOLD,
        Expect("commit", {"step": 3, "level": "remote"}, packed({"count": 3})),
        Ok({"seq": 5, "step": 4, "draining": False}),
        Expect("finish", {"step": 4, "state_length": "(absent)"}, packed("done")),
        Ok({"seq": 6}),
        AwaitClose(),
    ]
    with Fake(path, script), sync.open_run("r", schema=1) as run:
        for step in run.steps():
            if step.number == 3:
                assert step.tool(refund)("i") == {"invoice": "i", "key": "k-7"}
                step.commit({"count": 3}, durability="remote")
            else:
                run.finish("done")


def test_a_break_resumes_and_sends_again(path: Path) -> None:
    second = [
        *HELLO,
        Expect("open", {"run": "r", "resume": {"epoch": 1, "calls": {}, "answered": []}}),
        Ok({"epoch": 5}),
        Expect("commit", {"step": 1}, packed(["s"])),
        Ok({"seq": 5, "step": 2}),
        *LEFT,
    ]
    with Fake(path, [*opened(), Expect("commit"), Drop(away_s=0.3)], second) as fake:
        with sync.open_run("r", schema=1) as run:
            run.commit(["s"])
            assert run.epoch == 5
        commits = [m.id for m in fake.seen if m.type == "commit"]
    assert commits[0] == commits[1]


def test_a_break_while_idle_is_mended_by_the_next_request(path: Path) -> None:
    second = [
        *HELLO,
        Expect("open", {"resume": {"epoch": 1, "calls": {}, "answered": []}}),
        Ok({"epoch": 2}),
        Expect("commit", {"step": 1}),
        Ok({"seq": 5, "step": 2}),
        *LEFT,
    ]
    dropped = threading.Event()
    with Fake(path, [*opened(), Drop()], second), sync.open_run("r", schema=1) as run:
        dropped.wait(0.1)
        run.commit({})


def test_threads_share_a_run(path: Path) -> None:
    """The second call's reply waits for the first's outcome: neither may hold up the other."""

    def double(number: int) -> int:
        return 2 * number

    script = [
        *opened(),
        Expect("call", name="a"),
        Expect("call", name="b"),
        Ok({**GO, "call": 1}, to="a"),
        Expect("outcome", {"call": 1, "kind": "result"}, packed(8)),
        TOLD,
        Ok({"decision": "replay", "call": 1, "kind": "result"}, packed(8), to="b"),
        *LEFT,
    ]
    with Fake(path, script), ThreadPoolExecutor() as pool, sync.open_run("r", schema=1) as run:
        call = run.step.tool(double)
        assert list(pool.map(call, [4, 4])) == [8, 8]


def test_pushes_are_read_with_the_next_reply(path: Path) -> None:
    script = [
        *opened(),
        Expect("commit"),
        Push("drain", {"deadline_s": 30.0}),
        Ok({"seq": 2, "step": 2}),
        Expect("release", {"reason": "draining"}),
        Ok({"seq": 3}),
        AwaitClose(),
    ]
    numbers = []
    with Fake(path, script), sync.open_run("r", schema=1) as run:
        for step in run.steps():
            numbers.append(step.number)
            step.commit({})
        assert run.draining
    assert numbers == [1]


def test_an_interrupted_tool_is_reported_failed(path: Path) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    script = [
        *opened(),
        Expect("call"),
        Ok(GO),
        Expect("outcome", {"call": 7, "kind": "failed"}),
        TOLD,
        *LEFT,
    ]
    fake = Fake(path, script)
    with fake, pytest.raises(KeyboardInterrupt), sync.open_run("r", schema=1) as run:
        run.step.tool(interrupted)()


def test_threads_mend_a_break_together(path: Path) -> None:
    def double(number: int) -> int:
        return 2 * number

    calls: list[Line] = [Expect("call", name="a"), Expect("call", name="b")]
    second = [
        *HELLO,
        Expect("open", {"resume": {"epoch": 1, "calls": {}, "answered": []}}),
        Ok({"epoch": 2}),
        *calls,
        Ok({"decision": "replay", "call": 2}, packed("of b"), to="b"),
        Ok({"decision": "replay", "call": 1}, packed("of a"), to="a"),
        *LEFT,
    ]
    fake = Fake(path, [*opened(), *calls, Drop(0.1)], second)
    with fake, ThreadPoolExecutor() as pool, sync.open_run("r", schema=1) as run:
        values = list(pool.map(run.step.tool(double), [1, 2]))
        assert sorted(map(str, values)) == ["of a", "of b"]


def test_parked_is_absorbed_and_in_doubt_is_not(path: Path) -> None:
    parked = [*opened(), Expect("wait"), Refuse("parked"), AwaitClose()]
    doubt = [
        *opened(),
        Expect("call"),
        Refuse("in_doubt", {"call": 3, "tool": "print", "first_sent_ms": 17}),
        Expect("release", {"reason": "in_doubt"}),
        Ok({"seq": 1}),
        AwaitClose(),
    ]
    with Fake(path, parked, doubt):
        with sync.open_run("r", schema=1) as run:
            run.wait_for("approval")
        with pytest.raises(coatcheck.InDoubt) as caught, sync.open_run("r", schema=1) as run:
            run.step.tool(print)()
    assert (caught.value.call, caught.value.tool, caught.value.first_sent_ms) == (3, "print", 17)


def test_an_async_tool_is_refused_by_name(path: Path) -> None:
    async def tool() -> None:
        pass

    is_refused = pytest.raises(TypeError, match="is async")
    fake = Fake(path, [*opened(), *LEFT])
    with fake, sync.open_run("r", schema=1) as run, is_refused:
        run.step.tool(tool)


def test_runs_are_claimed(path: Path) -> None:
    body = {"run": "a", "epoch": 1, "step": 1, "has_state": False}
    script = [
        *HELLO,
        Expect("open", {"queue": "default"}),
        Refuse("unavailable", {"retry": "later"}),
        Expect("open"),
        Ok(body),
        Expect("fail", {"error": "no way"}),
        Ok({"seq": 1}),
        AwaitClose(),
    ]
    with Fake(path, script, [*HELLO, Expect("open"), Refuse("draining"), AwaitClose()]):
        for run in sync.claim_runs(schema=1):
            with run:
                run.fail("no way")


def test_what_the_agent_says_of_its_time_is_passed_on(path: Path) -> None:
    asked = Expect("open", {"on_drain": "drain", "deadline_s": 600.0})
    body = {"run": "r", "epoch": 1, "step": 1, "has_state": False}
    told: list[Line] = [Expect("eta", {"seconds": 12.5}), Ok({"draining": True})]
    left: list[Line] = [Expect("release", {"reason": "draining"}), Ok({"seq": 2}), AwaitClose()]
    opening = sync.open_run("r", schema=1, on_drain="drain", deadline_s=600.0)
    with Fake(path, [*HELLO, asked, Ok(body), *told, *left]), opening as run:
        run.eta(12.5)
        assert run.draining


def test_the_result_of_a_run(path: Path) -> None:
    body = {"status": "failed", "error": "no way"}
    with Fake(path, [*HELLO, Expect("result", {"run": "r"}), Ok(body), AwaitClose()]):
        assert sync.result("r") == ("failed", None, "no way")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (Bytes(b"\x00\x00\x00\x01\xc1"), "no frame"),
        (Push("error", {"code": "protocol_error", "message": "I see no frame"}), "I see no frame"),
    ],
)
def test_garbage_and_complaints_end_it(path: Path, line: Line, why: str) -> None:
    fake = Fake(path, [*opened(), Expect("commit"), line, AwaitClose()])
    is_told = pytest.raises(coatcheck.ProtocolError, match=why)
    with fake, is_told, sync.open_run("r", schema=1) as run:
        run.commit({})


def test_no_sidecar_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coatcheck._desk.RECONNECT_S", 0.3)
    with pytest.raises(coatcheck.Unavailable, match=str(path)), sync.open_run("r", schema=1):
        pass


def test_leaving_waits_no_longer_than_it_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coatcheck._ops.RELEASE_S", 0.2)
    script = [*opened(), Expect("release", {"reason": "left"}), Pause(0.1), AwaitClose()]
    with Fake(path, script), sync.open_run("r", schema=1):
        pass
