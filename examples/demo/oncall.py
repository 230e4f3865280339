"""Somebody on call: looks up in the ledger what nobody else can know, and says so."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Final

import aiohttp

from examples.demo.command import Command, CommandFailedError, Doubt
from examples.demo.payments import SETTLE_S
from examples.demo.pods import PAUSE_MAX_S

LOOK_AFTER_S: Final = SETTLE_S + PAUSE_MAX_S
"""Before that "it is not there" proves nothing: the request may still be on its way."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A doubt that was resolved."""

    run: str
    call: int
    ref: str
    charge: str | None
    """The charge that was found; `None` if there was none."""


class OnCall:
    """Resolves each call in doubt by asking the payments server."""

    def __init__(self, command: Command, *, payments: str) -> None:
        self.verdicts: list[Verdict] = []
        self._command = command
        self._payments = payments

    @property
    def resolved(self) -> set[tuple[str, int]]:
        return {(verdict.run, verdict.call) for verdict in self.verdicts}

    async def look(self) -> list[Verdict]:
        """Resolve what is in doubt now; what can't be resolved yet is there the next time."""
        fresh = []
        for doubt in await self._command.doubts():
            if (doubt.run, doubt.call) in self.resolved:
                continue
            with contextlib.suppress(CommandFailedError):
                fresh.append(await self._resolve(doubt))
        self.verdicts += fresh
        return fresh

    async def _resolve(self, doubt: Doubt) -> Verdict:
        charge = await self._find(doubt.ref)
        if charge is None:
            await asyncio.sleep(LOOK_AFTER_S)
            charge = await self._find(doubt.ref)
        if charge is None:
            await self._command.resolve_not_applied(doubt.run, doubt.call)
        else:
            await self._command.resolve_applied(doubt.run, doubt.call, value=charge)
        return Verdict(doubt.run, doubt.call, doubt.ref, charge)

    async def _find(self, ref: str) -> str | None:
        url = f"{self._payments}/charges"
        async with aiohttp.ClientSession() as http, http.get(url, params={"ref": ref}) as reply:
            charges = (await reply.json())["charges"]
        return str(charges[0]["id"]) if charges else None
