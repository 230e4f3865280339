import gzip
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.completions import (
    PARSED_BYTES_MAX,
    Price,
    Usage,
    dollars,
    split_events,
    usage,
)

JSON = "application/json; charset=utf-8"
SSE = "text/event-stream"
CHAT = {
    "id": "c",
    "object": "chat.completion",
    "model": "gpt-4.1-2025-04-14",
    "choices": [{"message": {"content": 'say "usage": {"prompt_tokens": 9}'}}],
    "usage": {
        "prompt_tokens": 1000,
        "completion_tokens": 50,
        "total_tokens": 1050,
        "prompt_tokens_details": {"cached_tokens": 400},
    },
}
RESPONSE = {
    "id": "r",
    "object": "response",
    "model": "gpt-5",
    "usage": {
        "input_tokens": 70,
        "input_tokens_details": {"cached_tokens": 20},
        "output_tokens": 8,
    },
}
MESSAGE = {
    "id": "m",
    "type": "message",
    "model": "claude-sonnet-4-5-20250929",
    "usage": {
        "input_tokens": 10,
        "cache_read_input_tokens": 90,
        "cache_creation_input_tokens": 5,
        "output_tokens": 3,
    },
}
CHAT_USAGE = Usage(
    model="gpt-4.1-2025-04-14", input_tokens=1000, cached_tokens=400, output_tokens=50
)
RESPONSE_USAGE = Usage(model="gpt-5", input_tokens=70, cached_tokens=20, output_tokens=8)
MESSAGE_USAGE = Usage(
    model="claude-sonnet-4-5-20250929", input_tokens=105, cached_tokens=90, output_tokens=3
)


def dumped(value: object) -> bytes:
    return json.dumps(value).encode()


def stream(*events: Any, end: str = "\n") -> bytes:
    return b"".join(
        (f"event: {event.get('type', 'x')}{end}data: {json.dumps(event)}{end}{end}").encode()
        for event in events
    )


CHUNK = {"object": "chat.completion.chunk", "model": CHAT["model"], "usage": None}
STREAMS = [
    (stream(CHUNK, CHUNK, CHUNK | {"usage": CHAT["usage"]}) + b"data: [DONE]\n\n", CHAT_USAGE),
    (
        stream(
            {"type": "response.created", "response": RESPONSE | {"usage": None}},
            {"type": "response.output_text.delta", "delta": '"usage": {'},
            {"type": "response.completed", "response": RESPONSE},
        ),
        RESPONSE_USAGE,
    ),
    (
        stream(
            {"type": "message_start", "message": MESSAGE},
            {"type": "ping"},
            {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 7}},
            end="\r\n",
        ),
        Usage(model=str(MESSAGE["model"]), input_tokens=105, cached_tokens=90, output_tokens=7),
    ),
]


@pytest.mark.parametrize(
    ("answer", "found"), [(CHAT, CHAT_USAGE), (RESPONSE, RESPONSE_USAGE), (MESSAGE, MESSAGE_USAGE)]
)
def test_what_an_answer_used(answer: dict[str, Any], found: Usage) -> None:
    assert usage(JSON, dumped(answer)) == found
    assert usage("application/json", gzip.compress(dumped(answer)), encoding="GZip") == found
    assert usage(JSON, zlib.compress(dumped(answer)), encoding="deflate") == found


@pytest.mark.parametrize(("body", "found"), STREAMS)
def test_what_a_stream_used(body: bytes, found: Usage) -> None:
    assert usage(SSE, body) == found
    assert usage(SSE, body.removesuffix(b"\n\n")) == found
    assert usage(SSE, gzip.compress(body), encoding="gzip") == found


def test_a_stream_that_tells_no_usage_is_a_completion_all_the_same() -> None:
    found = usage(SSE, b": comment\n\n" + stream(CHUNK, CHUNK))
    assert found == Usage(model=str(CHUNK["model"]))
    assert dollars(found, {"gpt-4.1": Price(input=1, output=1)}) is None


def test_embeddings_are_bought_too() -> None:
    body = {"object": "list", "model": "e", "data": [], "usage": {"prompt_tokens": 8}}
    assert usage(JSON, dumped(body)) == Usage(model="e", input_tokens=8, output_tokens=0)
    nameless = {"object": "list", "usage": {"prompt_tokens": 8, "prompt_tokens_details": None}}
    assert usage(JSON, dumped(nameless)) == Usage(model="", input_tokens=8, output_tokens=0)


