"""Requests whose fields or sizes are wrong: each refused by name, and the next one served."""

import asyncio
import resource
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from coatcheck.wire import Message, encode_frame, encode_message
from tests.engine.harness import (
    FAST,
    HELLO,
    OPEN,
    Pod,
    RefusedError,
    Yard,
    last_words,
    still_serves,
    until,
)  # fmt: skip

ANY_CODE = {
    "protocol_error", "conflict", "too_large", "not_found", "in_flight", "fenced", "unavailable",
    "schema_mismatch", "in_doubt", "held", "replay_divergence", "parked",
}  # fmt: skip

# Fields


def is_refused_well(reply: Message, name: str) -> bool:
    """Served, or refused by an error that is not the sidecar's own, and names the field."""
    if reply.type == "ok":
        return True
    code, said = reply.body["code"], reply.body["message"]
    is_ours = code in ANY_CODE and "failed in the sidecar" not in said
    return is_ours and (code != "protocol_error" or name in said)


def bodies(good: dict[str, Any]) -> list[tuple[str, Any]]:
    """Each field once with each wrong type."""
    wrong: list[Any] = [
        None, True, -1, 2**63, 1.5, float("nan"), float("inf"), "x", "x" * 70_000, b"x", [1], [[]],
        {"a": 1}, {},
    ]  # fmt: skip
    return [
        (name, value) for name in good for value in wrong if type(value) is not type(good[name])
    ]


COMMIT = {
    "step": 1,
    "level": "node",
    "schema": 1,
    "signals": [1],
    "patch": {"base": 1, "length": 1},
}
CALL = {
    "step": 1, "tool": "t", "effect": "once", "identity": "content", "key": "k", "business": "/a",
    "repeats": True, "level": "node", "probe": True, "settle_s": 1.0, "key_lifetime_s": 1.0,
    "unresolved_ok": True, "irreversible": False, "undo": "refund",
}  # fmt: skip
OUTCOME = {"call": 3, "attempt": 1, "kind": "result", "reason": "r"}


@pytest.mark.parametrize(
    ("request_", "good"),
    [
        ("commit", COMMIT),
        ("call", CALL),
        ("outcome", OUTCOME),
        ("probed", {"call": 3, "attempt": 1, "applied": True}),
        ("wait", {"name": "n", "step": 1, "signals": [1]}),
        ("finish", {"step": 1, "schema": 1, "state_length": 1, "signals": [1]}),
        ("fail", {"error": "e"}),
        ("release", {"reason": "left", "error": "e"}),
        ("result", {"run": "r1"}),
    ],
)
async def test_every_field_of_every_wrong_type(
    pod: Pod, request_: str, good: dict[str, Any]
) -> None:
    """Refused by name, or taken for absent; never a failure of the sidecar's own."""
    for number, (name, value) in enumerate(bodies(good)):
        agent = await pod.agent(f"{request_}{number}")
        reply = await agent.send(request_, {**good, name: value}, msgpack.packb({"a": 1}))
        assert is_refused_well(reply, name) or request_ in reply.body["message"], (name, value)
        await agent.drop()


@pytest.mark.parametrize("name", ["protocol", "client", "incarnation"])
async def test_a_hello_of_wrong_types(pod: Pod, name: str) -> None:
    values: list[Any] = [
        None,
        True,
        -1,
        "x",
        b"x",
        [1],
        ["a", "b"],
        [1, 2, 3],
        {},
        [2**63, 2**63],
        [9, 9],
    ]
    for value in values:
        wire = await pod.wire(is_greeted=False)
        reply = await wire.send("hello", {**HELLO, name: value})
        assert is_refused_well(reply, name) or value == [9, 9], value
        await wire.drop()


@pytest.mark.parametrize("name", [*OPEN, "run", "address", "resume", "step_timeout_s", "pinned"])
async def test_an_open_of_wrong_types(pod: Pod, name: str) -> None:
    resumes: list[Any] = [
        {"epoch": "1"}, {"epoch": float("inf")}, {"epoch": 1, "calls": [1]},
        {"epoch": 1, "calls": {"a": "done"}}, {"epoch": 1, "calls": {1: "gone"}},
        {"epoch": 1, "calls": {1: [1]}},
    ]  # fmt: skip
    for value in (-1, "", "x y", "a" * 129, "../x", b"x", [1], *resumes):
        wire = await pod.wire()
        reply = await wire.send("open", {**OPEN, "run": "r1", name: value})
        assert is_refused_well(reply, name), value
        await wire.drop()


@pytest.mark.parametrize("what", ["x" * 1_000_000, "\x00" * 1_000_000])
async def test_a_giant_word_is_refused_with_a_short_sentence(pod: Pod, what: str) -> None:
    """Quoted back as it is, it would not fit into a frame."""
    agent = await pod.agent("r1")
    for request, body in (
        (what, {}),
        ("commit", {**COMMIT, "level": what}),
        ("call", {**CALL, "tool": what}),
        ("call", {**CALL, "key": what}),
        ("call", {**CALL, "business": "/" + what}),
        ("wait", {"name": what, "step": 1}),
        ("result", {"run": what}),
    ):
        with pytest.raises(RefusedError, match="protocol_error") as caught:
            await agent.ask(request, body)
        assert len(caught.value.message) < 2_000
    await agent.ask("fail", {"error": what})
    result = await agent.ask("result", {"run": "r1"})
    assert 100 < len(result.body["error"]) < 20_000


