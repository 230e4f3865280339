"""What anybody of the pod may look at, and what operators may tell runs, wherever these are."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.engine.outside import TIMEOUT_S, Outside
from coatcheck_sidecar.engine.sidecar import Sidecar
from coatcheck_sidecar.servers.asking import Told, value_of
from coatcheck_sidecar.servers.openapi import document
from coatcheck_sidecar.servers.operations import Operation
from coatcheck_sidecar.servers.problems import Problem
from coatcheck_sidecar.servers.queue import looked

ID_BYTES: Final = 8
Report = Callable[[], Mapping[str, Any]]


class Operators:
    """Requests that need no run of one's own."""

    def __init__(
        self, sidecar: Sidecar, outside: Outside, *, version: str, report: Report | None
    ) -> None:
        """`outside` brings commands to runs of any pod."""
        self._sidecar = sidecar
        self._outside = outside
        outside.on_placed = sidecar.heart.poke  # for a run of ours: its inbox is looked at now
        self._report = report
        self._document = document(version)

    async def do(
        self, operation: Operation, names: Mapping[str, str], *, body: dict[str, Any]
    ) -> Told:
        """Raises `Problem`, `Refusal`, `StoreError`, `Damaged`."""
        match operation.id:
            case "document":
                return Told(self._document)
            case "observe":
                return Told(self._observed())
            case "showDrain":
                return Told(self._sidecar.drain.view())
            case "drain":
                self._sidecar.drain.begin("operator", grace_s=body.get("deadline_s"))
                return Told(self._sidecar.drain.view())
            case "listRuns":
                keepers = self._sidecar.keepers.values()
                return Told({"runs": [asdict(keeper.summary()) for keeper in keepers]})
            case "showRun":
                return Told(self._shown(names["run"]))
            case "result":
                return await self._result(names["run"])
            case "waiting" | "waitingIn":
                return Told(looked(await self._outside.lookout.look(), names.get("queue")))
            case "doubts":
                return await self._doubts(names["run"])
            case _:
                return await self._command(operation.id, names["run"], body=body)

    def _observed(self) -> dict[str, Any]:
        if self._report is None:
            why = "nothing is observed: set mode to observe"
            raise Problem(404, "not_found", detail=why)
        return dict(self._report())

    def _shown(self, run: str) -> dict[str, Any]:
        keeper = self._sidecar.keepers.get(run)
        if keeper is None:
            why = f"run {run} is not owned by this pod"
            raise Problem(404, "not_found", detail=why, run=run)
        return asdict(keeper.summary())

    async def _result(self, run: str) -> Told:
        state = (await self._outside.show(run)).log.state
        told: dict[str, Any] = {"run": run, "status": state.status.value}
        if state.reason:
            told["error"] = state.reason
        return Told(told, {"result": state.result.data if state.result is not None else None})

    async def _doubts(self, run: str) -> Told:
        doubts = [
            {
                "call": doubt.call.number,
                "tool": doubt.call.tool,
                "step": doubt.call.step,
                "business_key": doubt.call.business_key,
                "first_sent_ms": doubt.call.first_sent_ms,
                "reason": doubt.call.reason,
                "summary": doubt.call.summary,
            }
            for doubt in await self._outside.doubts(run)
        ]
        return Told({"doubts": doubts})

    async def _command(self, what: str, run: str, *, body: dict[str, Any]) -> Told:
        value = value_of(body, "value")
        if value is None and (what == "signal" or body.get("verdict") == "applied"):
            value = b"\xc0"
        command = Command(
            id=body.get("id") or self._sidecar.doors.clock.random_bytes(ID_BYTES).hex(),
            run=run,
            what=what,
            by=body["by"],
            why=body.get("why", ""),
            name=body.get("name", ""),
            call=body.get("call", 0),
            verdict=body.get("verdict", ""),
            force=body.get("force", False),
            then=body.get("then", ""),
            value=value,
        )
        done = await self._outside.command(command, timeout_s=body.get("timeout_s", TIMEOUT_S / 2))
        if done.refused:
            raise Problem(409, "conflict", detail=done.refused, run=run)
        return Told({"id": done.id, "status": str(done.status or "")})
