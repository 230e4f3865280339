"""What the kubelet asks before it stops a pod: begin to drain, and hold the agents' SIGTERM back.

Both may come in any order and more than once: a kubelet that restarts runs its hooks again. It
sets no time-out and looks at no status (kubelet/README), so that the barrier caps itself.
"""

import asyncio
import hmac
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

from coatcheck_sidecar.core.drain import Latch
from coatcheck_sidecar.engine.drain import HOOK

if TYPE_CHECKING:
    from aiohttp import web

HEADER: Final = "Coatcheck-Hook-Token"
"""The header by which a hook of the pod's own spec is told from a request of a neighbour."""
GRACE_S_MAX: Final = 7 * 86_400.0
"""A week: longer than any grace that a cluster grants."""


class Drains(Protocol):
    """What hooks need of the engine's drain."""

    def begin(self, cause: str, *, grace_s: float | None = None) -> Latch:
        """Begin, or learn of one more reason."""

    async def barrier(self) -> bool:
        """Wait until no run is here, or the time is over; not for long if nothing drains."""


class Hooks:
    """`/drain` and `/drain/barrier`."""

    def __init__(self, drain: Drains, *, token: str) -> None:
        """With a `token`, whoever doesn't send it is refused."""
        self._drain = drain
        self._token = token.encode()

    async def drain(self, request: "web.Request") -> "web.Response":
        """Begin, and answer at once: a sidecar's hook that lasts gains nothing, and pins the pod.

        `?deadline_s=` is the grace that is left, for who knows it better than the pod's spec.
        """
        from aiohttp import web

        self._check(request)
        grace_s = _seconds(request, "deadline_s")
        cause = HOOK if request.method == "GET" else "request"
        latch = self._drain.begin(cause, grace_s=grace_s)
        return web.Response(text=f"draining since {latch.cause}\n")

    async def barrier(self, request: "web.Request") -> "web.Response":
        """Answer once no run is here, or when the agents must get their SIGTERM all the same.

        Not before `?min_s=`: what a `sleep` that was an agent's hook is there for, such as that no
        Service sends requests any more, takes as long as before.
        """
        from aiohttp import web

        self._check(request)
        min_s = _seconds(request, "min_s") or 0.0
        is_released, _ = await asyncio.gather(self._drain.barrier(), asyncio.sleep(min_s))
        return web.Response(text="released\n" if is_released else "the time is over\n")

    def _check(self, request: "web.Request") -> None:
        from aiohttp import web

        said = request.headers.get(HEADER, "").encode()
        if self._token and not hmac.compare_digest(said, self._token):
            raise web.HTTPForbidden(text=f"say the pod's own {HEADER}\n")


def _seconds(request: "web.Request", name: str) -> float | None:
    """Of the query. Raises `HTTPBadRequest`."""
    from aiohttp import web

    told = request.query.get(name)
    try:
        seconds = None if told is None else float(told)
    except ValueError:
        seconds = inf
    if seconds is not None and not 0 <= seconds <= GRACE_S_MAX:
        why = f"{name} is {told!r:.40}, not seconds from 0 to {GRACE_S_MAX:g}\n"
        raise web.HTTPBadRequest(text=why)
    return seconds
