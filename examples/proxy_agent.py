"""The OpenAI SDK as it is, through the sidecar's proxy: completions are recorded and replayed.

    export OPENAI_API_KEY=...
    coatcheck run --config examples/proxy_agent.yaml -- python examples/proxy_agent.py order-4713

Kill it at any moment, even by `kill -9`, and run the same line again: no completion is bought
twice, and the agent reaches the point where it died by the same way.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx2
from openai import AsyncOpenAI

import coatcheck
from coatcheck.http.httpx2 import AsyncTransport

TASK = """Ship each of these parcels by one call of the tool, in this order; then sum up.
4713/1: 990 cents
4713/2: 450 cents
4713/3: 1225 cents"""
PROPERTIES = {"ref": {"type": "string"}, "cents": {"type": "integer"}}
PARAMETERS = {"type": "object", "properties": PROPERTIES, "required": ["ref", "cents"]}
TOOLS: Any = [{"type": "function", "function": {"name": "ship", "parameters": PARAMETERS}}]


@coatcheck.tool(effect="once", key="/ref")
def ship(ref: str, cents: int) -> str:
    with Path("parcels.txt").open("a") as parcels:
        parcels.write(f"{ref} {cents}\n")
    return "shipped"


async def main(run_id: str) -> None:
    async with coatcheck.open_run(run_id, schema=1) as run:
        # The URL is all that a model's client needs. The transport names the step as well, so that
        # a request which outlives its step is refused, in place of being taken for one of the next.
        http = httpx2.AsyncClient(transport=AsyncTransport(), timeout=600)
        client = AsyncOpenAI(base_url=run.proxy_url("openai"), http_client=http)
        messages = run.state or [{"role": "user", "content": TASK}]
        async for step in run.steps():
            print(f"step {step.number}", flush=True)
            reply = await client.chat.completions.create(
                model="gpt-4o-mini", messages=messages, tools=TOOLS, parallel_tool_calls=False
            )
            message = reply.choices[0].message.model_dump(exclude_none=True)
            messages.append(message)
            for call in message.get("tool_calls", []):
                result = await step.tool(ship)(**json.loads(call["function"]["arguments"]))
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
            if message.get("tool_calls"):
                await step.commit(messages)
            else:
                await run.finish(message["content"], state=messages)
    print((await coatcheck.result(run_id)).result)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
