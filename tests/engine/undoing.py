"""Runs that can be taken back: agents that charge by way of a proxy, and a bank that refunds."""

import json
from typing import Any

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.model import Effect, Status
from coatcheck_sidecar.core.tool import HttpUndo, Tool, UpstreamKey
from coatcheck_sidecar.engine.outside import Done, Outside
from tests.engine.harness import FAST, Wire, Yard, until
from tests.engine.proxying import Far, Near, near, tool_of

UNDO = HttpUndo(path="/refunds", body={"charge": "{/n}"}, of="POST /charges*")
KEYED: dict[str, Any] = {"effect": Effect.IDEMPOTENT, "upstream_key": UpstreamKey()}


def tools(far: Far, **more: Any) -> dict[str, Tool]:
    """A bank whose charges are taken back by refunds."""
    return tool_of(far, "bank", **{"effect": Effect.ONCE, "undo": UNDO, "patience_s": 0.3, **more})


async def pods(yard: Yard, far: Far, **more: Any) -> tuple[Near, Near]:
    """Two pods with the same tools."""
    made = tools(far, **more)
    return await near(yard, made), await near(yard, made, me="pod2.s1")


async def charge(near: Near, *amounts: int, run: str = "r1") -> list[Any]:
    """One charge after another, as an agent's client makes them."""
    got = [await near.ask("bank/charges", json={"amount": a}, run=run) for a in amounts]
    assert {one.status for one in got} == {200}
    return [one.json["n"] for one in got]


def refunds(far: Far) -> list[Any]:
    """The charges that were refunded, in order."""
    seen = [seen for seen in far.seen if seen.path == "/base/refunds"]
    return [json.loads(one.body)["charge"] for one in seen]


async def compensate(yard: Yard, run: str = "r1", *, then: str = "") -> Done:
    """As an operator does."""
    command = Command(id=f"c-{run}", run=run, what="compensate", by="ada", then=then)
    return await order(yard, command)


async def resolve(yard: Yard, call: int, verdict: str, *, run: str = "r1") -> Done:
    """As an operator does who looked, or who did it by hand."""
    command = Command(
        id=f"v{call}{verdict}", run=run, what="resolve", by="ada", call=call, verdict=verdict,
        force=True,
    )  # fmt: skip
    return await order(yard, command)


async def order(yard: Yard, command: Command) -> Done:
    """Have a command carried out."""
    return await Outside(yard.store, SystemClock(), settings=FAST).command(command, timeout_s=5)


async def status_of(yard: Yard, run: str = "r1") -> Status:
    return (await yard.log(run)).state.status


async def until_is(yard: Yard, status: Status, run: str = "r1") -> None:
    """Wait until the run's head says so."""

    async def is_so() -> bool:
        return await status_of(yard, run) is status

    await until(is_so)


async def done_with(agent: Wire, *, commits: bool = True) -> None:
    """The agent commits its step and leaves."""
    if commits:
        await agent.commit(b"state")
    await agent.release()
