"""An agent loop: what the model asks for is charged, and what came of it goes back to the model.

    python -m tests.e2e.reworded_agent RUN TOOL MODEL one|many

Each turn is a step of its own with `many`. It says `call N ANSWER` for each charge, and at last
what the model says.
"""

import json
import sys
import urllib.error
import urllib.request
from typing import Any

from openai import OpenAI

import coatcheck.sync as coatcheck

TOOLS: Any = [{"type": "function", "function": {"name": "charge", "parameters": {}}}]
LONG_S = 60.0


def charge(run: coatcheck.Run, tool: str, arguments: str) -> dict[str, Any]:
    """The bank's answer, or why there is none, for the model to reason about."""
    headers = {"Content-Type": "application/json", "X-Order": run.id}
    url = f"{run.proxy_url(tool)}/charges"
    request = urllib.request.Request(url, arguments.encode(), headers)  # noqa: S310 - http
    try:
        answer = urllib.request.urlopen(request, timeout=LONG_S)  # noqa: S310 - http
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        decision = answer.headers["Coatcheck-Decision"]
        return {"status": answer.status, "decision": decision, "body": json.load(answer)}


def main(name: str, tool: str, model: str, steps: str) -> None:
    with coatcheck.open_run(name, schema=1, wait_s=LONG_S) as run:
        client = OpenAI(base_url=run.proxy_url(model), api_key="none", timeout=LONG_S)
        messages: list[Any] = run.state or [{"role": "user", "content": "Pay invoice 4711."}]
        number = len(messages) // 2
        while True:
            reply = client.chat.completions.create(
                model="gpt-4o-mini", messages=messages, tools=TOOLS, user=name
            )
            message = reply.choices[0].message.model_dump(exclude_none=True)
            messages.append(message)
            if "tool_calls" not in message:
                break
            (call,) = message["tool_calls"]
            print(f"asks {number} {call['function']['arguments']}", flush=True)
            found = charge(run, tool, call["function"]["arguments"])
            print(f"call {number} {json.dumps(found)}", flush=True)
            number += 1
            messages.append(
                {"role": "tool", "tool_call_id": call["id"], "content": json.dumps(found)}
            )
            if steps == "many":
                run.commit(messages)
        print(f"done: {message['content']}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
