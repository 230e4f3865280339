"""Agents that know nothing of coatcheck: each is a plain loop around somebody's SDK.

    python -m tests.e2e.sdk_agents openai-sync

All that ties one to the sidecar is a base URL in its environment. Each says `turn N` when it did
something, and `done` when it has no more to do.
"""

import asyncio
import json
import os
import sys
import urllib.request
from collections.abc import Callable
from typing import Any, Final

LINES: Final = 4
TASK: Final = "Charge these:\n" + "\n".join(f"inv-{n}: {100 + n} cents" for n in range(LINES))
TOKENS_MAX: Final = 1_000
PROPERTIES: Final = {"ref": {"type": "string"}, "cents": {"type": "integer"}}
PARAMETERS: Final = {"type": "object", "properties": PROPERTIES}


def charge(arguments: dict[str, Any]) -> str:
    """The tool: a payment, whose server takes no key that means anything."""
    url = os.environ["COATCHECK_PROXY_URL"] + "/pay/charges"
    headers = {"Authorization": f"Bearer {os.environ['PAY_TOKEN']}"}
    headers["Content-Type"] = "application/json"
    request = urllib.request.Request(url, json.dumps(arguments).encode(), headers)  # noqa: S310 - http
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - http
        return str(json.load(answer)["id"])


def said(turn: int) -> None:
    print(f"turn {turn}", flush=True)


# ---- openai

OPENAI_TOOLS: Any = [{"type": "function", "function": {"name": "charge", "parameters": PARAMETERS}}]


def openai_turn(messages: list[Any], message: Any) -> bool:
    """Do what the model asks for; false if it asks for nothing more."""
    messages.append(message)
    for call in message.get("tool_calls") or ():
        result = charge(json.loads(call["function"]["arguments"]))
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    return bool(message.get("tool_calls"))


def openai_sync() -> None:
    from openai import OpenAI

    messages: list[Any] = [{"role": "user", "content": TASK}]
    client, turn, is_on = OpenAI(), 0, True
    while is_on:
        turn += 1
        reply = client.chat.completions.create(
            model="gpt-4o-mini", messages=messages, tools=OPENAI_TOOLS
        )
        said(turn)
        is_on = openai_turn(messages, reply.choices[0].message.model_dump(exclude_none=True))
    print(f"done: {messages[-1]['content']}", flush=True)


async def openai_async() -> None:
    from openai import AsyncOpenAI

    messages: list[Any] = [{"role": "user", "content": TASK}]
    client, turn, is_on = AsyncOpenAI(), 0, True
    while is_on:
        turn += 1
        reply = await client.chat.completions.create(
            model="gpt-4o-mini", messages=messages, tools=OPENAI_TOOLS
        )
        said(turn)
        message = reply.choices[0].message.model_dump(exclude_none=True)
        is_on = await asyncio.to_thread(openai_turn, messages, message)
    print(f"done: {messages[-1]['content']}", flush=True)


def openai_stream() -> None:
    from openai import OpenAI

    messages: list[Any] = [{"role": "user", "content": TASK}]
    client, turn, is_on = OpenAI(), 0, True
    while is_on:
        turn += 1
        with client.chat.completions.stream(
            model="gpt-4o-mini", messages=messages, tools=OPENAI_TOOLS
        ) as stream:
            message = stream.get_final_completion().choices[0].message
        said(turn)
        kept = {"role", "content", "tool_calls"}
        plain = json.loads(message.model_dump_json(include=kept, exclude_none=True))
        for call in plain.get("tool_calls", ()):
            call["function"].pop("parsed_arguments", None)
        is_on = openai_turn(messages, plain)
    print(f"done: {messages[-1]['content']}", flush=True)


# ---- openai's responses API

RESPONSES_ASKED: Final[dict[str, Any]] = {
    "model": "gpt-4o-mini",
    "tools": [{"type": "function", "name": "charge", "parameters": PARAMETERS, "strict": False}],
}


def responses_turn(items: list[Any], response: Any) -> bool:
    """Do what the model asks for; false if it asks for nothing more, and says what it says."""
    output = [item.model_dump(mode="json", exclude_none=True) for item in response.output]
    items += output
    calls = [item for item in output if item["type"] == "function_call"]
    for call in calls:
        result = charge(json.loads(call["arguments"]))
        items.append({"type": "function_call_output", "call_id": call["call_id"], "output": result})
    if not calls:
        print(f"done: {response.output_text}", flush=True)
    return bool(calls)


def responses_sync() -> None:
    from openai import OpenAI

    items: list[Any] = [{"role": "user", "content": TASK}]
    client, turn, is_on = OpenAI(), 0, True
    while is_on:
        turn += 1
        response = client.responses.create(input=items, **RESPONSES_ASKED)
        said(turn)
        is_on = responses_turn(items, response)


