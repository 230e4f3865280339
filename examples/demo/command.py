"""The `coatcheck` command, as an operator types it."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from examples.demo.processes import environment, python

COMMAND_S_MAX: Final = 60.0
"""A command on a loaded machine; it asks a store or two."""


WHY: Final = "looked up in the ledger"


class CommandFailedError(Exception):
    """The command said no; the message is what it said."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A call in doubt, as `coatcheck doubts --json` lists it."""

    run: str
    call: int
    ref: str
    """Its business key: what was to be charged."""


@dataclass(frozen=True, slots=True)
class Command:
    """The command line against one store."""

    store: str
    env: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, *args: str) -> str:
        """What it printed. Raises `CommandFailedError`, `TimeoutError`."""
        process = await asyncio.create_subprocess_exec(
            *python("coatcheck", *args),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment() | dict(self.env) | {"COATCHECK_STORE": self.store},
        )
        try:
            async with asyncio.timeout(COMMAND_S_MAX):
                output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise CommandFailedError(f"coatcheck {' '.join(args)}: {errors.decode().strip()}")
        return output.decode()

    async def doubts(self) -> list[Doubt]:
        """Calls of which nobody knows whether they took place."""
        return [
            Doubt(doubt["run"], doubt["call"]["number"], doubt["call"]["business_key"])
            for doubt in json.loads(await self("doubts", "--json"))
        ]

    async def resolve_applied(self, run: str, call: int, *, value: Any) -> None:
        """Say that a call took place, and what it returned."""
        value = ["--value", json.dumps(value)]
        await self("resolve", run, str(call), "--applied", *value, "--why", WHY)

    async def resolve_not_applied(self, run: str, call: int) -> None:
        """Say that it didn't. Refused while it may still be on its way."""
        await self("resolve", run, str(call), "--not-applied", "--why", WHY)
