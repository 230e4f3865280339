"""Frames, parts and patches: against the vectors for other languages, and at their limits."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coatcheck import wire
from coatcheck.wire import (
    PAGE_BYTES,
    PART,
    Assembler,
    AttachmentTooLarge,
    FrameReader,
    Message,
    WireError,
    encode_frame,
    encode_message,
    make_patch,
)

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "wire.json").read_text())


def plain(value: Any) -> Any:
    """A vector's JSON with `$bytes` and `$map` (any keys) as what they stand for."""
    match value:
        case {"$bytes": text}:
            return bytes.fromhex(text)
        case {"$map": pairs}:
            return {key: plain(item) for key, item in pairs}
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list():
            return [plain(item) for item in value]
        case _:
            return value


def assembled(data: bytes, *, chunk_bytes: int) -> list[Message]:
    reader, assembler = FrameReader(), Assembler()
    chunks = (data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes))
    frames = (frame for chunk in chunks for frame in reader.feed(chunk))
    return [message for message in map(assembler.add, frames) if message is not None]


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda vector: vector["name"])
def test_messages_are_as_in_the_vectors(vector: dict[str, Any]) -> None:
    body, attachment = plain(vector["body"]), plain(vector["attachment"])
    data = b"".join(encode_message(vector["type"], vector["id"], body, attachment))
    assert data.hex() == vector["frames"]
    expected = [Message(vector["type"], vector["id"], body, attachment)]
    for chunk_bytes in (1, 3, len(data)):
        assert assembled(data, chunk_bytes=chunk_bytes) == expected


@pytest.mark.parametrize("vector", VECTORS["parts"], ids=lambda vector: vector["name"])
def test_parts_are_as_in_the_vectors(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["frames"])
    for chunk_bytes in (1, 3, len(data)):
        got = assembled(data, chunk_bytes=chunk_bytes)
        assert got == [Message(**plain(message)) for message in vector["messages"]]


@pytest.mark.parametrize("vector", VECTORS["unreadable"], ids=lambda vector: vector["name"])
def test_what_is_no_frame_is_named(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["data"])
    good = encode_frame("ok", 1, {})
    with pytest.raises(WireError, match=vector["says"]) as caught:
        FrameReader().feed(good + data)
    assert caught.value.frames == (Message("ok", 1, {}),)
    with pytest.raises(WireError, match=vector["says"]):
        assembled(data, chunk_bytes=1)


@given(st.binary(max_size=200))
@example(framed(b"\x93" * 100))
@example(framed(msgpack.packb([["a"], 1, {}])))
def test_garbage_gives_frames_or_an_error(data: bytes) -> None:
    for start in (b"", framed(b"")[:3]):
        with suppress(WireError):
            assert all(isinstance(frame, Message) for frame in FrameReader().feed(start + data))


Bodies = st.dictionaries(
    st.text(max_size=5),
    st.none() | st.booleans() | st.integers(0, 2**63) | st.text() | st.binary() | st.floats(0, 1),
    max_size=4,
)


@given(
    st.lists(
        st.tuples(st.text(max_size=9), st.integers(0, 2**32 - 1), Bodies, st.none() | st.binary())
    ),
    st.integers(1, 64),
)
def test_messages_survive_any_chopping(messages: list[Any], chunk_bytes: int) -> None:
    messages = [message for message in messages if message[0] != PART]
    data = b"".join(b"".join(encode_message(*message)) for message in messages)
    got = assembled(data, chunk_bytes=chunk_bytes)
    assert [tuple(message) for message in got] == messages


def test_big_attachments_travel_in_parts() -> None:
    state = bytes(range(256)) * 10_000
    frames = encode_message("commit", 3, {}, state)
    assert [len(frame) > wire.PART_BYTES_MAX for frame in frames] == [True, True, False, False]
    assert assembled(b"".join(frames), chunk_bytes=65_536) == [Message("commit", 3, {}, state)]


