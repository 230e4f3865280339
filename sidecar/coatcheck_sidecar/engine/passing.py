"""Calls over HTTP in modes `observe` and `off`: passed on as they come, once, and forgotten."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from coatcheck.wire import ErrorCode, Retry
from coatcheck_sidecar.core.observe import Came
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.bindings import Binding
from coatcheck_sidecar.engine.wanted import Wanted, clear
from coatcheck_sidecar.engine.watch import Watch, seen_of_request, sells_completions
from coatcheck_sidecar.ports import AgentReply, Lost, NotSent, Upstream, UpstreamAnswer

DECISION: Final = ("Coatcheck-Decision", "sent")
CREATED: Final = 201
NOTHING: Final = Came(status=0)


class Passing:
    """In place of an `Exchange`: one attempt, nothing held back, nothing recorded."""

    def __init__(
        self, upstream_of: Callable[[Tool], Upstream], *, watch: Watch | None = None
    ) -> None:
        """`upstream_of` gives a tool's connections; `watch` notes what passes, in `observe`."""
        self._upstream_of = upstream_of
        self._watch = watch

    async def perform(self, binding: Binding, wanted: Wanted, *, reply: AgentReply) -> None:
        """Answer the agent from the upstream. Raises `Refusal` if there is no answer at all."""
        number, came = 0, NOTHING
        if self._watch is not None:
            seen = seen_of_request(wanted.ask, wanted.outgoing, tool=wanted.tool)
            number = self._watch.sent(seen, binding.keeper)
        try:
            sending = self._upstream_of(wanted.tool).send(wanted.outgoing)
            came = await self._pass(sending, wanted, reply=reply)
        finally:
            if self._watch is not None:
                self._watch.came(number, came)
            clear(wanted)

    async def _pass(
        self,
        sending: AbstractAsyncContextManager[UpstreamAnswer],
        wanted: Wanted,
        *,
        reply: AgentReply,
    ) -> Came:
        is_begun = False
        try:
            async with sending as answer:
                is_begun = True
                return await _relay(answer, wanted, reply=reply)
        except (NotSent, Lost) as error:
            if is_begun:
                reply.cut()
                return NOTHING
            raise Refusal(
                ErrorCode.UNAVAILABLE,
                f"{wanted.tool.name} did not answer: {error}",
                retry=Retry.LATER,
                tool=wanted.tool.name,
            ) from error


async def _relay(answer: UpstreamAnswer, wanted: Wanted, *, reply: AgentReply) -> Came:
    digest, length = hashlib.sha256(), 0
    await reply.start(answer.status, (*answer.headers, DECISION))
    async for piece in answer.pieces():
        digest.update(piece)
        length += len(piece)
        await reply.write(piece)
        if reply.is_gone:
            return NOTHING  # as without a proxy: the upstream sees that nobody listens
    await reply.end()
    has_location = any(name.lower() == "location" for name, _ in answer.headers)
    return Came(
        status=answer.status,
        digest=digest.digest(),
        length=length,
        has_created=answer.status == CREATED or (has_location and answer.status < 300),
        is_completion=sells_completions(wanted.outgoing) and 200 <= answer.status < 300,
    )
