"""The requests under way on a connection, and how often to try for another. Shared by drivers."""

import asyncio
import concurrent.futures
import math
from typing import Final

from coatcheck import _clock
from coatcheck._session import Ask, Session
from coatcheck.errors import CoatcheckError, Parked, Unavailable, from_wire
from coatcheck.wire import PUSH_ID, Message, Reply, Retry

RECONNECT_S: Final = 120.0
"""In all: six times the longest restart of a sidecar seen in a pod."""
BACK_OFF_S_MIN: Final = 0.05
"""A sidecar that only reloads is back within half a second."""
BACK_OFF_S_MAX: Final = 2.0
"""At most this much is lost when the sidecar is back."""

Future = asyncio.Future[Message] | concurrent.futures.Future[Message]
Numbered = tuple[int, Ask]


class Desk:
    """Who waits for which reply. Not safe for threads: a driver with threads holds a lock."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waiting: dict[int, tuple[Ask, Future | None]] = {}
        self.error: CoatcheckError | None = None

    @property
    def is_needed(self) -> bool:
        """A connection is needed: the run is ours, or a reply is due."""
        is_ours = self._session.is_open and not self._session.is_ended
        return self.error is None and (is_ours or bool(self._waiting))

    def take(self, ask: Ask, future: Future | None) -> int:
        """The number under which to send `ask`; `future` is told, if there is one.

        A future that is cancelled meanwhile has nobody waiting for it any more.
        """
        if self.error is not None:
            self._session.refused(ask)
            raise self.error
        number = self._session.next_id()
        self._waiting[number] = (ask, future)
        return number

    def again(self) -> list[Numbered]:
        """What to send on another connection: all that is unanswered, whole."""
        for number, (ask, future) in self._waiting.items():
            self._waiting[number] = (ask.whole or ask, future)
        return [(number, ask) for number, (ask, _) in sorted(self._waiting.items())]

    def received(self, message: Message) -> list[Numbered]:
        """Hand a reply to who waits for it, a push to the session; what to send because of it."""
        follow_ups: list[Numbered] = []
        if message.id in self._waiting:
            follow_ups = self._settle(message, *self._waiting.pop(message.id))
        elif message.id == PUSH_ID and message.type == Reply.ERROR:
            self.fail(from_wire(message.body))
        elif message.id == PUSH_ID:
            self._session.push(message)
        if self._session.fenced is not None:
            self.fail(self._session.fenced)  # or it would connect again, to a run of another
        return follow_ups

    def _settle(  # noqa: PLR0917 - the pair that it was kept as
        self, message: Message, ask: Ask, future: Future | None
    ) -> list[Numbered]:
        waiting = None if future is None or future.cancelled() else future
        try:
            follow_up = self._session.settle(ask, message, is_abandoned=waiting is None)
        except CoatcheckError as error:
            if waiting is not None:
                waiting.set_exception(error)
            return []
        if waiting is not None:
            waiting.set_result(message)
        return [] if follow_up is None else [(self.take(follow_up, None), follow_up)]

    def fail(self, error: CoatcheckError) -> None:
        """Give up for good: everything that waits, and all that comes, gets the first error."""
        self.error = self.error or error
        waiting, self._waiting = self._waiting, {}
        for ask, future in waiting.values():
            self._session.refused(ask)
            if future is not None and not future.done():
                future.set_exception(error)


class BackOff:
    """How long to wait before the next try to connect, and when to give up."""

    def __init__(self, path: str, *, give_up_at_s: float = math.inf) -> None:
        """Time starts now. `give_up_at_s` (monotonic) may shorten it."""
        self._path = path
        self._end_s = min(_clock.monotonic() + RECONNECT_S, give_up_at_s)
        self._delay_s = BACK_OFF_S_MIN

    def delay_s(self, failure: Exception) -> float:
        """Raises `failure` if no other try can mend it, `Unavailable` when the time is over."""
        is_final = isinstance(failure, CoatcheckError) and failure.retry is not Retry.LATER
        if is_final or isinstance(failure, Parked):
            raise failure
        delay_s, self._delay_s = self._delay_s, min(self._delay_s * 2, BACK_OFF_S_MAX)
        if _clock.monotonic() + delay_s > self._end_s:
            text = f"no sidecar answers at {self._path}, and the time to wait is over: {failure}"
            raise Unavailable(text, socket=self._path)
        return _clock.uniform(delay_s / 2, delay_s)
