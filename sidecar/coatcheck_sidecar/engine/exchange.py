"""One tool call over HTTP, from the agent's request to the end of its answer."""

from dataclasses import dataclass
from typing import Protocol

from coatcheck_sidecar.core.model import Level
from coatcheck_sidecar.core.policy import Ask
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.bindings import Binding
from coatcheck_sidecar.ports import AgentReply, Outgoing


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A request that was taken in whole, and which call it is."""

    tool: Tool
    ask: Ask
    """`ask.call_class` says how it is treated."""
    outgoing: Outgoing
    """Without the upstream key, which is put on when it is sent."""
    is_recorded: bool
    """False for a read that is passed on and forgotten."""
    level: Level


class Exchange(Protocol):
    """Performs what the call table says; every way in ends here."""

    async def perform(self, binding: Binding, wanted: Wanted, *, reply: AgentReply) -> None:
        """Answer the agent, from the log or from the upstream. Raises `Refusal` before `start`.

        After `reply.start` nothing is raised: an answer that can't be completed is `cut`. If the
        agent hangs up, the upstream's answer is still taken in whole.
        """
