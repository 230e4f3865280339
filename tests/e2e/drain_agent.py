"""An agent that is rolled: it asks a model, works for a while, charges an invoice line, commits.

It handles no signal and knows of no drain. What it does beyond that is in its environment:

    DRAIN_STEPS   `many`: each line is a step. `one`: the whole invoice is a single step, so that no
                  boundary ever comes. `deaf`: likewise, and whatever it is told, it tries on
    DRAIN_WORK_S  `0.2-20`: how long a line takes, by chance, but the same each time
    DRAIN_SCHEMA  of the state
"""

import asyncio
import contextlib
import json
import os
import random
from pathlib import Path
from typing import Any, Final

import aiohttp

import coatcheck
from examples.demo.agent import CHARGES, PROMPT, ask_model, http
from examples.demo.witness import What, Witness

STEPS: Final = os.environ.get("DRAIN_STEPS", "many")
WORK_S: Final = os.environ.get("DRAIN_WORK_S", "0.1-0.3")
SCHEMA: Final = int(os.environ.get("DRAIN_SCHEMA", "1"))
FAILURES: Final = (coatcheck.CoatcheckError, aiohttp.ClientError, TimeoutError)
DEFIES_S: Final = 0.2


def work_s(run: str, line: int) -> float:
    """Short ones are as many as long ones, on a logarithmic scale."""
    least_s, most_s = map(float, WORK_S.split("-"))
    chance = random.Random(f"{run}/{line}").random()
    return float(least_s * (most_s / least_s) ** chance)


async def line(run: coatcheck.Run, step: coatcheck.Step, messages: list[Any]) -> bool:
    """One turn of the loop; whether another one follows."""
    message = await ask_model(run, messages)
    messages.append(message)
    await asyncio.sleep(work_s(run.id, len(messages)))
    charge = CHARGES[run.input["kind"]]
    for call in message.get("tool_calls") or []:
        charged = await step.tool(charge)(**json.loads(call["function"]["arguments"]))
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": charged})
    return bool(message.get("tool_calls"))


async def settle(run: coatcheck.Run, witness: Witness) -> None:
    async with run:
        witness.say(What.OPENED, run.id, step=run.step_number, epoch=run.epoch)
        first = {"role": "user", "content": PROMPT + run.input["lines"]}
        state = run.state or {"messages": [first]}
        messages = state["messages"]
        async for step in run.steps():
            witness.say(What.BEGAN, run.id, step=step.number, epoch=run.epoch)
            is_on = await line(run, step, messages)
            while is_on and STEPS != "many":
                is_on = await line(run, step, messages)
            if not is_on:
                await run.finish("settled", state=state)
                break
            await step.commit(state)
            witness.say(What.ACKNOWLEDGED, run.id, step=step.number, epoch=run.epoch, level="node")


async def attend(run: coatcheck.Run, witness: Witness) -> None:
    """Settle a run; what stops one run stops no other."""
    try:
        await settle(run, witness)
    except FAILURES as error:
        print(f"{run.id}: {type(error).__name__}: {error}", flush=True)
        while STEPS == "deaf" and run.status != "finished":
            await defy(run)


async def defy(run: coatcheck.Run) -> None:
    """Charge the first line once more, though the run is somebody else's by now."""
    with contextlib.suppress(*FAILURES):
        charged = await run.step.tool(CHARGES[run.input["kind"]])(ref=f"{run.id}/1", cents=1)
        print(f"{run.id}: charged {charged} against all orders", flush=True)
    await asyncio.sleep(DEFIES_S)


async def main() -> None:
    witness = Witness(Path(os.environ["DEMO_WITNESS"]), disk=os.environ["DEMO_DISK"])
    queue, concurrency = os.environ["DEMO_QUEUE"], int(os.environ["DEMO_CONCURRENCY"])
    async with http(), asyncio.TaskGroup() as runs:
        async for run in coatcheck.claim_runs(queue, schema=SCHEMA, concurrency=concurrency):
            runs.create_task(attend(run, witness))


if __name__ == "__main__":
    asyncio.run(main())
