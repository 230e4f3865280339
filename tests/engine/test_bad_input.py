"""Clients that break the protocol: each is told what is wrong, and the next good one is served."""

import asyncio
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coatcheck.wire import FRAME_BYTES_MAX, encode_frame, encode_message
from coatcheck_sidecar.core.model import Status
from tests.engine.harness import (
    HELLO,
    OPEN,
    Pod,
    RefusedError,
    Yard,
    last_words,
    still_serves,
    until,
    yard,
)


def framed(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def pack(*fields: Any) -> bytes:
    return framed(msgpack.packb(fields))


# Frames


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (b"\x00\x00\x00\x00", "a frame says 0 bytes"),
        (struct.pack(">I", FRAME_BYTES_MAX + 1), f"a frame says {FRAME_BYTES_MAX + 1} bytes"),
        (b"\xff\xff\xff\xff", "a frame says 4294967295 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n", "a frame says 1195725856 bytes"),
        (framed(b"\xc1"), "a frame is not msgpack"),
        (framed(b"\x93\xa4open"), "a frame is not msgpack"),
        (framed(b"\x91" * 5_000), "a frame is not msgpack"),
        (framed(msgpack.packb(1) * 2), "a frame is not msgpack"),
        (framed(msgpack.packb({"a": 1})), "a frame is not an array of three"),
        (pack("open", 1), "a frame is not an array of three"),
        (pack("open", 1, {}, 2), "the attachment of open 1 is not bytes"),
        (pack(b"open", 1, {}), "a frame's type is not a str"),
        (pack("open", "1", {}), "the id of a open frame is not an integer"),
        (pack("open", -1, {}), "the id of a open frame"),
        (pack("open", 2**32, {}), "the id of a open frame"),
        (pack("open", True, {}), "the id of a open frame"),
        (pack("open", 1, []), "the body of open 1 is not a map"),
        (pack("open", 1, {1: 2}), "the body of open 1 is not a map with str keys"),
        (framed(b"\x93\xa4open\x01\x81\x90\x01"), "a frame is not msgpack"),
        (pack("part", 1, {}), "part 1 is not 1 to"),
        (pack("part", 1, b""), "part 1 is not 1 to"),
        (pack("part", 1, b"x" * 1_048_577), "part 1 is not 1 to"),
    ],
)
async def test_a_frame_that_is_none_is_named_and_ends_the_connection(
    pod: Pod, frame: bytes, said: str
) -> None:
    wire = await pod.wire()
    wire.raw(frame)
    assert said in await last_words(wire)


async def test_good_frames_before_a_bad_one_are_answered(pod: Pod) -> None:
    wire = await pod.wire()
    result = wire.send("result", {"run": "none"})
    wire.raw(b"\x00\x00\x00\x00")
    assert "a frame says 0" in await last_words(wire)
    with pytest.raises(ConnectionError):
        await result
    agent = await pod.agent("r1")
    agent.send("commit", {"step": 1, "level": "node", "schema": 1}, b"kept")
    agent.raw(framed(b"\xc1"))
    await last_words(agent)
    assert (await pod.agent("r1")).step == 2


@pytest.mark.parametrize("cut_at", [1, 3, 4, 5, 20, -1])
async def test_a_truncated_frame_is_an_agent_that_died(pod: Pod, cut_at: int) -> None:
    agent = await pod.agent("r1")
    frame = encode_frame("commit", 9, {"step": 1, "level": "node", "schema": 1})
    agent.raw(frame[:cut_at])
    await agent.drop()
    await until(lambda: pod.sidecar.keepers["r1"].agent is None)
    assert (await pod.agent("r1")).step == 1


async def test_frames_may_come_byte_by_byte(pod: Pod) -> None:
    wire = await pod.wire(is_greeted=False)
    frames = [
        *encode_message("hello", 1, HELLO),
        *encode_message("open", 2, {**OPEN, "run": "slow"}, b"\xc0"),
        *encode_message("commit", 3, {"step": 1, "level": "remote", "schema": 1}, b"state"),
    ]
    replies = [asyncio.get_running_loop().create_future() for _ in range(3)]
    wire._replies.update({number + 1: future for number, future in enumerate(replies)})
    for byte in b"".join(frames):
        wire.raw(bytes([byte]))
        await wire.writer.drain()
        await asyncio.sleep(0)
    commit = await replies[2]
    assert (commit.type, commit.body["step"]) == ("ok", 2)
    await wire.drop()


