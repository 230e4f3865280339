"""An agent as a scaler starts it: takes a run of its queue, asks for an approval, and goes on."""

import asyncio
import sys

import coatcheck


async def main(queue: str) -> None:
    async for run in coatcheck.claim_runs(queue, schema=1):
        async with run:
            async for step in run.steps():
                said = await run.wait_for("approval", {"step": step.number})
                print(f"{run.id} was told {said}", flush=True)
                await asyncio.sleep(1.0)
                await run.finish(said)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
