"""The server that the MCP conformance suite is run against: every feature, under the suite's names.

    python -m tests.e2e.mcp_reference --port 3001

What the suite looks for (names, texts, forms) is fixed by it; the server is the SDK's.
"""

import argparse
import asyncio
import base64
import json
import struct
import warnings
import zlib
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Final

from mcp.server.mcpserver import Context, MCPServer, RequestStateSecurity
from mcp.server.mcpserver.prompts.base import Prompt, UserMessage
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.shared.exceptions import MCPError
from mcp.types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    Completion,
    CompletionArgument,
    CompletionContext,
    ContentBlock,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    JSONRPCMessage,
    PromptReference,
    ResourceTemplateReference,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import BaseModel, Field

from tests.e2e import mcp_asking

RETRY_MS: Final = 100
KEY: Final = b"a key for nothing but this test's state" * 2
PAUSE_S: Final = 0.05


class Memory(EventStore):
    """Streams to be taken up again."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self.kept.append((stream_id, message))
        return str(len(self.kept))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str:
        after = int(last_event_id)
        stream = self.kept[after - 1][0]
        for number, (of, message) in enumerate(self.kept, 1):
            if number > after and of == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


server = MCPServer(
    name="reference", version="1", request_state_security=RequestStateSecurity(keys=[KEY])
)

tool = partial(server.tool, description="Of the suite.")
prompt = partial(server.prompt, description="Of the suite.")


def _png() -> str:
    """One red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        said = kind + data
        return struct.pack(">I", len(data)) + said + struct.pack(">I", zlib.crc32(said))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0\xff\0\0")
    whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return base64.b64encode(whole).decode()


