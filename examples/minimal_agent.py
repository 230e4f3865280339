"""An agent that outlives its process.

    export OPENAI_API_KEY=...
    coatcheck run -- python examples/minimal_agent.py order-4711

Kill it at any moment, even by `kill -9`, and run the same line again: it goes on at the step where
it was, buys no completion twice, and never charges twice in silence.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

import coatcheck

TASK = """Charge each of these lines by one call of the tool, in this order; then sum up.
4711/1: 1250 cents
4711/2: 399 cents
4711/3: 8800 cents"""
PROPERTIES = {"ref": {"type": "string"}, "cents": {"type": "integer"}}
PARAMETERS = {"type": "object", "properties": PROPERTIES, "required": ["ref", "cents"]}
TOOLS: Any = [{"type": "function", "function": {"name": "charge", "parameters": PARAMETERS}}]


# Reading twice does no harm; recorded, a step that is done again gets the same answer for nothing.
@coatcheck.tool(effect="read", record=True)
async def ask_model(messages: Any) -> dict[str, Any]:
    reply = await client.chat.completions.create(
        model="gpt-4o-mini", messages=messages, tools=TOOLS, parallel_tool_calls=False
    )
    return reply.choices[0].message.model_dump(exclude_none=True)


# Charging twice does. It leaves only if this process still owns the run, and once.
@coatcheck.tool(effect="once", key="/ref")
def charge(ref: str, cents: int) -> str:
    with Path("charges.txt").open("a") as ledger:
        ledger.write(f"{ref} {cents}\n")
    return "charged"


async def main(run_id: str) -> None:
    async with coatcheck.open_run(run_id, schema=1) as run:
        state = run.state or {"messages": [{"role": "user", "content": TASK}]}
        async for step in run.steps():
            print(f"step {step.number}", flush=True)
            message = await step.tool(ask_model)(state["messages"])
            state["messages"].append(message)
            for call in message.get("tool_calls", []):
                result = await step.tool(charge)(**json.loads(call["function"]["arguments"]))
                answer = {"role": "tool", "tool_call_id": call["id"], "content": result}
                state["messages"].append(answer)
            if "tool_calls" in message:
                await step.commit(state)  # durable when it returns: the step is over
            else:
                await run.finish(message["content"], state=state)
    print((await coatcheck.result(run_id)).result)


if __name__ == "__main__":
    client = AsyncOpenAI()
    asyncio.run(main(sys.argv[1]))