@pytest.mark.parametrize(
    ("content_type", "body", "encoding"),
    [
        ("text/html", dumped(CHAT), ""),
        (JSON, b"[1]", ""),
        (JSON, b"{", ""),
        (JSON, b'{"object": "list", "data": []}', ""),
        (JSON, b'{"type": "message"}', ""),
        (JSON, b'{"type": ["message"], "model": "x"}', ""),
        (JSON, b"[" * 100_000, ""),
        (JSON, dumped(CHAT | {"x": "y" * PARSED_BYTES_MAX}), ""),
        (JSON, dumped(CHAT), "br"),
        (JSON, b"no gzip", "gzip"),
        (SSE, b"", ""),
        (SSE, b"data: 1\n\ndata: x\n\n", ""),
        (SSE, stream({"message": "usage", "type": "error"}), ""),
    ],
)
def test_what_is_no_completion(content_type: str, body: bytes, encoding: str) -> None:
    assert usage(content_type, body, encoding=encoding) is None


def test_figures_that_are_none_are_not_told() -> None:
    odd = CHAT | {"usage": {"prompt_tokens": "9", "completion_tokens": True}}
    assert usage(JSON, dumped(odd)) == Usage(model=str(CHAT["model"]))
    bare = RESPONSE | {"usage": {"input_tokens": -1, "output_tokens": 4}}
    assert usage(JSON, dumped(bare)) == Usage(model="gpt-5", output_tokens=4)
    assert usage(JSON, dumped(RESPONSE | {"usage": 3})) == Usage(model="gpt-5")


def test_dollars() -> None:
    prices = {
        "gpt-4.1": Price(input=2, output=8, cached_input=0.5),
        "gpt-4.1-mini": Price(input=1, output=1),
        "gpt-5": Price(input=1, output=10),
    }
    assert dollars(CHAT_USAGE, prices) == pytest.approx((600 * 2 + 400 * 0.5 + 50 * 8) / 1e6)
    assert dollars(RESPONSE_USAGE, prices) == pytest.approx((70 + 80) / 1e6)
    assert dollars(MESSAGE_USAGE, prices) is None


@pytest.mark.parametrize(
    ("model", "has_price"),
    [
        ("gpt-4o", True),
        ("gpt-4o-2024-08-06", True),
        ("gpt-4o-0613", True),
        ("gpt-4o-latest", True),
        ("gpt-4o@20250929", True),
        ("gpt-4o-mini", False),
        ("gpt-4o-mini-2024-07-18", False),
        ("gpt-4", False),
    ],
)
def test_a_snapshot_has_its_models_price_and_another_model_none(
    model: str, has_price: bool
) -> None:
    used = Usage(model=model, input_tokens=1, output_tokens=1)
    assert (dollars(used, {"gpt-4o": Price(input=1, output=1)}) is not None) is has_price


@pytest.mark.parametrize(
    ("data", "ends"),
    [
        (b"", ()),
        (b"data: 1\n\ndata: 2\n\n", (9, 18)),
        (b"data: 1\r\n\r\ndata", (11,)),
        (b"data: 1\r\rdata: 2\r\r", (9,)),
        (b"data: 1\n\r\n", (10,)),
        (b"data: 1\r\ndata: 2\r\n", ()),
        (b"data: 1\n\r", ()),
    ],
)
def test_events_end_at_blank_lines(data: bytes, ends: tuple[int, ...]) -> None:
    assert split_events(data) == ends


@given(st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b"")),
                max_size=5), st.sampled_from([b"\n", b"\r\n"]), st.integers(0, 200))  # fmt: skip
def test_a_cut_stream_has_the_same_boundaries(lines: list[bytes], end: bytes, cut: int) -> None:
    data = b"".join(b"data:" + line + end + end for line in lines)
    whole = split_events(data)
    assert len(whole) == len(lines)
    head = data[:cut]
    before = split_events(head)
    kept = before[-1] if before else 0
    after = tuple(kept + offset for offset in split_events(data[kept:]))
    assert (*before, *after) == whole


@given(st.binary(max_size=200), st.sampled_from([JSON, SSE]), st.sampled_from(["", "gzip"]))
def test_nothing_breaks_on_any_bytes(body: bytes, content_type: str, encoding: str) -> None:
    usage(content_type, body, encoding=encoding)
    usage(SSE, b"data: " + body + b"\n\n")
