"""MCP messages as a proxy sees them: which are tool calls, and what identifies one.

Messages pass through as the bytes they are. Where an answer goes to another asking than it was
given to, its `id` alone is replaced. Revisions up to 2025-11-25 and 2026-07-28 alike; in the
latter an answer may ask for input, and the call is then asked for again with it: another leg of the
same call, told apart by what was put in.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from coatcheck_sidecar.core import fingerprint
from coatcheck_sidecar.core.canonical import unique
from coatcheck_sidecar.core.fingerprint import HttpRequest
from coatcheck_sidecar.core.model import Effect
from coatcheck_sidecar.core.tool import Tool

STDIO: Final = "stdio:"
"""In place of a server's URL: a wrapper in the agent's container speaks to it."""
STDIO_TOOL: Final = Tool(name="stdio", mcp=STDIO)
"""Of wrapped servers that the configuration says nothing of."""
CALL: Final = "tools/call"
LIST: Final = "tools/list"
KEY: Final = "dev.coatcheck/key"
"""Of `_meta`: the agent's own key for a call."""
VERSION: Final = "io.modelcontextprotocol/protocolVersion"
"""Of `_meta`: from 2026-07-28 on each request carries it, and each result its type."""
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
"""JSON-RPC 2.0, section 5.1."""
LEG_CHARS: Final = 16
"""Of a digest, to tell the legs of one call under one key: a handful each."""
JSON_HEADERS: Final = (("content-type", "application/json"),)
DECODER: Final = json.JSONDecoder()
BLANKS: Final = " \t\n\r"


class Unfit(ValueError):  # noqa: N818 - says what is the matter
    """A body that is no JSON-RPC message, or could be read in two ways."""

    def __init__(self, code: int, why: str) -> None:
        """`code` is that of the JSON-RPC error."""
        super().__init__(why)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A `tools/call`. `id` is as it was parsed, `id_text` as it was written."""

    id: str | float
    id_text: str
    name: str
    arguments: Mapping[str, Any]
    key: str | None
    leg: str
    """Tells apart the askings of one call that carry input; empty for the first."""
    input: Mapping[str, Any]
    """Besides name and arguments, what makes it another request: input, state, whether a task."""
    is_typed: bool
    """Results name their type: 2026-07-28 and later."""


@dataclass(frozen=True, slots=True)
class Posted:
    """What a message of the client is. A response or a batch has no method."""

    method: str = ""
    id: str | float | None = None
    call: ToolCall | None = None


@dataclass(frozen=True, slots=True)
class Hints:
    """What a server's `tools/list` said of its tools."""

    effects: Mapping[str, Effect]
    structured: frozenset[str]
    """Those with an output schema: clients hold even an error's structured content against it."""


NO_HINTS: Final = Hints({}, frozenset())


def read(body: bytes) -> Posted:
    """Read the body of a POST; raises `Unfit`.

    What could be read in two ways is refused: a server must not find a call where the proxy saw
    none. A batch (2025-03-26 alone has them) passes if it holds no tool call.
    """
    message = _parsed(body)
    if isinstance(message, list):
        if any(isinstance(item, dict) and item.get("method") == CALL for item in message):
            raise Unfit(
                INVALID_REQUEST, "a tool call in a batch can't be told apart: send it alone"
            )
        return Posted()
    if not isinstance(message, dict):
        raise Unfit(INVALID_REQUEST, "a JSON-RPC message is an object")
    method, asked_id = message.get("method", ""), message.get("id")
    found_id = asked_id if _is_id(asked_id) else None
    if method != CALL:
        return Posted(method if isinstance(method, str) else "", found_id)
    return Posted(CALL, found_id, _call(message, body.decode()))


def answered_id(message: bytes) -> str | float | None:
    """The id of the request that a message of the server answers; `None` if it is no answer."""
    try:
        found = _parsed(message)
    except Unfit:
        return None
    if not isinstance(found, dict) or "method" in found or not {"result", "error"} & found.keys():
        return None
    theirs = found.get("id")
    return theirs if _is_id(theirs) else None


def _is_id(value: object) -> TypeGuard[str | float]:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def read_call(body: bytes) -> ToolCall:
    """Read what can only be a tool call; raises `Unfit`."""
    call = read(body).call
    if call is None:
        raise Unfit(INVALID_REQUEST, "not a tool call")
    return call


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise Unfit(PARSE_ERROR, f"not a JSON message: {error}") from None


