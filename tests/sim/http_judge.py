"""What must hold of calls over HTTP: watched as they leave, as they are answered, as they are read.

The upstream keeps what it said, so that an answer can be held against it byte for byte.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import coatcheck
from coatcheck.wire import ErrorCode
from coatcheck_sidecar.core.call import is_kept
from coatcheck_sidecar.core.http_outcome import ending
from coatcheck_sidecar.core.model import Call, CallState
from coatcheck_sidecar.core.record import CallOutcome, Dispatched, Event, Resolved, decode_record
from coatcheck_sidecar.core.relay import header
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine import errand
from coatcheck_sidecar.engine.attempts import Go
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.engine.wanted import Wanted, outgoing
from coatcheck_sidecar.ports import Outgoing
from tests.sim.agent_plan import Act
from tests.sim.http_front import Reading, Serving, decision
from tests.sim.http_server import KEY, NAME, Said
from tests.sim.judge import Judge
from tests.sim.loop import Process
from tests.sim.upstream import UNDO

if TYPE_CHECKING:
    from tests.sim.world import Pod

CALL, ATTEMPT, RUN, EPOCH = "x-sim-call", "x-sim-attempt", "x-sim-run", "x-sim-epoch"
SERIAL: Final = re.compile(rb'"serial": (\d+)')


@dataclass(frozen=True, slots=True)
class Sent:
    """An attempt as it left: a run in its epoch, and which call."""

    id: str
    epoch: int
    key: str
    number: int
    attempt: int
    """0: any."""


class HttpJudge:
    """Collects what went wrong with calls over HTTP."""

    def __init__(self, judge: Judge, *, pod_of: "Callable[[Process], Pod]") -> None:
        self.acts: dict[str, Act] = {}
        """By name, those that are called over HTTP."""
        self.said: dict[int, Said] = {}
        self.failed: Callable[[str], None] = lambda fault: None
        self.undone_by: Callable[[Outgoing], str] = lambda request: ""
        """What a request takes back."""
        self._judge = judge
        self._pod_of = pod_of
        self._bodies: dict[str, bytes] = {}
        """By upstream key: what the agent was given."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Have each attempt of a known call say which it is."""

        def told(wanted: Wanted, go: Go) -> Outgoing:
            made, ask = outgoing(wanted, go), wanted.ask
            marks = {
                KEY: go.upstream_key,
                CALL: str(go.call.number),
                ATTEMPT: str(go.call.attempt),
                RUN: ask.run,
                EPOCH: str(go.call.epoch),
            }
            return replace(made, headers=(*made.headers, *marks.items()))

        with patch.object(errand, "outgoing", told):
            yield

    # As it leaves

    def asked(self, process: Process, request: Outgoing) -> None:
        """An attempt is to be made: somebody waits for it."""
        sent, pod = _sent(request), self._pod_of(process)
        name = header(request.headers, NAME)
        if sent is not None and name and pod.front is not None and not pod.front.listeners(name):
            self.failed(f"attempt {sent.attempt} at {name} is made, and its agent hung up")

    def leaving(self, process: Process, request: Outgoing) -> None:
        """Its first byte is about to go: it is not known already, and its record is durable."""
        sent, pod = _sent(request), self._pod_of(process)
        if sent is None:
            return
        name = header(request.headers, NAME) or self.undone_by(request)
        act = self.acts.get(name)
        if name.startswith(UNDO):
            of = self.acts[name.removeprefix(UNDO)]
            undo = Act(name, f"undo-{of.kind}", 0)
            self._judge.charging(sent, sent.key, act=undo, pod=pod, attempt=sent.attempt)
        elif act is None:
            self._judge.asked(sent, sent.key, pod=pod)
        else:
            self._judge.charging(sent, sent.key, act=act, pod=pod)
            if not self._is_durable(pod, sent, Dispatched):
                self.failed(f"attempt {sent.attempt} at {name} leaves, and its record is not kept")

    def _is_durable(self, pod: "Pod", sent: Sent, *kinds: type[Event]) -> bool:
        watch = self._judge.watch(sent.id)
        if Dispatched in kinds and sent.attempt in watch.attempts.get(sent.key, ()):
            return True
        if CallOutcome in kinds and sent.key in watch.done:
            return True
        rows = [row for row in pod.disk._rows.values() if row.run == sent.id]
        events = [decode_record(pod.spool.whole(row.data)).event for row in rows]
        return any(
            isinstance(event, kinds)
            and getattr(event, "call", 0) == sent.number
            and (not sent.attempt or getattr(event, "attempt", 0) == sent.attempt)
            for event in events
        )

    # As it is answered

    def gave(self, serving: Serving) -> None:
        """What the agent has by now looks like a whole answer: it is recorded, if it is kept."""
        reading, wanted, binding = serving.reading, serving.wanted, serving.binding
        if wanted is None or binding is None or decision(reading) in ("held", "refused"):
            return
        if not wanted.is_recorded or not _is_kept(reading, wanted):
            return
        keeper = binding.keeper
        call = _answered(keeper, wanted)
        if call is None:
            return
        sent = Sent(keeper.run, keeper.log.state.epoch, call.upstream_key, call.number, 0)
        pod = self._pod_of(serving.process)
        if call.state is not CallState.DONE or not self._is_durable(
            pod, sent, CallOutcome, Resolved
        ):
            self.failed(f"the answer to {serving.name} looks whole, and is not recorded")

    def refused(self, serving: Serving, error: Refusal) -> None:
        """The agent is told that nobody knows: then somebody can be asked."""
        if error.code is not ErrorCode.IN_DOUBT or serving.binding is None:
            return
        state = serving.binding.keeper.log.state
        named = [entry["call"] for entry in error.details.get("calls", ())]
        named += [error.details["call"]] if "call" in error.details else []
        if not any(number in state.calls and state.calls[number].is_unsettled for number in named):
            self.failed(f"{serving.name} is in doubt, and no doubt is listed: {error.message}")

    # As it is read

    def compared(self, name: str, first: Reading, second: Reading) -> None:
        """Answers to equal askings that were made at once."""
        if first.body != second.body:
            self.failed(f"{name} was asked for twice at once, and answered {first}, {second}")

    def received(
        self, run: coatcheck.Run, name: str, reading: Reading, *, pod: "Pod", level: str
    ) -> Any:
        """An answer that the agent takes for final; what it says."""
        found = SERIAL.search(reading.body)
        if found is None:
            return self._word(name, reading)
        said = self.said.get(int(found[1]))
        if said is None or said.name != name:
            self.failed(f"{name} is answered with {reading.body!r}, which was said to nobody")
            return None
        if (said.status, said.body) != (reading.status, reading.body):
            self.failed(
                f"{name} is answered ({decision(reading)}) with {reading.status} "
                f"{reading.body!r}: the upstream said {said.status} {said.body!r}"
            )
        given = self._bodies.get(said.key)
        if given not in (None, reading.body) and self._judge.is_kept(run, said.key):
            self.failed(f"{name} is answered otherwise than before: {reading.body!r}, {given!r}")
        self._bodies[said.key] = reading.body
        self._judge.acknowledged(run, said.key, pod=pod, level=level)
        return _told(said)

    def _word(self, name: str, reading: Reading) -> Any:
        """What an operator or a probe said of the call."""
        try:
            return json.loads(reading.body)
        except ValueError:
            self.failed(f"{name} is answered with {reading.body!r}, which nobody said")


def _sent(request: Outgoing) -> Sent | None:
    marks = {name: header(request.headers, name) for name in (RUN, EPOCH, KEY, CALL, ATTEMPT)}
    if not marks[RUN]:
        return None
    return Sent(marks[RUN], int(marks[EPOCH]), marks[KEY], int(marks[CALL]), int(marks[ATTEMPT]))


def _is_kept(reading: Reading, wanted: Wanted) -> bool:
    found = ending(
        reading.status,
        profile=wanted.tool.profile,
        has_retry_after=bool(header(reading.headers, "retry-after")),
    )
    return is_kept(found, wanted.ask.call_class)


def _answered(keeper: Keeper, wanted: Wanted) -> Call | None:
    """The newest call of this request."""
    ask = wanted.ask
    calls = [
        call
        for call in keeper.log.state.calls.values()
        if call.fingerprint == ask.fingerprint and call.tool == ask.tool and call.step == ask.step
    ]
    return calls[-1] if calls else None


def _told(said: Said) -> Any:
    text = said.body.decode()
    if text.startswith("data: "):
        text = text.partition("\n")[0].removeprefix("data: ")
    return json.loads(text)
