"""What a model's recorded answer holds: its tokens, their price, the boundaries of its events.

Three APIs are read, streamed or not: chat completions, responses and messages. An answer that is
none of these is no completion; one whose tokens are not told still is one.
"""

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

PARSED_BYTES_MAX: Final = 2**20
"""A longer answer, or a longer event, is not looked into: 1 MiB of JSON takes some 5 ms."""
MILLION: Final = 1e6
"""Prices are per million tokens."""
LINE_END: Final = rb"(?:\r\n|\n|\r(?!\n|\Z))"
EVENT_END: Final = re.compile(LINE_END + LINE_END)
"""WHATWG HTML, 9.2.5: a blank line, of any of three line ends. A CR that comes last may be half
of one."""
LINES: Final = re.compile(rb"\r\n|\n|\r")
USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
"""Only events that tell something are parsed. Within a string its quotes would be escaped."""
DATED: Final = re.compile(r"[-@:](\d{4}-\d{2}-\d{2}|\d{3,8}|latest)", re.ASCII)
"""What follows a model's name where an answer names the snapshot that gave it."""
EVENT_STREAM: Final = "text/event-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Dollars per million tokens of one model; cached input costs as input if not said."""

    input: float
    output: float
    cached_input: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one completion used; `None` where the answer does not tell."""

    model: str
    input_tokens: int | None = None
    """All of the prompt, cached or not."""
    cached_tokens: int = 0
    """Those of the input that the upstream had in its cache."""
    output_tokens: int | None = None


def split_events(data: bytes) -> tuple[int, ...]:
    """Where each whole server-sent event of `data` ends; what follows the last is a part of one."""
    return tuple(match.end() for match in EVENT_END.finditer(data))


def usage(content_type: str, body: bytes, *, encoding: str = "") -> Usage | None:
    """What a recorded 2xx answer says of itself; `None` if it is no completion.

    `encoding` is its `Content-Encoding`; of those gzip and deflate are undone.
    """
    plain = _decoded(body, encoding.strip().lower())
    kind = content_type.partition(";")[0].strip().lower()
    if plain is None or (kind != EVENT_STREAM and not kind.endswith("json")):
        return None
    if kind == EVENT_STREAM:
        return _merged(_events(plain))
    value = _json(plain)
    return _of_answer(value) if isinstance(value, dict) else None


def dollars(used: Usage, prices: Mapping[str, Price]) -> float | None:
    """What it cost; `None` if the model has no price, or the answer told no tokens."""
    price = _price(used.model, prices)
    if price is None or used.input_tokens is None or used.output_tokens is None:
        return None
    cached = price.input if price.cached_input is None else price.cached_input
    fresh_tokens = used.input_tokens - used.cached_tokens
    cost = fresh_tokens * price.input + used.cached_tokens * cached
    return (cost + used.output_tokens * price.output) / MILLION


def _price(model: str, prices: Mapping[str, Price]) -> Price | None:
    """That of the model, else of the name that its snapshot belongs to."""
    if model in prices:
        return prices[model]
    for name in sorted(prices, key=len, reverse=True):
        if model.startswith(name) and DATED.fullmatch(model[len(name) :]):
            return prices[name]
    return None


def _decoded(body: bytes, encoding: str) -> bytes | None:
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return None
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, 8 * PARSED_BYTES_MAX)
    except zlib.error:
        return None


def _json(data: bytes) -> Any:
    if len(data) > PARSED_BYTES_MAX:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _events(stream: bytes) -> Iterator[dict[str, Any]]:
    """The data of events that tell usage, and of the first, which names the model."""
    start = 0
    is_first = True
    for end in (*split_events(stream), len(stream)):
        event, start = stream[start:end], end
        if not is_first and not USAGE.search(event):
            continue
        lines = [line[5:].strip() for line in LINES.split(event) if line.startswith(b"data:")]
        value = _json(b"\n".join(lines))
        if isinstance(value, dict):
            is_first = False
            yield value


def _merged(events: Iterator[dict[str, Any]]) -> Usage | None:
    """What a stream says bit by bit: later figures take the place of earlier ones."""
    model: str | None = None
    told: dict[str, Any] = {}
    for event in events:
        inner = event.get("response") or event.get("message") or event
        if not isinstance(inner, dict):
            continue
        if model is None and _is_completion(inner):
            model = _text(inner.get("model"))
        if isinstance(inner.get("usage"), dict):
            told |= {name: value for name, value in inner["usage"].items() if value is not None}
    return None if model is None else _counted(model, told)


def _of_answer(value: dict[str, Any]) -> Usage | None:
    if not _is_completion(value):
        return None
    told = value.get("usage")
    return _counted(_text(value.get("model")), told if isinstance(told, dict) else {})


def _is_completion(value: dict[str, Any]) -> bool:
    """By what each API calls its answers; the lists of embeddings are told by their usage."""
    told = value.get("usage")
    is_list = value.get("object") == "list" and isinstance(told, dict) and "prompt_tokens" in told
    names = (value.get("object"), value.get("type"))
    return is_list or bool(
        {"chat.completion", "chat.completion.chunk", "text_completion", "response", "message"}
        & {name for name in names if isinstance(name, str)}
        and isinstance(value.get("model"), str)
    )


def _counted(model: str, told: Mapping[str, Any]) -> Usage:
    if "prompt_tokens" in told:  # chat completions, embeddings
        cached = _cached(told.get("prompt_tokens_details"))
        output = _number(told.get("completion_tokens", 0))
        return _usage(model, _number(told["prompt_tokens"]), cached=cached, output=output)
    fresh, output = _number(told.get("input_tokens")), _number(told.get("output_tokens"))
    if "input_tokens_details" in told or fresh is None:  # responses
        cached = _cached(told.get("input_tokens_details"))
        return _usage(model, fresh, cached=cached, output=output)
    read = _number(told.get("cache_read_input_tokens")) or 0  # messages: counted apart
    written = _number(told.get("cache_creation_input_tokens")) or 0
    return _usage(model, fresh + read + written, cached=read, output=output)


def _usage(model: str, total: int | None, *, cached: int, output: int | None) -> Usage:
    return Usage(
        model=model,
        input_tokens=total,
        cached_tokens=min(cached, total or 0),
        output_tokens=output,
    )


def _cached(details: object) -> int:
    return (_number(details.get("cached_tokens")) or 0) if isinstance(details, dict) else 0


def _number(value: object) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if is_count and isinstance(value, int) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
