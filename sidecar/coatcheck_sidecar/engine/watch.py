"""Mode `observe`: calls pass at once and are noted; a report says what a deploy would do.

Nothing is held, delayed or answered from a record, and nothing of a call goes to the log. So a run
that was left half done by `enforce` should be over before the mode is changed.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from typing import Any, Final
from urllib.parse import urlsplit

from coatcheck_sidecar.core.call_events import Ending, Life
from coatcheck_sidecar.core.effects import is_completion, pattern_of
from coatcheck_sidecar.core.model import Call, CallClass, CallState, Effect, Level
from coatcheck_sidecar.core.observe import Came, Observations, Seen
from coatcheck_sidecar.core.policy import Ask, AskedSoFar, Identified, default_effect, identify
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.attempts import Go
from coatcheck_sidecar.engine.calls import Calls
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.ports import Clock, Observer, Outgoing

KEY_HEADER: Final = "idempotency-key"
"""draft-ietf-httpapi-idempotency-key-header; what SDKs send by themselves."""
EFFECT_OF: Final[Mapping[CallClass, Effect]] = {
    CallClass.READ: Effect.READ,
    CallClass.IDEMPOTENT: Effect.IDEMPOTENT,
    CallClass.KEYED: Effect.IDEMPOTENT,
    CallClass.PROBED: Effect.ONCE,
    CallClass.ONCE: Effect.ONCE,
}
GOOD: Final = 200
SUMMARY: Final = (
    "observed_s", "calls", "runs", "lost_steps", "never_saved", "doubled", "bought_again",
    "worst_share",
)  # fmt: skip


class Watch:
    """What was seen since the sidecar started."""

    def __init__(
        self,
        clock: Clock,
        *,
        owned: Callable[[], Collection[str]],
        bypass: Callable[[], Mapping[str, int]],
    ) -> None:
        """`owned` names the runs that are owned now, `bypass` connections past the proxy."""
        self._clock = clock
        self._owned = owned
        self._bypass = bypass
        self._seen = Observations(began_s=clock.monotonic())

    def calls(self, keeper: Keeper) -> Calls:
        """What takes the place of `Calls` for a run."""
        return WatchedCalls(keeper, self)

    def sent(self, seen: Seen, keeper: Keeper) -> int:
        """A call leaves; the number to end it by."""
        has_checkpoint = keeper.log.state.step > 0
        return self._seen.sent(seen, at_s=self._clock.monotonic(), has_checkpoint=has_checkpoint)

    def came(self, number: int, answer: Came) -> None:
        """It is over."""
        self._seen.came(number, answer)

    def saved(self, run: str) -> None:
        """The run has a new checkpoint."""
        self._seen.saved(run, at_s=self._clock.monotonic())

    def look(self) -> None:
        """Runs that are no longer owned are at no risk here. Now and then, for true shares."""
        self._seen.keep_only(self._owned(), at_s=self._clock.monotonic())

    def told(self) -> dict[str, Any]:
        """The report as plain values: what `/v1/observe` gives."""
        self.look()
        report = self._seen.report(at_s=self._clock.monotonic(), bypass=self._bypass())
        return asdict(report)

    def tell(self, observer: Observer) -> dict[str, Any]:
        """The report, to the log as well: a line for the whole, and one for each kind of call."""
        told = self.told()
        figures = {name: told[name] for name in SUMMARY}
        observer.note("observed", **figures, bypass=told["bypass"])
        for found in told["tools"]:
            observer.note("observed_call", **found)
        return told


class WatchedCalls(Calls):
    """A run's calls as its agent's SDK makes them: all may go, and nothing is written."""

    def __init__(self, keeper: Keeper, watch: Watch) -> None:
        """Begins as for a new incarnation."""
        super().__init__(keeper)
        self._run = keeper
        self._watch = watch
        self._step = keeper.log.state.step
        self._so_far = AskedSoFar()

    def begin(self) -> None:
        """A new step, or a new life of the agent in the old one."""
        super().begin()
        self._so_far = AskedSoFar()
        if self._run.log.state.step != self._step:
            self._step = self._run.log.state.step
            self._watch.saved(self._run.run)

    async def resume(
        self,
        epoch: int,
        lives: Mapping[int, Life],
        *,
        answered: frozenset[int] | None,
        is_known: bool,
    ) -> None:
        """Whatever its calls are doing, they go on."""

    async def ask(self, ask: Ask, *, level: Level) -> Go:
        """Go, whatever was before."""
        number = self._watch.sent(_seen_of(ask), self._run)
        call = replace(self._draft(ask), number=number, state=CallState.DISPATCHED, attempt=1)
        self._run.doors.observer.note("call", run=self._run.run, tool=ask.tool, decision="observed")
        return Go(call, call.upstream_key, None)

    def _draft(self, ask: Ask) -> Call:
        """An equal asking is another call: no upstream should take it for a repeat."""
        fresh = replace(ask, repeats_ok=True, is_retry=False, marker="")
        epoch = self._run.log.state.epoch
        found = identify(fresh, self._so_far, calls={}, epoch=epoch)
        assert isinstance(found, Identified)  # noqa: S101 - nothing is known, so nothing is held
        self._so_far = found.asked
        return found.draft

    async def ended(
        self, number: int, attempt: int, *, ending: Ending, body: bytes | None, reason: str
    ) -> int:
        """Noted; one of a former life of the sidecar is let pass."""
        data = body or b""
        status = GOOD if ending is Ending.FINAL else 0
        digest = hashlib.sha256(data).digest()
        self._watch.came(number, Came(status=status, digest=digest, length=len(data)))
        return self._run.log.state.seq


def seen_of_request(ask: Ask, outgoing: Outgoing, *, tool: Tool) -> Seen:
    """A call over HTTP."""
    seen = _seen_of(ask)
    has_key = any(name.lower() == KEY_HEADER for name, _ in outgoing.headers)
    if tool.mcp:
        return replace(seen, tool=tool.name, by_method=Effect.ONCE, has_upstream_key=has_key)
    base = urlsplit(tool.upstream).path.rstrip("/")
    return replace(
        seen,
        tool=tool.name,
        pattern=pattern_of(outgoing.method, _path(outgoing).removeprefix(base)),
        by_method=default_effect(outgoing.method),
        has_upstream_key=has_key or bool(ask.marker),
    )


def sells_completions(outgoing: Outgoing) -> bool:
    """By its path, this is where a model API sells its completions."""
    return outgoing.method == "POST" and is_completion(_path(outgoing))


def _path(outgoing: Outgoing) -> str:
    return urlsplit(outgoing.url).path or "/"


def _seen_of(ask: Ask) -> Seen:
    declared = EFFECT_OF[ask.call_class]
    return Seen(
        run=ask.run,
        step=ask.step,
        tool=ask.tool,
        pattern=ask.tool,
        by_method=declared,
        declared=declared,
        fingerprint=ask.fingerprint,
        has_key=ask.key is not None or ask.business is not None,
    )