async def test_parts_may_interleave_and_no_requests_may_be_too_many(pod: Pod) -> None:
    agent = await pod.agent("r1")
    commit = {"step": 1, "level": "node", "schema": 1}
    agent.raw(encode_frame("part", 90, b"AA") + encode_frame("part", 91, b"BB"))
    agent.raw(encode_frame("part", 90, b"aa"))
    reply = asyncio.get_running_loop().create_future()
    agent._replies[90] = reply
    agent.raw(encode_frame("commit", 90, commit))
    assert (await reply).type == "ok"
    agent.raw(b"".join(encode_frame("part", number, b"x") for number in range(100, 1_200)))
    assert "parts of more than 1024 requests" in await last_words(agent)
    assert pod.sidecar.keepers["r1"].log.checkpoint_bytes == b"AAaa"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.lists(
        st.one_of(
            st.binary(max_size=64).map(framed),
            st.binary(max_size=64),
            st.recursive(
                st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats()
                | st.text(max_size=8) | st.binary(max_size=8)
                | st.sampled_from(["hello", "open", "commit", "call", "finish", "part", "result"]),
                lambda inner: st.lists(inner, max_size=4)
                | st.dictionaries(st.text(max_size=8), inner, max_size=4),
                max_leaves=12,
            ).map(lambda value: framed(msgpack.packb(value))),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_no_bytes_bring_it_down(data: list[bytes]) -> None:
    async def throw() -> None:
        async with yard() as made:
            pod = await made.pod()
            wire = await pod.wire()
            wire.raw(b"".join(data))
            await wire.writer.drain()
            wire.writer.write_eof()
            await wire.is_lost.wait()
            await still_serves(pod)

    asyncio.run(throw())


# Order


async def test_hello_comes_first_and_once(pod: Pod) -> None:
    wire = await pod.wire(is_greeted=False)
    for request, body in (("open", {**OPEN, "run": "r1"}), ("result", {"run": "r1"})):
        with pytest.raises(RefusedError, match="hello comes first"):
            await wire.ask(request, body)
    await wire.hello()
    with pytest.raises(RefusedError, match="hello comes first, once"):
        await wire.hello()
    await wire.open("r1")
    await wire.release()


async def test_a_connection_has_one_run(pod: Pod) -> None:
    agent = await pod.agent("r1")
    with pytest.raises(RefusedError, match="serves one run"):
        await agent.open("r2")
    await agent.release()
    with pytest.raises(RefusedError, match="given up"):
        await agent.commit()


@pytest.mark.parametrize("request_", ["commit", "call", "outcome", "probed", "wait", "release"])
async def test_nothing_without_a_run(pod: Pod, request_: str) -> None:
    wire = await pod.wire()
    with pytest.raises(RefusedError, match=f"{request_} without an open run"):
        await wire.ask(request_, {})


async def test_an_unknown_type_is_refused_and_the_connection_lives(pod: Pod) -> None:
    wire = await pod.wire()
    for name in ("rewind", "", "ok", "error", "drain", "HELLO"):
        with pytest.raises(RefusedError, match=f"'{name}' is no request"):
            await wire.ask(name, {})
    await wire.open("r1")


async def test_an_id_in_use_and_too_many_at_once(pod: Pod) -> None:
    """All in one write: the sidecar takes them in before it answers the first."""
    wire = await pod.wire()
    frame = encode_frame("result", 7, {"run": "none"})
    replies = [asyncio.get_running_loop().create_future() for _ in range(1_100)]
    wire._replies.update({number + 100: future for number, future in enumerate(replies)})
    wire._replies[7] = in_use = asyncio.get_running_loop().create_future()
    wire.raw(frame + frame)
    assert "its id is in use" in (await in_use).body["message"]
    wire.raw(b"".join(encode_frame("result", n + 100, {"run": "none"}) for n in range(1_100)))
    codes = [(await reply).body["code"] for reply in replies]
    assert set(codes) <= {"not_found", "protocol_error"}
    assert (await wire.send("result", {"run": "none"})).body["code"] == "not_found"


async def test_steps_out_of_order(pod: Pod) -> None:
    agent = await pod.agent("r1")
    await agent.commit(b"one")
    for step in (0, 3, 2**63):
        with pytest.raises(RefusedError, match=r"conflict.*the step to do is 2"):
            await agent.ask("commit", {"step": step, "level": "node", "schema": 1}, b"x")
        with pytest.raises(RefusedError, match=r"conflict.*the step to do is 2"):
            await agent.call(step=step)
    with pytest.raises(RefusedError, match="not_found"):
        await agent.ask("outcome", {"call": 99, "attempt": 1, "kind": "failed"})
    with pytest.raises(RefusedError, match=r"conflict|not_found"):
        await agent.ask("probed", {"call": 1, "attempt": 1, "applied": True})


async def test_a_commit_and_a_finish_at_once_keep_the_state_whole(pod: Pod, yard: Yard) -> None:
    """Big states are compared beside the loop: what comes meanwhile must wait."""
    agent = await pod.agent("r1")
    await agent.commit(b"0" * 700_000)
    first = agent.send("commit", {"step": 2, "level": "node", "schema": 1}, b"1" * 700_000)
    last = agent.send("finish", {"step": 3, "schema": 1, "state_length": 700_000}, b"2" * 700_001)
    assert [(await reply).type for reply in (first, last)] == ["ok", "ok"]
    log = await yard.log("r1")
    assert (log.state.status, log.checkpoint_bytes) == (Status.FINISHED, b"2" * 700_000)