# Sizes


async def test_states_over_the_limit(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, state_bytes_max=100_000))
    agent = await pod.agent("r1")
    with pytest.raises(RefusedError, match=r"too_large: a state of 100001 bytes, 100000"):
        await agent.commit(b"x" * 100_001)
    patch = {"base": 0, "length": 2**62, "ranges": []}
    with pytest.raises(RefusedError, match="too_large"):
        await agent.commit(b"x", patch=patch)
    await agent.commit(b"x" * 100_000)
    with pytest.raises(RefusedError, match="too_large"):
        await agent.ask("finish", {"step": 2, "state_length": 100_001}, b"x" * 100_002)
    await still_serves(pod)


async def test_an_attachment_without_end_is_dropped_and_named(pod: Pod) -> None:
    agent = await pod.agent("r1")
    part = encode_frame("part", 77, b"x" * 1_048_576)
    for _ in range(82):
        agent.raw(part)
        await agent.writer.drain()
    reply = asyncio.get_running_loop().create_future()
    agent._replies[77] = reply
    agent.raw(encode_frame("commit", 77, {"step": 1, "level": "node", "schema": 1}))
    assert (await reply).body["code"] == "too_large"
    await agent.commit(b"small")


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ({}, "a state of None bytes"),
        ({"base": 99, "length": 3, "ranges": []}, "send the whole state"),
        ({"base": None, "length": 3, "ranges": []}, "send the whole state"),
        ({"length": -1, "ranges": []}, "a patch says length -1"),
        ({"length": 1.5, "ranges": []}, "a state of 1.5 bytes"),
        ({"length": 3, "ranges": 5}, "patch"),
        ({"length": 3, "ranges": [[0]]}, "patch"),
        ({"length": 3, "ranges": [[0, 1, 2]]}, "patch"),
        ({"length": 3, "ranges": [["a", "b"]]}, "patch"),
        ({"length": 3, "ranges": [[0, -1]]}, "patch"),
        ({"length": 3, "ranges": [[2, 2]]}, "patch"),
        ({"length": 3, "ranges": [[1, 1], [0, 1]]}, "patch"),
        ({"length": 3, "ranges": []}, "patch"),
        ({"length": 3, "ranges": [[0, 2**60]]}, "patch"),
        ({"length": 3, "ranges": [[0, 1]] * 200_000}, "patch"),
    ],
)
async def test_a_patch_that_fits_nothing(pod: Pod, patch: dict[str, Any], said: str) -> None:
    agent = await pod.agent("r1")
    seq = await agent.commit(b"abc")
    with pytest.raises(RefusedError, match=said):
        await agent.commit(b"x", patch={"base": seq, **patch})
    await agent.commit(b"X", patch={"base": seq, "length": 4, "ranges": [[1, 1]]})
    assert pod.sidecar.keepers["r1"].log.checkpoint_bytes == b"aXc\x00"


async def test_an_input_and_arguments_that_are_no_msgpack(pod: Pod) -> None:
    wire = await pod.wire()
    with pytest.raises(RefusedError, match=r"too_large: open: an input of 1000001 bytes"):
        await wire.open("r1", input=b"x" * 1_000_001)
    await wire.open("r1")
    for arguments in (b"\xc1", b"\x92\x01", b"\x01\x02", b"\x91" * 3_000, b"\x81\x90\x01"):
        with pytest.raises(RefusedError, match=r"protocol_error: call of t"):
            await wire.ask("call", {**CALL, "business": None}, arguments)
    with pytest.raises(RefusedError, match="nothing at /b"):
        await wire.ask("call", {**CALL, "business": "/b"}, msgpack.packb({"a": 1}))


async def test_a_client_that_never_reads_is_not_read_from_either(pod: Pod) -> None:
    """Else what it is owed would pile up in the sidecar's memory."""
    agent = await pod.agent("r1")
    await agent.finish(b"x" * 500_000)
    greedy = await deaf(pod)
    greedy.writelines(encode_message("hello", 1, HELLO))
    await until(lambda: len(pod.server._open) == 2)
    (served,) = [c for c in pod.server._open if c._requests._keeper is None]
    assert served._transport is not None
    for number in range(2, 400):
        greedy.writelines(encode_message("result", number, {"run": "r1"}))
        await asyncio.sleep(0)
    await asyncio.sleep(0.2)
    assert served._transport.get_write_buffer_size() < 20_000_000
    greedy.abort()
    await until(lambda: len(pod.server._open) == 1)


async def deaf(pod: Pod) -> asyncio.Transport:
    """A connection that reads nothing."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_unix_connection(asyncio.Protocol, str(pod.path))
    transport.pause_reading()
    return transport


async def test_four_thousand_connections(pod: Pod) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 9_000:
        pytest.skip(f"needs 9,000 file descriptors; {hard} are allowed")
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 9_000), hard))
    known = len(pod.server._open)
    many = [await deaf(pod) for _ in range(4_000)]
    await until(lambda: len(pod.server._open) == known + 4_000)
    await still_serves(pod)
    many += [await deaf(pod) for _ in range(200)]
    refused = await pod.wire(is_greeted=False)
    assert "too many connections" in await last_words(refused)
    for transport in many:
        transport.abort()
    await until(lambda: len(pod.server._open) < 10)
