"""What both ways in for MCP share: hints of servers, and a tool call on its way to the exchange."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from coatcheck.wire import ErrorCode
from coatcheck_sidecar.core import fingerprint, mcp, relay
from coatcheck_sidecar.core.mcp import Hints, ToolCall
from coatcheck_sidecar.core.model import CallClass
from coatcheck_sidecar.core.policy import Ask
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.bindings import Binding
from coatcheck_sidecar.engine.mcp_upstream import McpOutgoing
from coatcheck_sidecar.engine.wanted import Performs, Wanted

KEY_CHARS_MAX: Final = 256
"""Of a key that an agent gives: it goes into heads, which stay small."""


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks, by which tool of the configuration, and what its headers said to us."""

    binding: Binding
    tool: Tool
    said: Mapping[str, str]


class McpDesk:
    """Takes tool calls to the exchange."""

    def __init__(self, exchange: Performs) -> None:
        self._exchange = exchange
        self._hints: dict[str, Hints] = {}

    async def perform(self, asking: Asking, attempt: McpOutgoing) -> None:
        """Have a call answered, in a result whatever happens."""
        tool, call = asking.tool, attempt.call
        hints = self._hints.get(tool.name, mcp.NO_HINTS)
        effect = mcp.effect_of(call.asked.name, tool=tool, hints=hints)
        call_class = tool.class_of(effect)
        try:
            wanted = Wanted(
                tool=tool,
                ask=_ask(asking, call.asked, call_class=call_class),
                outgoing=attempt,
                is_recorded=tool.record or call_class is not CallClass.READ,
                level=tool.durability,
                wait_s=relay.wait_s(dict(asking.said)),
            )
            await self._exchange.perform(asking.binding, wanted, reply=call)
        except Refusal as refusal:
            await call.refuse(refusal)
        if call.is_cut:
            await call.lose()

    def has_schema(self, tool: Tool, asked: ToolCall) -> bool:
        """The server said which form the tool's results have."""
        return asked.name in self._hints.get(tool.name, mcp.NO_HINTS).structured

    def learn(self, tool: Tool, message: bytes) -> None:
        """A response to `tools/list` came by."""
        known = self._hints.get(tool.name, mcp.NO_HINTS)
        self._hints[tool.name] = mcp.hints_in(message, known)


def _ask(asking: Asking, asked: ToolCall, *, call_class: CallClass) -> Ask:
    """Which call is asked for. Each tool of a server is a tool of its own: `<route>/<name>`."""
    tool, said, keeper = asking.tool, asking.said, asking.binding.keeper
    marker = said.get("idempotency-key", "")
    own = said.get("coatcheck-key") or (marker if tool.trust_key else "")
    key = mcp.key_of(asked, own)
    if key is not None and len(key) > KEY_CHARS_MAX:
        said_len = f"a key has {len(key)} of {KEY_CHARS_MAX} characters"
        raise Refusal(ErrorCode.PROTOCOL_ERROR, said_len)
    lifetime_s = tool.upstream_key.lifetime_s if tool.upstream_key else None
    return Ask(
        run=keeper.run,
        step=asking.binding.calls.step,
        tool=f"{tool.name}/{asked.name}",
        call_class=call_class,
        fingerprint=mcp.fingerprint_of(asked, tool),
        key=key,
        business=mcp.business_of(asked, tool),
        identity=tool.identity,
        repeats_ok=tool.repeats,
        unresolved_ok=tool.unresolved_ok,
        marker=marker,
        is_retry=relay.is_retry(dict(said)),
        settle_s=tool.probe_settle_s,
        key_lifetime_s=lifetime_s if call_class is CallClass.KEYED else None,
        summary=fingerprint.summary(asked.arguments, tool.shown),
        is_irreversible=tool.irreversible and call_class is not CallClass.READ,
    )
