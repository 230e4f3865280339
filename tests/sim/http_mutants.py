"""The rules of calls over HTTP, each broken from outside; `mutants.py` runs these too."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Final
from unittest.mock import PropertyMock, patch

from coatcheck_sidecar.core import call as table
from coatcheck_sidecar.core import http_outcome
from coatcheck_sidecar.core.call_events import Asked, Decision
from coatcheck_sidecar.core.doubt import Rules
from coatcheck_sidecar.core.model import Call, CallClass, CallState, Level
from coatcheck_sidecar.core.record import Event
from coatcheck_sidecar.engine import answers, attempts
from coatcheck_sidecar.engine.answers import Came, Taking
from coatcheck_sidecar.engine.attempts import Changes, Go
from coatcheck_sidecar.engine.calls import Calls
from coatcheck_sidecar.engine.errand import Errand
from coatcheck_sidecar.engine.keeper import Keeper

Mutant = Callable[[], AbstractContextManager[Any]]
CORE: Final = "coatcheck_sidecar.core"
ENGINE: Final = "coatcheck_sidecar.engine"


def last_piece_not_held_back() -> AbstractContextManager[Any]:
    """The end of an answer goes out as it comes."""

    async def pass_on(self: Taking, data: bytes, came: Came, *, is_events: bool) -> None:
        if not self._is_started:
            await self._start(came)
        await self._reply.write(data)

    return patch.object(Taking, "_pass_on", pass_on)


def last_event_not_held_back() -> AbstractContextManager[Any]:
    """The end of a stream of events goes out as it comes."""
    return patch.object(answers, "releasable", lambda held, **_: len(held))


def sent_before_it_is_durable() -> AbstractContextManager[Any]:
    """What is about to be sent is written while it is sent."""
    write = Calls._write

    async def written(
        self: Calls, events: list[Event], *, level: Level, is_sent: bool, key: str
    ) -> None:
        call = self._known(key)
        if not is_sent or (call is not None and not call.is_relayed):
            return await write(self, events, level=level, is_sent=is_sent, key=key)
        self._keeper.write_later(self._keeper.append(*events))
        self.changed()
        return None

    return patch.object(Calls, "_write", written)


def retried_after_the_agent_hung_up() -> AbstractContextManager[Any]:
    """The sidecar goes on by itself when nobody waits."""
    return patch.object(Errand, "_is_gone", PropertyMock(return_value=False))


def kept_answers_fired_again() -> AbstractContextManager[Any]:
    """An answer that is kept is fetched once more."""

    def replay(call: Call, event: Asked, *, now: Any) -> Decision:
        return table._send(call, event, now=now)

    return patch.object(table, "_replay", replay)


def equal_calls_not_joined() -> AbstractContextManager[Any]:
    """A call that is in flight is sent beside itself."""
    asked = table._asked

    def beside(call: Call, event: Asked, *, now: Any) -> Decision:
        is_sent = call.state is CallState.DISPATCHED
        return asked(replace(call, state=CallState.INTENT) if is_sent else call, event, now=now)

    return patch.object(table, "_asked", beside)


def answered_before_it_is_durable() -> AbstractContextManager[Any]:
    """Who joined a call gets what it brought while that is on its way to the disk."""

    @contextmanager
    def writing(self: Changes, number: int) -> Iterator[None]:
        yield

    return patch.object(Changes, "writing", writing)


def keys_that_live_for_ever() -> AbstractContextManager[Any]:
    """An upstream is trusted to know a key however old it is."""

    @contextmanager
    def both() -> Iterator[None]:
        with (
            patch(f"{CORE}.doubt.key_left_s", lambda call, **_: 1e6),
            patch(f"{ENGINE}.attempts.key_left_s", lambda call, **_: 1e6),
        ):
            yield

    return both()


def no_look_at_the_key_before_it_goes() -> AbstractContextManager[Any]:
    """A key that was alive when the call was decided on is taken for alive when it leaves."""

    def latest_start_s(call: Call, keeper: Keeper, *, rules: Rules) -> float | None:
        if call.call_class is CallClass.KEYED:
            return None
        return attempts.latest_start_s(call, keeper, rules=rules)

    return patch(f"{ENGINE}.calls.latest_start_s", latest_start_s)


def cut_answers_taken_for_whole() -> AbstractContextManager[Any]:
    """An answer whose body breaks off is kept as if it had come to its end."""

    def ending(status: int, *, is_cut: bool = False, **more: Any) -> Any:
        return http_outcome.ending(status, **more)

    return patch.object(answers, "ending", ending)


def a_key_for_each_attempt() -> AbstractContextManager[Any]:
    """Each attempt tells the upstream a key of its own."""
    go = Calls._go

    def told(self: Calls, call: Call, upstream_key: str) -> Go:
        is_again = call.call_class is CallClass.KEYED and call.attempt > 1
        return go(self, call, f"{upstream_key}-{call.attempt}" if is_again else upstream_key)

    return patch.object(Calls, "_go", told)


HTTP_MUTANTS: Final[tuple[Mutant, ...]] = (
    last_piece_not_held_back,
    last_event_not_held_back,
    sent_before_it_is_durable,
    retried_after_the_agent_hung_up,
    kept_answers_fired_again,
    equal_calls_not_joined,
    answered_before_it_is_durable,
    keys_that_live_for_ever,
    no_look_at_the_key_before_it_goes,
    cut_answers_taken_for_whole,
    a_key_for_each_attempt,
)
