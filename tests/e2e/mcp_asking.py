"""Tools and prompts of the reference server that ask in their result, from 2026-07-28 on."""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)

ROUNDS: Final = (("step1", "name"), ("step2", "color"))


def _ask(
    message: str, name: str, *, kind: Literal["string", "boolean"] = "string"
) -> ElicitRequest:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(prompt: str) -> CreateMessageRequest:
    said = [SamplingMessage(role="user", content=TextContent(type="text", text=prompt))]
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=said, max_tokens=100))


def _word(answer: Any, name: str) -> str:
    match answer:
        case ElicitResult(content=dict() as content):
            return str(content.get(name))
        case CreateMessageResult(content=TextContent(text=text)):
            return text
        case ListRootsResult(roots=roots):
            return str(len(roots))
        case _:
            return "?"


def _asking(
    server: MCPServer,
    kind: str,
    *,
    requests: Mapping[str, InputRequest],
    state: str | None = None,
    field: str = "",
) -> None:
    """A tool that is done once it has all that it asked for."""

    async def ask(ctx: Context) -> str | InputRequiredResult:
        got = ctx.input_responses or {}
        if requests.keys() <= got.keys() and ctx.request_state == state:
            return f"{kind}-ok: {', '.join(_word(answer, field) for answer in got.values())}"
        return InputRequiredResult(input_requests=dict(requests), request_state=state)

    server.add_tool(ask, name=f"test_input_required_result_{kind}", description=kind)


NAME: Final = _ask("What is your name?", "name")
SURE: Final = _ask("Sure?", "ok", kind="boolean")


async def _request_state(ctx: Context) -> str | InputRequiredResult:
    if ctx.request_state == "nonce" and "confirm" in (ctx.input_responses or {}):
        return "state-ok"
    asked: dict[str, InputRequest] = {"confirm": SURE}
    return InputRequiredResult(input_requests=asked, request_state="nonce")


async def _multi_round(ctx: Context) -> str | InputRequiredResult:
    said: list[str] = json.loads(ctx.request_state) if ctx.request_state else []
    place, field = ROUNDS[min(len(said), 1)]
    got = (ctx.input_responses or {}).get(place)
    if ctx.request_state is not None and got is not None:
        said.append(_word(got, field))
    if len(said) == len(ROUNDS):
        return " likes ".join(said)
    place, field = ROUNDS[len(said)]
    asked: dict[str, InputRequest] = {place: _ask(f"Your {field}?", field)}
    return InputRequiredResult(input_requests=asked, request_state=json.dumps(said))


async def _capabilities(ctx: Context) -> InputRequiredResult:
    has = ctx.client_capabilities
    asked: dict[str, InputRequest] = {}
    if has is None or has.sampling is not None:
        asked["sample"] = _sample("Say hello")
    if has is None or has.elicitation is not None:
        asked["ask"] = NAME
    return InputRequiredResult(input_requests=asked, request_state="seen")


async def _prompt(ctx: Context) -> list[UserMessage] | InputRequiredResult:
    got = (ctx.input_responses or {}).get("user_context")
    if got is not None:
        said = TextContent(type="text", text=f"About {_word(got, 'context')}")
        return [UserMessage(role="user", content=said)]
    return InputRequiredResult(input_requests={"user_context": _ask("About what?", "context")})


def register(server: MCPServer) -> None:
    """Put them all on."""
    roots, greet = ListRootsRequest(), _sample("Greet me")
    capital = _sample("What is the capital of France?")
    _asking(server, "elicitation", requests={"user_name": NAME}, field="name")
    _asking(server, "sampling", requests={"capital_question": capital})
    _asking(server, "list_roots", requests={"client_roots": roots})
    every: dict[str, InputRequest] = {"user_name": NAME, "greeting": greet, "client_roots": roots}
    _asking(server, "multiple_inputs", requests=every, state="all")
    _asking(server, "tampered_state", requests={"confirm": SURE}, state="one")
    for ask in (_request_state, _multi_round, _capabilities):
        name = f"test_input_required_result{ask.__name__}"
        server.add_tool(ask, name=name, description="Of the suite.")
    server.prompt("test_input_required_result_prompt", description="Of the suite.")(_prompt)
