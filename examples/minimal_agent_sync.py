"""The same without asyncio, around a loop that somebody else wrote.

    export OPENAI_API_KEY=...
    coatcheck run -- python examples/minimal_agent_sync.py order-4712

`run.commit(state)` at the end of each turn is all that a loop needs which can't be restructured.
"""

import json
import sys
from pathlib import Path
from typing import Any

from openai import OpenAI

import coatcheck.sync as coatcheck

TASK = """Mail each of these invoices by one call of the tool, in this order; then sum up.
4712/1: 500 cents
4712/2: 75 cents
4712/3: 120 cents"""
PROPERTIES = {"ref": {"type": "string"}, "cents": {"type": "integer"}}
PARAMETERS = {"type": "object", "properties": PROPERTIES, "required": ["ref", "cents"]}
TOOLS: Any = [{"type": "function", "function": {"name": "mail", "parameters": PARAMETERS}}]


@coatcheck.tool(effect="read", record=True)
def ask_model(messages: Any) -> dict[str, Any]:
    reply = client.chat.completions.create(
        model="gpt-4o-mini", messages=messages, tools=TOOLS, parallel_tool_calls=False
    )
    return reply.choices[0].message.model_dump(exclude_none=True)


@coatcheck.tool(effect="once", key="/ref")
def mail(ref: str, cents: int) -> str:
    with Path("outbox.txt").open("a") as outbox:
        outbox.write(f"{ref} {cents}\n")
    return "sent"


def main(run_id: str) -> None:
    with coatcheck.open_run(run_id, schema=1) as run:
        messages = run.state or [{"role": "user", "content": TASK}]
        while messages[-1].get("tool_calls") or messages[-1]["role"] != "assistant":
            print(f"step {run.step_number}", flush=True)
            message = run.step.tool(ask_model)(messages)
            messages.append(message)
            for call in message.get("tool_calls", []):
                result = run.step.tool(mail)(**json.loads(call["function"]["arguments"]))
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
            run.commit(messages)
        run.finish(messages[-1]["content"])
        print(messages[-1]["content"])


if __name__ == "__main__":
    client = OpenAI()
    main(sys.argv[1])