def test_parts_of_different_requests_interleave() -> None:
    assembler = Assembler()
    for number, data in ((1, b"a"), (2, b"x"), (1, b"b"), (2, b"y")):
        assert assembler.add(Message(PART, number, data)) is None
    assert assembler.add(Message("call", 2, {})) == Message("call", 2, {}, b"xy")
    assert assembler.add(Message("call", 1, {})) == Message("call", 1, {}, b"ab")
    assert assembler.add(Message("call", 1, {})) == Message("call", 1, {}, None)


@pytest.mark.parametrize(("size", "frames"), [(0, 1), (65_536, 1), (65_537, 2)])
def test_small_attachments_ride_along(size: int, frames: int) -> None:
    made = encode_message("commit", 3, {}, bytes(size))
    assert len(made) == frames
    assert assembled(b"".join(made), chunk_bytes=4096) == [Message("commit", 3, {}, bytes(size))]


def test_an_attachment_has_one_way() -> None:
    assembler = Assembler()
    assembler.add(Message(PART, 2, b"x"))
    assert assembler.add(Message("call", 1, {}, b"y")) == Message("call", 1, {}, b"y")
    with pytest.raises(WireError, match="call 2 has an attachment, and parts before it"):
        assembler.add(Message("call", 2, {}, b"y"))


def test_a_frame_that_is_too_big_is_not_sent() -> None:
    with pytest.raises(WireError, match="error 1 has 1114"):
        encode_frame("error", 1, {"message": "x" * wire.FRAME_BYTES_MAX})


def test_an_attachment_over_the_limit_costs_its_own_request_alone() -> None:
    assembler = Assembler(bytes_max=10)
    assembler.add(Message(PART, 1, b"12345"))
    for _ in range(4):
        assembler.add(Message(PART, 2, b"1234"))
    with pytest.raises(AttachmentTooLarge, match="commit 2 passes the limit of 10") as caught:
        assembler.add(Message("commit", 2, {"step": 1}))
    assert caught.value.refused == Message("commit", 2, {"step": 1}, None)
    assert caught.value.limit_bytes == 10
    assembler.add(Message(PART, 1, b"67890"))
    assert assembler.add(Message("commit", 1, {})) == Message("commit", 1, {}, b"1234567890")


def test_parts_without_requests_are_bounded() -> None:
    assembler = Assembler()
    for number in range(wire.REQUESTS_MAX):
        assembler.add(Message(PART, number, b"x"))
    with pytest.raises(WireError, match="more than 1024 requests"):
        assembler.add(Message(PART, wire.REQUESTS_MAX, b"x"))


OLD = bytes(range(256)) * 16 * 20


@pytest.mark.parametrize(
    ("new", "ranges"),
    [
        (OLD, []),
        (OLD + b"!", [(len(OLD), 1)]),
        (OLD[:-1], []),
        (b"!" + OLD[1:], [(0, PAGE_BYTES)]),
        (OLD[: PAGE_BYTES * 2 - 1] + b"!!" + OLD[PAGE_BYTES * 2 + 1 :], [(4096, 8192)]),
        (b"!" + OLD[1:-1] + b"!", [(0, 4096), (len(OLD) - 4096, 4096)]),
        (OLD + OLD[:100], [(len(OLD), 100)]),
    ],
)
def test_a_patch_names_the_pages_that_changed(new: bytes, ranges: list[tuple[int, int]]) -> None:
    patch = make_patch(OLD, new)
    assert patch is not None
    assert patch.ranges == ranges


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"a" * 1000, b"a" * 1000),
        (b"", OLD),
        (OLD, b"!" + OLD),
        (bytes(PAGE_BYTES * 5000), bytes(4095) * 0 + (bytes(4095) + b"!" + bytes(8192)) * 1700),
    ],
    ids=["small", "from nothing", "shifted", "scattered"],
)
def test_what_is_as_good_whole_is_no_patch(old: bytes, new: bytes) -> None:
    assert make_patch(old, new) is None
