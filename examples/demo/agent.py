"""The agent of the demo: a plain loop that asks a model and charges invoice lines.

Nothing in it knows of kills. It takes whatever run is ready, a few at once, and its tools say what
sending them twice would do. That is all.
"""

import asyncio
import functools
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp

import coatcheck
from examples.demo.payments import SETTLE_S
from examples.demo.witness import What, Witness

KEY_LIFETIME_S: Final = 86_400
"""How long the payments server remembers an `Idempotency-Key`, as most of them say."""
RETRIES_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Longer in all than a sidecar takes to come back."""
TOOLS: Final = [
    {
        "type": "function",
        "function": {
            "name": "charge",
            "description": "Charge one line of an invoice.",
            "parameters": {
                "type": "object",
                "properties": {"ref": {"type": "string"}, "cents": {"type": "integer"}},
                "required": ["ref", "cents"],
            },
        },
    }
]
PROMPT: Final = "Charge each of these lines, one call a turn, in this order; then say so.\n"

Message = dict[str, Any]


@functools.cache
def http() -> aiohttp.ClientSession:
    """One pool of connections for the process; it believes in no retry of its own."""
    headers = {"User-Agent": os.environ["DEMO_DISK"]}
    return aiohttp.ClientSession(raise_for_status=True, headers=headers)


async def ask_model(run: coatcheck.Run, messages: list[Message]) -> Message:
    """Buy a completion through the proxy, which records it: a step that runs again gets the same.

    As the SDKs of model APIs do, it asks again when nobody answers: a sidecar may be restarting.
    """
    key = os.environ.get("OPENAI_API_KEY", "none")
    body = {"model": os.environ["OPENAI_MODEL"], "messages": messages, "tools": TOOLS}
    for delay_s in (*RETRIES_S, None):
        url = f"{run.proxy_url('openai')}/chat/completions"
        try:
            async with http().post(url, json=body, headers={"Authorization": f"Bearer {key}"}) as r:
                message: Message = (await r.json())["choices"][0]["message"]
                return message
        except aiohttp.ClientError:
            if delay_s is None:
                raise
            await asyncio.sleep(delay_s)
    raise AssertionError("the last try returns or raises")


async def post_charge(ref: str, cents: int, headers: dict[str, str]) -> str:
    url = f"{os.environ['DEMO_PAYMENTS']}/charges"
    async with http().post(url, json={"ref": ref, "cents": cents}, headers=headers) as reply:
        return str((await reply.json())["id"])


async def was_charged(ref: str, cents: int) -> str | None:
    """Ask the payments server what happened."""
    async with http().get(f"{os.environ['DEMO_PAYMENTS']}/charges", params={"ref": ref}) as reply:
        charges = (await reply.json())["charges"]
    return str(charges[0]["id"]) if charges else None


@coatcheck.tool(effect="idempotent", key="/ref", key_lifetime_s=KEY_LIFETIME_S)
async def charge_keyed(ref: str, cents: int) -> str:
    """The server honours keys: after a crash it is sent again, under the same key."""
    return await post_charge(ref, cents, {"Idempotency-Key": coatcheck.current_key()})


@coatcheck.tool(effect="once", key="/ref", probe=was_charged, probe_settle_s=SETTLE_S)
async def charge_probed(ref: str, cents: int) -> str:
    """The server takes no key, but can be asked: after a crash it is."""
    return await post_charge(ref, cents, {})


@coatcheck.tool(effect="once", key="/ref")
async def charge_blind(ref: str, cents: int) -> str:
    """No key, no question: after a crash in the middle somebody must look."""
    return await post_charge(ref, cents, {})


CHARGES: Final = {"keyed": charge_keyed, "probed": charge_probed, "blind": charge_blind}


async def settle(run: coatcheck.Run, *, witness: Witness, levels: Iterator[Any]) -> None:
    """One run: charge all lines of its invoice."""
    async with run:
        witness.say(What.OPENED, run.id, step=run.step_number, epoch=run.epoch)
        charge = CHARGES[run.input["kind"]]
        state = run.state or {
            "messages": [{"role": "user", "content": PROMPT + run.input["lines"]}]
        }
        messages = state["messages"]
        async for step in run.steps():
            witness.say(What.BEGAN, run.id, step=step.number, epoch=run.epoch)
            message = await ask_model(run, messages)
            messages.append(message)
            for call in message.get("tool_calls") or []:
                arguments = json.loads(call["function"]["arguments"])
                charged = await step.tool(charge)(**arguments)
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": charged})
            if not message.get("tool_calls"):
                await run.finish(message["content"], state=state)
                break
            level = next(levels)
            await step.commit(state, durability=level)
            witness.say(What.ACKNOWLEDGED, run.id, step=step.number, epoch=run.epoch, level=level)


async def attend(run: coatcheck.Run, *, witness: Witness, levels: Iterator[Any]) -> None:
    """Settle a run; what stops one run stops no other."""
    try:
        await settle(run, witness=witness, levels=levels)
    except (coatcheck.CoatcheckError, aiohttp.ClientError, TimeoutError) as error:
        print(f"{run.id}: {type(error).__name__}: {error}", flush=True)


async def main() -> None:
    witness = Witness(Path(os.environ["DEMO_WITNESS"]), disk=os.environ["DEMO_DISK"])
    levels = itertools.cycle(os.environ["DEMO_LEVELS"].split(","))
    queue, concurrency = os.environ["DEMO_QUEUE"], int(os.environ["DEMO_CONCURRENCY"])
    async with http(), asyncio.TaskGroup() as runs:
        async for run in coatcheck.claim_runs(queue, schema=1, concurrency=concurrency):
            runs.create_task(attend(run, witness=witness, levels=levels))


if __name__ == "__main__":
    asyncio.run(main())
