"""Legal histories of one run, made of a list of numbers: each picks one of what may come next."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from hypothesis import strategies as st

from coatcheck_sidecar.core.model import (
    NO_BODY,
    Body,
    Call,
    CallClass,
    CallState,
    OutcomeKind,
    Status,
)
from coatcheck_sidecar.core.record import (
    Birth,
    CallOutcome,
    Checkpoint,
    Claimed,
    Commanded,
    Created,
    Dispatched,
    Event,
    Failed,
    Finished,
    Held,
    Intent,
    Parked,
    Record,
    Released,
    Resolved,
    Signalled,
)
from coatcheck_sidecar.core.runstate import IN_DOUBT, RunState
from coatcheck_sidecar.core.undo_records import Compensated, Compensating, Undo

CHOICES: Final = st.lists(st.integers(0, 9_999), max_size=80)
NAMES: Final = ("approval", "payment")
GUARDED: Final = (CallClass.PROBED, CallClass.ONCE)


class History:
    """Appends what a number picks; `state` is the fold of all records."""

    def __init__(self) -> None:
        self.state = RunState("run")
        self.records: list[Record] = []
        self.append(Created(input=Body(b"in")))

    @property
    def seq(self) -> int:
        return self.state.seq

    def append(self, event: Event, *, epoch: int | None = None) -> Record:
        at = self.seq + 1
        record = Record(at, self.state.epoch if epoch is None else epoch, at * 1000, event)
        self.state.apply(record)
        self.records.append(record)
        return record

    def step(self, number: int) -> Record | None:
        options = list(self._owned() if self.state.status is Status.OWNED else self._unowned())
        if not options:
            return None
        event = options[number % len(options)](number // len(options))
        is_claim = isinstance(event, Claimed)
        return self.append(event, epoch=self.state.epoch + 1 if is_claim else None)

    def _unowned(self) -> Iterator[Callable[[int], Event]]:
        if self.state.status.is_final:
            return
        yield self._claimed
        yield self._claimed
        yield self._signalled
        yield self._commanded
        yield self._compensating
        if self.state.status is not Status.PARKED:
            yield from (self._resolved(call) for call in self.state.in_doubt)

    def _owned(self) -> Iterator[Callable[[int], Event]]:
        calls = list(self.state.calls.values())
        in_flight = [call for call in calls if call.state is CallState.DISPATCHED]
        yield from [self._intent] * 4
        yield self._claimed
        yield self._signalled
        yield self._commanded
        yield self._released
        yield self._held
        yield self._compensating
        for call in calls:
            yield from [*self._call(call)] * 3
        if not any(call.call_class in GUARDED for call in in_flight):
            yield from [self._checkpoint] * 4
            yield lambda n: Parked(name=NAMES[n % 2], payload=Body(bytes([n % 256])))
            yield self._over

    def _call(self, call: Call) -> Iterator[Callable[[int], Event]]:
        number, attempt = call.number, call.attempt
        match call.state:
            case CallState.INTENT | CallState.NOT_APPLIED:
                yield lambda n: Dispatched(call=number, attempt=attempt + 1)
            case CallState.DISPATCHED:
                yield self._done(call)
                yield self._done(call)
                yield lambda n: CallOutcome(
                    call=number,
                    attempt=attempt,
                    what=("not_applied", "in_doubt")[n % 2],
                    reason="lost",
                )
            case CallState.IN_DOUBT:
                yield lambda n: Dispatched(call=number, attempt=attempt + n % 2)
                yield self._done(call)
                yield self._resolved(call)
            case _:
                if call.is_unsettled:
                    yield self._resolved(call)
                elif call.state is CallState.DONE:
                    yield lambda n: self._undo(call, n)

    def _undo(self, call: Call, n: int) -> Event:
        plain = Undo(call=call.number, key=call.key, tool=call.tool, step=call.step)
        match n % 4:
            case 0:
                return dataclasses.replace(plain, is_irreversible=True)
            case 1:
                return dataclasses.replace(plain, why="there is nothing at /id")
            case 2:
                return dataclasses.replace(plain, handler="refund", body=Body(b"paid" * (n % 40)))
            case _:
                body = Body(b'{"id":7}' * (n % 40))
                return dataclasses.replace(plain, method="POST", path="/refunds", body=body)

    def _compensating(self, n: int) -> Event:
        then = ("end", "resubmit", "forward")[n % 3]
        return Compensating(then=then, by="ada", command=f"u{self.seq}")

    def _done(self, call: Call) -> Callable[[int], Event]:
        kinds = tuple(OutcomeKind)
        return lambda n: CallOutcome(
            call=call.number,
            attempt=call.attempt,
            what="done",
            outcome=kinds[n % len(kinds)],
            body=Body(b"out" * (n % 40)),
            head=b"200",
        )

    def _resolved(self, call: Call) -> Callable[[int], Event]:
        verdicts = ("applied", "not_applied", "retry", "compensate")
        return lambda n: Resolved(
            call=call.number,
            verdict=verdicts[n % 4],
            by="ada",
            why="seen",
            command=f"r{self.seq}",
            body=Body(b"so"),
        )

    def _intent(self, n: int) -> Event:
        at = self.seq + 1
        is_named = n % 2 == 1
        key = f"order-{n % 5}" if is_named else f"{self.state.step + 1}/{at}"
        if key in self.state.by_key:
            key = f"{key}-{at}"
        birth = Birth(
            key=key,
            step=self.state.step + 1,
            tool=f"tool{n % 3}",
            call_class=tuple(CallClass)[n % 5],
            fingerprint=bytes([n % 256]) * 32,
            is_named=is_named,
            settle_s=1.5,
        )
        return Intent(call=at, birth=birth)

    def _claimed(self, n: int) -> Event:
        return Claimed(owner=f"pod{n % 3}.a", crashes=n % 4, since=self.seq + 1)

    def _signalled(self, n: int) -> Event:
        return Signalled(name=NAMES[n % 2], value=Body(b"yes"), command=f"s{self.seq}")

    def _commanded(self, n: int) -> Event:
        what = "retry" if n % 3 else "cancel"
        refused = "not now" if n % 5 == 0 else ""
        return Commanded(what=what, by="ada", command=f"c{self.seq}", refused=refused)

    def _released(self, n: int) -> Event:
        return Released(reason="left", crashes=n % 4, not_before_ms=n % 2 * 5_000)

    def _held(self, n: int) -> Event:
        return Held(reason=f"{IN_DOUBT}: calls" if self.state.in_doubt else "crash_loop")

    def _over(self, n: int) -> Event:
        if n % 4 == 0:
            return Compensated(undone=n % 5, successor="run-2" if n % 3 == 0 else "")
        if n % 3:
            return Finished(result=Body(b"result"))
        return Failed(error="no", is_cancelled=n % 2 == 0)

    def _checkpoint(self, n: int) -> Event:
        step = self.state.step + 1
        signals = tuple(self.state.signals)[: n % 3]
        return Checkpoint(step=step, step_high=step, code_version="v1", consumed=signals)


def play(numbers: Iterable[int]) -> History:
    history = History()
    for number in numbers:
        history.step(number)
    return history


CARRIED: Final = ("commands", "past", "tombstones")
"""What heads carry beside the records."""


def observed(state: RunState, *, has_bodies: bool = True) -> dict[str, Any]:
    """All that a state is, apart from what heads carry beside the records, and from references."""
    found = {name: value for name, value in vars(state).items() if name not in CARRIED}
    return {name: bare(value, has_bodies=has_bodies) for name, value in found.items()}


def bare(value: Any, *, has_bodies: bool = True) -> Any:
    """The same value wherever its bodies lie, and without the deltas, which heads keep apart."""
    if isinstance(value, Body):
        return Body(value.data if has_bodies else None)
    if isinstance(value, Checkpoint):
        value = dataclasses.replace(value, delta=NO_BODY)
    if isinstance(value, dict):
        return {key: bare(item, has_bodies=has_bodies) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        items = [bare(getattr(value, name), has_bodies=has_bodies) for name in names]
        return (type(value), items)
    return value


class Log(History):
    """Reads as a script: `log(event)` appends, `log.claim()` begins an epoch."""

    def __call__(self, *events: Event) -> None:
        for event in events:
            self.append(event)

    def claim(self, crashes: int = 0) -> None:
        self.append(Claimed(owner="pod.a", crashes=crashes), epoch=self.state.epoch + 1)

    def intent(
        self,
        call_class: CallClass = CallClass.ONCE,
        *,
        key: str = "k",
        step: int = 1,
        named: bool = False,
    ) -> int:
        at = self.seq + 1
        birth = Birth(
            key=key,
            step=step,
            tool="charge",
            call_class=call_class,
            fingerprint=b"f",
            is_named=named,
        )
        self(Intent(call=at, birth=birth))
        return at

    def send(self, call_class: CallClass = CallClass.ONCE, *, key: str = "k",
             step: int = 1, named: bool = False) -> int:  # fmt: skip
        number = self.intent(call_class, key=key, step=step, named=named)
        self(Dispatched(call=number, attempt=1))
        return number

    def done(self, number: int, kind: OutcomeKind = OutcomeKind.RESULT) -> None:
        self(CallOutcome(call=number, attempt=1, what="done", outcome=kind, body=Body(b"ok")))

    def checkpoint(self, step: int, consumed: tuple[int, ...] = ()) -> None:
        self(Checkpoint(step=step, step_high=step, consumed=consumed))