def _call(message: Mapping[str, Any], text: str) -> ToolCall:
    params, call_id = message.get("params"), message.get("id")
    if not _is_id(call_id):
        raise Unfit(INVALID_REQUEST, "a tool call has an id, text or a number")
    if not isinstance(params, dict) or not isinstance(params.get("name"), str):
        raise Unfit(INVALID_REQUEST, "a tool call names its tool")
    arguments, meta = params.get("arguments") or {}, params.get("_meta") or {}
    if not isinstance(arguments, dict) or not isinstance(meta, dict):
        raise Unfit(INVALID_REQUEST, "arguments and _meta are objects")
    key = meta.get(KEY)
    if key is not None and (not isinstance(key, str) or not key):
        raise Unfit(INVALID_REQUEST, f"{KEY} is text")
    start, end = _member(text, "id")
    more = {name: params[name] for name in ("inputResponses", "requestState") if name in params}
    leg = _leg(more)
    if "task" in params:  # another form of answer; how long it is kept makes no other request
        more["task"] = True
    return ToolCall(
        id=call_id,
        id_text=text[start:end],
        name=params["name"],
        arguments=arguments,
        key=key,
        leg=leg,
        input=more,
        is_typed=VERSION in meta,
    )


def _leg(more: Mapping[str, Any]) -> str:
    """By the server's state where it gave one: other input to the same question is a conflict."""
    if not more:
        return ""
    asked = more.get("requestState") or sorted(more.get("inputResponses") or ())
    said = json.dumps(asked, sort_keys=True).encode()
    return hashlib.sha256(said).hexdigest()[:LEG_CHARS]


def fingerprint_of(call: ToolCall, tool: Tool) -> bytes:
    """SHA-256 of what a call asks for: the MCP tool and its arguments, and input given to it.

    `tool.ignore` points into the arguments.
    """
    said = {**call.input, "arguments": call.arguments}
    request = HttpRequest(
        method="POST",
        scheme="mcp",
        authority=tool.name,
        path=call.name,
        account=tool.account,
        headers=JSON_HEADERS,
        body=json.dumps(said, sort_keys=True).encode(),
    )
    ignored = [f"/arguments{path}" for path in tool.ignore]
    return fingerprint.of_request(request, ignored_pointers=ignored)


def key_of(call: ToolCall, header: str | None) -> str | None:
    """The agent's key, by `_meta` or else by header; a leg of it if input came along."""
    key = call.key or header or None
    return f"{key}:{call.leg}" if key is not None and call.leg else key


def business_of(call: ToolCall, tool: Tool) -> str | None:
    """The value at the tool's pointer into the arguments; a leg of it if input came along."""
    found = fingerprint.business_value(call.arguments, tool.key) if tool.key else None
    return f"{found}:{call.leg}" if found is not None and call.leg else found


def url_of(base: str, rest: str, *, query: str) -> str:
    """Where a request goes: `rest` behind the server's own path, both queries one after another."""
    place, _, own = base.partition("?")
    both = "&".join(part for part in (own, query) if part)
    return f"{place.rstrip('/') if rest else place}{rest}{'?' if both else ''}{both}"


def effect_of(name: str, *, tool: Tool, hints: Hints) -> Effect:
    """What doing this call twice would do: as configured by name, as hinted, as configured."""
    if name in tool.effects:
        return tool.effects[name]
    if tool.trust_hints and name in hints.effects:
        return hints.effects[name]
    return tool.effect or Effect.ONCE


def hints_in(message: bytes, before: Hints) -> Hints:
    """`before`, and what the answer to a `tools/list` says of the tools of its page."""
    try:
        answer = _parsed(message)
    except Unfit:
        return before
    result = answer.get("result") if isinstance(answer, dict) else None
    listed = result.get("tools") if isinstance(result, dict) else None
    tools = [tool for tool in listed if isinstance(tool, dict)] if isinstance(listed, list) else []
    effects, structured = dict(before.effects), set(before.structured)
    for tool in tools:
        name = str(tool.get("name"))
        effects.pop(name, None)
        effect = _hinted(tool.get("annotations"))
        if effect is not None:
            effects[name] = effect
        (structured.add if "outputSchema" in tool else structured.discard)(name)
    return Hints(effects, frozenset(structured))


def _hinted(annotations: object) -> Effect | None:
    if not isinstance(annotations, dict):
        return None
    if annotations.get("readOnlyHint") is True:
        return Effect.READ
    return Effect.IDEMPOTENT if annotations.get("idempotentHint") is True else None


def with_id(message: bytes, id_text: str) -> bytes:
    """A response under another id, all else byte for byte; what is no response is left alone."""
    try:
        text = message.decode()
        span = _member(text, "id")
    except (ValueError, RecursionError):
        return message
    return (text[: span[0]] + id_text + text[span[1] :]).encode()


def _member(text: str, name: str) -> tuple[int, int]:
    """Where the value of a member of the outermost object stands; raises `ValueError`."""
    place = _past_blanks(text, 0)
    while text[place : place + 1] in ("{", ","):
        found, place = DECODER.raw_decode(text, _past_blanks(text, place + 1))
        start = _past_blanks(text, _past_blanks(text, place) + 1)
        _, end = DECODER.raw_decode(text, start)
        if found == name:
            return start, end
        place = _past_blanks(text, end)
    raise ValueError(f"no {name} in it")


def _past_blanks(text: str, place: int) -> int:
    while text[place : place + 1] and text[place] in BLANKS:
        place += 1
    return place