async def responses_async() -> None:
    from openai import AsyncOpenAI

    items: list[Any] = [{"role": "user", "content": TASK}]
    client, turn, is_on = AsyncOpenAI(), 0, True
    while is_on:
        turn += 1
        response = await client.responses.create(input=items, **RESPONSES_ASKED)
        said(turn)
        is_on = await asyncio.to_thread(responses_turn, items, response)


def responses_stream() -> None:
    """It says `begun N` when an answer begins."""
    from openai import OpenAI

    items: list[Any] = [{"role": "user", "content": TASK}]
    client, turn, is_on = OpenAI(), 0, True
    while is_on:
        turn += 1
        stream: Any = client.responses.create(input=items, stream=True, **RESPONSES_ASKED)
        with stream:
            for event in stream:
                if event.type == "response.created":
                    print(f"begun {turn}", flush=True)
                if event.type == "response.completed":
                    said(turn)
                    is_on = responses_turn(items, event.response)


# ---- anthropic

ANTHROPIC_TOOLS: Any = [{"name": "charge", "input_schema": PARAMETERS}]
ASKED: Final[dict[str, Any]] = {
    "model": "claude-sonnet-4-5",
    "max_tokens": TOKENS_MAX,
    "tools": ANTHROPIC_TOOLS,
}


def anthropic_turn(messages: list[Any], message: Any) -> bool:
    content = [block.model_dump(exclude_none=True) for block in message.content]
    messages.append({"role": "assistant", "content": content})
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": charge(block["input"])}
        for block in content
        if block["type"] == "tool_use"
    ]
    messages.append({"role": "user", "content": results})
    return bool(results)


def anthropic_sync() -> None:
    from anthropic import Anthropic

    messages: list[Any] = [{"role": "user", "content": TASK}]
    client, turn, is_on = Anthropic(), 0, True
    while is_on:
        turn += 1
        message = client.messages.create(messages=messages, **ASKED)
        said(turn)
        is_on = anthropic_turn(messages, message)
    print(f"done: {messages[-2]['content'][0]['text']}", flush=True)


async def anthropic_async() -> None:
    from anthropic import AsyncAnthropic

    messages: list[Any] = [{"role": "user", "content": TASK}]
    client, turn, is_on = AsyncAnthropic(), 0, True
    while is_on:
        turn += 1
        message = await client.messages.create(messages=messages, **ASKED)
        said(turn)
        is_on = await asyncio.to_thread(anthropic_turn, messages, message)
    print(f"done: {messages[-2]['content'][0]['text']}", flush=True)


def anthropic_stream() -> None:
    from anthropic import Anthropic

    messages: list[Any] = [{"role": "user", "content": TASK}]
    client, turn, is_on = Anthropic(), 0, True
    while is_on:
        turn += 1
        with client.messages.stream(messages=messages, **ASKED) as stream:
            message = stream.get_final_message()
        said(turn)
        is_on = anthropic_turn(messages, message)
    print(f"done: {messages[-2]['content'][0]['text']}", flush=True)


# ---- stripe and boto3


def stripe_charges() -> None:
    import stripe

    stripe.api_key = os.environ["STRIPE_KEY"]
    stripe.api_base = os.environ["STRIPE_API_BASE"]
    ids = []
    for turn in range(1, LINES + 2):
        made = stripe.Charge.create(
            amount=100 + turn, currency="usd", source="tok_visa", description=f"inv-{turn}"
        )
        ids.append(made.id)
        said(turn)
    print(f"done: {' '.join(ids)}", flush=True)


def boto3_calls() -> None:
    """A PUT, which may come twice, and a message in a queue, which may not."""
    import boto3
    from botocore.config import Config

    path_style = Config(s3={"addressing_style": "path"})
    s3 = boto3.client("s3", endpoint_url=os.environ["S3_URL"], config=path_style)
    sqs = boto3.client("sqs", endpoint_url=os.environ["SQS_URL"])
    ids = []
    for turn in range(1, LINES + 2):
        s3.put_object(Bucket="agents", Key=f"report-{turn}", Body=b"x" * turn)
        sent = sqs.send_message(QueueUrl=os.environ["QUEUE_URL"], MessageBody=f"mail {turn}")
        ids.append(sent["MessageId"])
        size = len(s3.get_object(Bucket="agents", Key=f"report-{turn}")["Body"].read())
        said(size)
    print(f"done: {' '.join(ids)}", flush=True)


AGENTS: Final[dict[str, Callable[[], Any]]] = {
    "openai-sync": openai_sync,
    "openai-async": lambda: asyncio.run(openai_async()),
    "openai-stream": openai_stream,
    "responses-sync": responses_sync,
    "responses-async": lambda: asyncio.run(responses_async()),
    "responses-stream": responses_stream,
    "anthropic-sync": anthropic_sync,
    "anthropic-async": lambda: asyncio.run(anthropic_async()),
    "anthropic-stream": anthropic_stream,
    "stripe": stripe_charges,
    "boto3": boto3_calls,
}


if __name__ == "__main__":
    AGENTS[sys.argv[1]]()
