"""What a way in asks of the exchange, and what leaves for it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core.model import CallClass, Level
from coatcheck_sidecar.core.policy import Ask
from coatcheck_sidecar.core.relay import without
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.tool import Tool, UpstreamKey
from coatcheck_sidecar.engine.answers import Came, IsLast
from coatcheck_sidecar.engine.attempts import Go
from coatcheck_sidecar.engine.bindings import Binding
from coatcheck_sidecar.ports import AgentReply, Outgoing

BAD_GATEWAY: Final = 502
RESENT: Final = frozenset({"PUT", "DELETE"})
"""Methods that a stale connection would have clients send again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A request that was taken in whole, and which call it is."""

    tool: Tool
    ask: Ask
    """`ask.call_class` says how it is treated."""
    outgoing: Outgoing
    """Without the upstream key, which is put on when it is sent. A body in a file is the
    exchange's from here: it is removed when nobody sends it any more."""
    is_recorded: bool
    """False for a read that is passed on and forgotten."""
    level: Level
    wait_s: float = 0.0
    """How long the agent waits for a decision, if the call is held."""
    is_last: IsLast | None = None
    """Which event of a stream its reader may take for the end; without it any may be."""


class Performs(Protocol):
    """Where all ways in end: `Exchange`, or `Passing` in the modes that decide nothing."""

    async def perform(self, binding: Binding, wanted: Wanted, *, reply: AgentReply) -> None:
        """Answer the agent. Raises `Refusal` before `reply.start`, nothing after it."""


def clear(wanted: Wanted) -> None:
    """Nobody sends it any more."""
    body = wanted.outgoing.body
    if isinstance(body, Path):
        body.unlink(missing_ok=True)


def outgoing(wanted: Wanted, go: Go) -> Outgoing:
    """The attempt as it leaves, with the key by which its upstream knows the call."""
    tool, request, call_class = wanted.tool, wanted.outgoing, go.call.call_class
    is_looked_into = tool.redact or tool.undo
    if call_class is CallClass.READ and not tool.redact:
        return request
    headers = request.headers
    if is_looked_into:
        headers = (*without(headers, "accept-encoding"), ("Accept-Encoding", "identity"))
    key = _key_of(tool, call_class)
    if key is not None:
        named = (key.header, key.prefix + go.upstream_key)
        headers = (*without(headers, key.header.lower()), named)
    is_alone = call_class.is_guarded or request.method in RESENT
    return replace(request, headers=headers, is_alone=is_alone, until_boot_s=go.until_boot_s)


def _key_of(tool: Tool, call_class: CallClass) -> UpstreamKey | None:
    """How the upstream is told the key. A probe that asks by it needs it told as well."""
    if call_class is CallClass.READ:
        return None
    if tool.upstream_key is None and tool.probe is not None and "{key}" in tool.probe.path:
        return UpstreamKey()
    return tool.upstream_key


def no_answer(tool: Tool, came: Came) -> Refusal:
    """The upstream has none, and patience is over. SDKs retry it: it is the same call then."""
    return Refusal(
        ErrorCode.UNAVAILABLE,
        f"{tool.name}: {came.why}",
        retry=Retry.LATER,
        http_status=BAD_GATEWAY,
        tool=tool.name,
        reason=came.ending.value,
    )