def _wav() -> str:
    """Silence of no length."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8_000, 8_000, 1, 8)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", 0)
    return base64.b64encode(struct.pack("<4sI", b"RIFF", len(body)) + body).decode()


IMAGE: Final = ImageContent(type="image", data=_png(), mime_type="image/png")


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def _resource(uri: str, text: str, *, kind: str = "text/plain") -> EmbeddedResource:
    held = TextResourceContents(uri=uri, mime_type=kind, text=text)
    return EmbeddedResource(type="resource", resource=held)


# Tools that answer


@tool()
def test_simple_text() -> str:
    return "This is a simple text response for testing."


@tool()
def test_image_content() -> list[ContentBlock]:
    return [IMAGE]


@tool()
def test_audio_content() -> list[ContentBlock]:
    return [AudioContent(type="audio", data=_wav(), mime_type="audio/wav")]


@tool()
def test_embedded_resource() -> list[ContentBlock]:
    return [_resource("test://embedded-resource", "This is an embedded resource content.")]


@tool()
def test_multiple_content_types() -> list[ContentBlock]:
    data = json.dumps({"test": "data", "value": 123})
    mixed = _resource("test://mixed-content-resource", data, kind="application/json")
    return [_text("Multiple content types test:"), IMAGE, mixed]


@tool()
def test_error_handling() -> str:
    raise RuntimeError("This tool intentionally returns an error for testing")


@tool()
def test_x_mcp_header(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "",  # noqa: PT028 - no test
) -> str:
    return region


@tool()
def test_missing_capability(ctx: Context) -> str:
    has = ctx.session.client_capabilities
    if has is None or has.sampling is None:
        needed: dict[str, Any] = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "sampling is required", data=needed)
    return "sampling is there"


# Tools that say something before they answer


@tool()
async def test_tool_with_logging(ctx: Context) -> str:
    for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(said)
        await asyncio.sleep(PAUSE_S)
    return "done"


@tool()
async def test_tool_with_progress(ctx: Context) -> str:
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100, f"Completed step {done} of 100")
        await asyncio.sleep(PAUSE_S)
    return "done"


@tool()
async def test_reconnection(ctx: Context) -> str:
    await ctx.info("before")
    await ctx.close_sse_stream()
    await asyncio.sleep(4 * PAUSE_S)
    await ctx.info("after")
    return "still here"


# Tools that ask the client, in the revisions with sessions


@tool()
async def test_sampling(prompt: str, ctx: Context) -> str:
    answer = await ctx.session.create_message(
        messages=[SamplingMessage(role="user", content=_text(prompt))],
        max_tokens=100,
        related_request_id=ctx.request_id,
    )
    return f"LLM response: {answer.content.text if answer.content.type == 'text' else '?'}"


class Answer(BaseModel):
    response: str


class Defaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Annotated[str, Field(json_schema_extra={"enum": ["active", "inactive", "pending"]})] = (
        "active"
    )
    verified: bool = True


def _titled(**titles: str) -> list[dict[str, str]]:
    return [{"const": name, "title": title} for name, title in titles.items()]


def _enum(**schema: Any) -> Any:
    return Field(json_schema_extra=schema)


LEVELS: Final = _titled(low="Low", medium="Medium", high="High")
PARTS: Final = _titled(bug="Bug fix", feature="Feature", docs="Documents")


class Enums(BaseModel):
    untitledSingle: str = _enum(enum=["active", "inactive", "pending"])  # noqa: N815
    titledSingle: str = _enum(oneOf=LEVELS)  # noqa: N815
    untitledMulti: list[str] = _enum(items={"type": "string", "enum": ["read", "write"]})  # noqa: N815
    titledMulti: list[str] = _enum(items={"anyOf": PARTS})  # noqa: N815
    legacyEnum: str = _enum(enum=["a", "b"], enumNames=["Option A", "Option B"])  # noqa: N815


async def _elicited(ctx: Context, message: str, schema: type[BaseModel]) -> str:
    answer = await ctx.elicit(message=message, schema=schema)
    content = answer.data.model_dump_json() if answer.action == "accept" else "{}"
    return f"action={answer.action}, content={content}"


@tool()
async def test_elicitation(message: str, ctx: Context) -> str:
    return await _elicited(ctx, message, Answer)


@tool()
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    return await _elicited(ctx, "Who are you?", Defaults)


@tool()
async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    return await _elicited(ctx, "What do you choose?", Enums)


# A tool whose schema says all that a schema can say

ADDRESS: Final = {"street": {"type": "string"}, "city": {"type": "string"}}
WORDS: Final = {name: {"type": "string"} for name in ("name", "phone", "email")}
BY_PHONE: Final = {"contactMethod": {"const": "phone"}}
SCHEMA: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": ADDRESS}},
    "type": "object",
    "properties": {
        **WORDS,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"enum": ["phone", "email"], "type": "string"},
    },
    "allOf": [{"anyOf": [{"required": [name]} for name in ("phone", "email")]}],
    "if": {"properties": BY_PHONE, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@tool()
def json_schema_2020_12_tool() -> str:
    return "said"


server._tool_manager._tools["json_schema_2020_12_tool"].parameters = SCHEMA


# Lists that change


@tool()
async def test_trigger_tool_change(ctx: Context) -> str:
    server.add_tool(lambda: "here", name="test_dynamic_tool")
    server.remove_tool("test_dynamic_tool")
    await ctx.notify_tools_changed()
    return "changed"


@tool()
async def test_trigger_prompt_change(ctx: Context) -> str:
    server.add_prompt(Prompt.from_function(lambda: "here", name="test_dynamic_prompt"))
    server.remove_prompt("test_dynamic_prompt")
    await ctx.notify_prompts_changed()
    return "changed"


# Resources and prompts


@server.resource("test://static-text", mime_type="text/plain")
def static_text() -> str:
    return "This is the content of the static text resource."


@server.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    return base64.b64decode(_png())


@server.resource("test://template/{id}/data", mime_type="application/json")
def template(id: str) -> str:
    return json.dumps({"id": id, "data": f"Data for ID: {id}"})


@server.resource("test://watched-resource")
def watched() -> str:
    return "watched"


def _user(content: ContentBlock) -> UserMessage:
    return UserMessage(role="user", content=content)


@prompt()
def test_simple_prompt() -> list[UserMessage]:
    return [_user(_text("This is a simple prompt for testing."))]


@prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
    return [_user(_text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"))]


@prompt()
def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803
    return [_user(_resource(resourceUri, "Held.")), _user(_text("Look at it."))]


@prompt()
def test_prompt_with_image() -> list[UserMessage]:
    return [_user(IMAGE), _user(_text("Look at it."))]


@server.completion()  # type: ignore[no-untyped-call, untyped-decorator]
async def complete(
    _ref: PromptReference | ResourceTemplateReference,
    _argument: CompletionArgument,
    _context: CompletionContext | None,
) -> Completion:
    return Completion(values=[], total=0, has_more=False)


async def _nothing(_ctx: Any, _params: Any) -> EmptyResult:
    return EmptyResult()


HANDLED: Final[Mapping[str, type[BaseModel]]] = {
    "logging/setLevel": SetLevelRequestParams,
    "resources/subscribe": SubscribeRequestParams,
    "resources/unsubscribe": UnsubscribeRequestParams,
}
for method, params in HANDLED.items():
    server._lowlevel_server.add_request_handler(method, params, _nothing)


def main() -> None:
    warnings.simplefilter("ignore")  # logging and sampling are there for the older revisions
    mcp_asking.register(server)
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    server.run("streamable-http", port=port, event_store=Memory(), retry_interval=RETRY_MS)


if __name__ == "__main__":
    main()
