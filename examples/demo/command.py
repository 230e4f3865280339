"""The `coatcheck` command, as an operator types it."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from examples.demo.processes import environment, python

COMMAND_S_MAX: Final = 60.0
"""A command on a loaded machine; it asks a store or two."""


class CommandFailedError(Exception):
    """The command said no; the message is what it said."""


@dataclass(frozen=True, slots=True)
class Command:
    """The command line against one store."""

    store: str
    env: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, *args: str, stdin: str = "") -> str:
        """What it printed. Raises `CommandFailedError`, `TimeoutError`."""
        process = await asyncio.create_subprocess_exec(
            *python("coatcheck", *args),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment() | dict(self.env) | {"COATCHECK_STORE": self.store},
        )
        try:
            async with asyncio.timeout(COMMAND_S_MAX):
                output, errors = await process.communicate(stdin.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise CommandFailedError(f"coatcheck {' '.join(args)}: {errors.decode().strip()}")
        return output.decode()

    async def submit(self, orders: Sequence[tuple[str, Any]], *, queue: str) -> None:
        """Create runs: (id, input) each, in one go."""
        lines = [json.dumps({"run": run, "input": given}) for run, given in orders]
        await self("submit", "--queue", queue, "--many", "-", stdin="\n".join(lines) + "\n")

    async def doubts(self) -> list[dict[str, Any]]:
        """Calls of which nobody knows whether they took place."""
        found: list[dict[str, Any]] = json.loads(await self("doubts", "--json"))
        return found

    async def resolve_applied(self, run: str, call: int, *, value: Any) -> None:
        """Say that a call took place, and what it returned."""
        await self("resolve", run, str(call), "--applied", "--value", json.dumps(value))

    async def resolve_not_applied(self, run: str, call: int) -> None:
        """Say that it didn't. Refused while it may still be on its way."""
        await self("resolve", run, str(call), "--not-applied")
