"""One end of the wire without its socket: bytes in, bytes out, and replies to who waits for them.

Both drivers stand on it. It greets, resumes, sends again what a break left unanswered, and says
how long to wait before the next try.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from coatcheck import _clock, _ops, errors, wire
from coatcheck._session import ENDS, UNOPENED, Ask, Op, Session, Value, outcome

if TYPE_CHECKING:
    import asyncio  # an agent without it doesn't pay for its import
    import concurrent.futures

HANDSHAKE_S: Final = 15.0
"""A socket that takes a connection and says nothing for this long is as good as gone."""
RECONNECT_S: Final = 120.0
"""In all: six times the longest restart of a sidecar seen in a pod."""
BACK_OFF_S_MIN: Final = 0.05
"""A sidecar that only reloads is back within half a second."""
BACK_OFF_S_MAX: Final = 2.0
"""At most this much is lost when the sidecar is back."""

Future: TypeAlias = "asyncio.Future[wire.Message] | concurrent.futures.Future[wire.Message]"


async def performed(
    operation: _ops.ToolOp[Value], do: Callable[[_ops.Command], Awaitable[Any]]
) -> Value:
    """Do what `operation` yields until it returns. Raises what it raises."""
    try:
        command = next(operation)
        while True:
            try:
                reply = await do(command)
            except BaseException as error:
                command = operation.throw(error)
            else:
                command = operation.send(reply)
    except StopIteration as stop:
        result: Value = stop.value
        return result


class Desk:
    """Who waits for which reply. Not safe for threads: a driver with threads holds a lock."""

    def __init__(self, session: Session, path: str) -> None:
        """`path` is the socket's, for errors to name."""
        self.is_ready = False
        """The greeting is over: requests go out at once."""
        self._session = session
        self._path = path
        self._error: errors.CoatcheckError | None = None
        self._waiting: dict[int, tuple[Ask, Future]] = {}
        self._last_id = 0
        self._delay_s = 0.0
        self._give_up_at_s: float | None = None

    def connected(self) -> list[bytes]:
        """A socket is there; the frames to begin with."""
        self._reader, self._assembler = wire.FrameReader(), wire.Assembler()
        self._greeting: Op[None] = _ops.handshake(self._session)
        return self._greet(next(self._greeting))

    def asked(self, ask: Ask, future: Future) -> list[bytes]:
        """The frames to send for `ask` now: none before the greeting is over.

        A future that is cancelled has nobody waiting for it. Raises what ended the connection.
        """
        if self._error is not None:
            self._session.refused(ask)
            raise self._error
        return self._put(ask, future, number=self._next_id())

    def _put(self, ask: Ask, future: Future, *, number: int) -> list[bytes]:
        if self._session.is_off:
            return self._settle(self._session.answer_off(number, ask), (ask, future))
        self._waiting[number] = (ask, future)
        return _frames(number, ask) if self.is_ready else []

    def received(self, data: bytes) -> list[bytes]:
        """The frames to send because of `data`.

        Raises `CoatcheckError` if this connection can't go on: close it, and report it `lost`.
        """
        frames: list[bytes] = []
        try:
            for message in filter(None, map(self._assembler.add, self._reader.feed(data))):
                frames += self._take(message)
        except wire.WireError as error:
            raise errors.ProtocolError(f"the sidecar sent what is no frame: {error}") from error
        if self._session.is_draining or self._session.fenced is not None:
            self._session.on_stop()
        if self._session.fenced is not None:
            raise self._session.fenced
        return frames

    def lost(self, failure: Exception) -> float | None:
        """The connection ended, or there is none: seconds until the next try.

        `None` when no other is needed, or none can mend it, or the time for it is over: then all
        that waits is told.
        """
        self.is_ready = False
        if self._session.is_off or not (self._session.is_open or self._waiting):
            return None
        now_s = _clock.monotonic()
        if self._give_up_at_s is None:
            self._give_up_at_s = now_s + RECONNECT_S
        is_final = isinstance(failure, errors.Parked) or getattr(failure, "retry", "") != "later"
        if isinstance(failure, errors.CoatcheckError) and is_final:
            self.fail(failure)
        elif now_s + self._delay_s > self._give_up_at_s:
            where = f"no sidecar answers at {self._path}, and the time to wait is over"
            self.fail(errors.Unavailable(f"{where}: {failure}", socket=self._path))
        if self._error is not None:
            return None
        delay_s = self._delay_s
        self._delay_s = min(max(delay_s * 2, BACK_OFF_S_MIN), BACK_OFF_S_MAX)
        return _clock.uniform(delay_s / 2, delay_s)

    def fail(self, error: errors.CoatcheckError) -> None:
        """Give up for good: everything that waits, and all that comes, gets the first error."""
        self._error = self._error or error
        waiting, self._waiting = self._waiting, {}
        for ask, future in waiting.values():
            self._session.refused(ask)
            if not future.done():
                future.set_exception(error)

    def _next_id(self) -> int:
        self._last_id = self._last_id % wire.ID_MAX + 1
        return self._last_id

    def _take(self, message: wire.Message) -> list[bytes]:
        if message.id == wire.PUSH_ID:
            if message.type == wire.Reply.ERROR:
                raise errors.from_wire(message.body)
            self._session.push(message)
        elif message.id in self._waiting:
            return self._settle(message, self._waiting.pop(message.id))
        elif not self.is_ready and message.id == self._greeted[0]:
            self._session.settle(self._greeted[1], message)
            try:
                return self._greet(self._greeting.send(message))
            except StopIteration:
                return self._begin()
        return []

    def _greet(self, ask: Ask) -> list[bytes]:
        self._greeted = (self._next_id(), ask)
        return _frames(*self._greeted)

    def _begin(self) -> list[bytes]:
        """The greeting is over: send all that is unanswered, whole, under the ids that it had."""
        self.is_ready, self._give_up_at_s, self._delay_s = True, None, 0.0
        if not (self._session.is_open or self._session.status == UNOPENED):
            self._end()
        waiting, self._waiting = self._waiting, {}
        again = [self._put(ask.whole or ask, f, number=n) for n, (ask, f) in waiting.items()]
        return [frame for frames in again for frame in frames]

    def _end(self) -> None:
        """The run came to its end meanwhile: by what was asked for here, or by somebody else."""
        run, status = self._session.run, self._session.status
        done = [n for n, (ask, _) in self._waiting.items() if ENDS.get(ask.type) == status]
        for number in done:
            self._take(wire.Message(wire.Reply.OK, number, {}, None))
        error = errors.Fenced(f"run {run} is {status}; nobody goes on with it", run=run)
        self._session.fenced = None if done else error
        self.fail(error)

    def _settle(self, message: wire.Message, waiting: tuple[Ask, Future]) -> list[bytes]:
        ask, future = waiting
        try:
            self._session.settle(ask, message)
        except errors.CoatcheckError as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(message)
            elif message.body.get("decision") == "go":  # the caller has gone: give it back
                not_applied = outcome(message, "not_applied", reason="the caller had gone")
                return self.asked(not_applied, future)
        return []


def _frames(number: int, ask: Ask) -> list[bytes]:
    return wire.encode_message(ask.type, number, ask.body, ask.attachment)
