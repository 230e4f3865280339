"""An agent that is asked for more state than a link carries, and never stops by itself.

    python -m tests.e2e.flush_agent '{"runs": 4, "state_bytes": 1000000, "every_s": 2, ...}' FILE

What was acknowledged to it is written to FILE, which no kill reaches: run, step and the SHA-256 of
the state, a line each.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from typing import Any, Final

import coatcheck

WRITTEN: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def digest_of(data: bytes) -> str:
    """Of what a state carries."""
    return hashlib.sha256(data).hexdigest()


async def work(number: int, plan: dict[str, Any], witness: int) -> None:
    """Commit for ever: a state that is new each time, or one that grows by a little."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(number * plan["every_s"])
    every_s, data, step = plan["every_s"] * plan["runs"], b"", 0
    next_s = loop.time()
    async with coatcheck.open_run(f"run-{number}", schema=1) as run:
        while True:
            step += 1
            if data and plan["adds_bytes"]:
                data += os.urandom(plan["adds_bytes"])
            else:
                data = os.urandom(plan["state_bytes"])
            # A draining pod has acknowledged it all the same, and this agent goes on until killed.
            with contextlib.suppress(coatcheck.Draining):
                await run.commit({"step": step, "data": data}, durability="node")
            os.write(witness, f"run-{number} {step} {digest_of(data)}\n".encode())
            next_s = max(next_s + every_s, loop.time())
            await asyncio.sleep(next_s - loop.time())


async def main(plan: dict[str, Any], path: str) -> None:
    """All runs, until each is somebody else's or this is killed."""
    witness = os.open(path, WRITTEN, 0o600)
    runs = (work(number, plan, witness) for number in range(plan["runs"]))
    print(await asyncio.gather(*runs, return_exceptions=True))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]), sys.argv[2]))
