"""Runs that outlast their pods, in a week of virtual time: `python -m tests.sim.week parked 1`.

A program of its own: dead worlds complain when they are cleaned up, so they are not.
"""

import asyncio
import gc
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import msgpack

import coatcheck
from coatcheck.errors import CoatcheckError
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.record import Created
from coatcheck_sidecar.engine.outside import Done, Outside
from tests.sim.compare import restored_state
from tests.sim.loop import Process, this_process
from tests.sim.store import ReachedStore
from tests.sim.world import SETTINGS, Pod, World, virtual_machine

HOUR_S = 3_600.0
DAY_S = 24 * HOUR_S
SLOW = replace(
    SETTINGS, heartbeat_s=60.0, lease_s=180.0, agent_wait_s=180.0, claim_poll_s=60.0, grace_s=30.0
)
"""A week of heartbeats every second would be a test of patience."""
RUN = "bill"
CALLBACKS_MAX = 20_000_000
"""A busy loop has them in a minute of virtual time."""


class Agent:
    """Asks for work for ever; a bill is looked at, approved by somebody, and paid."""

    async def main(self, socket: str) -> None:
        this_process().socket = socket
        while True:
            with suppress(CoatcheckError):
                async for run in coatcheck.claim_runs(schema=1):
                    await self._work(run)
            await asyncio.sleep(1.0)  # the pod drains, or isn't there yet

    async def _work(self, run: coatcheck.Run) -> None:
        async with run:
            state = run.state or {"looked": 0}
            async for step in run.steps():
                if not state["looked"]:
                    await asyncio.sleep(2.0)
                    state = {"looked": 1}
                    await step.commit(state)
                    continue
                value = await run.wait_for("approval", {"amount": 4711})
                await run.finish({"approved": value, **state})


class Week:
    """A world with one run, one pod at a time, and one person."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.world.settings = SLOW
        self.world.judge.lease_s = SLOW.lease_s
        self.pod = self._pod()

    @property
    def head(self) -> Head:
        head = self.world.judge.watch(RUN).head
        assert head is not None
        return head

    def _pod(self) -> Pod:
        world, pod = self.world, self.world.new_pod(agents=0)
        process = world.process(f"{pod.uid}-agent", pod.clock)
        pod.agents = [process]
        world.loop.start(process, Agent().main(pod.socket))
        return pod

    def deploy(self) -> None:
        """A new pod comes, the old one drains, and is gone with all that it had."""
        old, self.pod = self.pod, self._pod()
        assert old.sidecar is not None
        assert old.process is not None
        ended = self.world.loop.start(old.process, self._drained(old))
        self.go_on(SLOW.grace_s)
        assert ended.result()
        for process in old.processes:
            self.world.kill(old, process)
        old.is_gone = True

    async def _drained(self, pod: Pod) -> bool:
        assert pod.sidecar is not None
        pod.sidecar.drain.begin("preStop")
        return await pod.sidecar.drain.finish()

    def go_on(self, seconds: float) -> None:
        """Let time pass; an hour at most between two looks at who holds what."""
        until_s = self.world.loop.now_s + seconds
        while self.world.loop.now_s < until_s:
            self.world.loop.run(until_s=min(until_s, self.world.loop.now_s + HOUR_S))
            assert not self.world.fault, self.world.fault
            if self.head.status is Status.PARKED:
                assert self.nobody_has_it

    @property
    def nobody_has_it(self) -> bool:
        pods = [pod for pod in self.world.pods if pod.sidecar is not None and not pod.is_gone]
        return not any(pod.sidecar.keepers for pod in pods if pod.sidecar is not None)

    def ask(self, work: Any) -> Any:
        """A person's command, to its end."""
        person: Process = self.world.process("person", self.world.clock())
        task = self.world.loop.start(person, work(self._outside(person)))
        until_s = self.world.loop.now_s + HOUR_S
        while not task.done() and self.world.loop.now_s < until_s:
            self.world.loop.run(until_s=self.world.loop.now_s + 1.0)
        return task.result()

    def _outside(self, person: Process) -> Outside:
        return Outside(ReachedStore(self.world.shared), person.clock, settings=SLOW)

    def signal(self, value: Any) -> Done:
        command = Command(
            id="s1", run=RUN, what="signal", by="ann", name="approval", value=msgpack.packb(value)
        )
        done: Done = self.ask(lambda outside: outside.command(command))
        return done


@contextmanager
def a_week(seed: int, *, deadline_s: float | None = None) -> Iterator[Week]:
    """A run is parked, and has been for an hour."""
    week = Week(seed)
    with (
        virtual_machine(is_small=False),
        week.world.judge.listening(),
        patch("tests.sim.loop.CALLBACKS_MAX", CALLBACKS_MAX),
    ):
        made = Created(queue="default")
        assert week.ask(lambda o: o.submit(made, run=RUN, deadline_s=deadline_s))
        week.go_on(HOUR_S)
        assert week.head.status is Status.PARKED
        yield week


def parked(seed: int) -> None:
    """A parked run goes on after a week and three deploys."""
    with a_week(seed) as week:
        before = week.head
        for _ in range(3):
            week.go_on(2 * DAY_S)
            week.deploy()
        week.go_on(DAY_S)
        assert week.head.nonce == before.nonce  # a week, and nobody had a reason to touch it
        assert week.world.loop.now_s > 7 * DAY_S
        shown = week.ask(lambda outside: outside.show(RUN))
        assert msgpack.unpackb(shown.log.state.parked.payload.data) == {"amount": 4711}
        assert week.signal({"yes": True}).status is Status.READY
        week.go_on(10 * 60.0)
        state = restored_state(week.head, week.world.shared.peek)
        assert not isinstance(state, str)
        assert (state.status, state.step, state.epoch) == (Status.FINISHED, 1, 3)
        assert state.result is not None
        told = msgpack.unpackb(state.result.data or b"")
        assert told == {"approved": {"yes": True}, "looked": 1}


def late(seed: int) -> None:
    """A parked run's deadline comes while nobody has it.

    Clocks of pods are seconds off and drift by a minute in three days; the store's counts.
    """
    with a_week(seed, deadline_s=3 * DAY_S) as week:
        week.go_on(DAY_S)
        week.deploy()
        week.go_on(2 * DAY_S - 2 * HOUR_S)
        assert week.head.status is Status.PARKED
        week.go_on(HOUR_S + 10 * 60.0)
        assert str(week.head.status) == "failed"
        assert week.head.reason.startswith("deadline_exceeded: its deadline was ")
        state = restored_state(week.head, week.world.shared.peek)
        assert not isinstance(state, str)
        ended = state.records[week.head.seq]
        late_s = (ended.at_ms - state.created.deadline_ms) / 1000
        assert -5.0 <= late_s <= 2 * SLOW.heartbeat_s
        assert "is failed" in week.signal(True).refused


SCENARIOS = {"parked": parked, "late": late}

if __name__ == "__main__":
    gc.disable()
    code = 0
    try:
        SCENARIOS[sys.argv[1]](int(sys.argv[2]))
    except BaseException:
        code = 1
        traceback.print_exc()
    print(f"{' '.join(sys.argv[1:])}: {'failed' if code else 'holds'}", flush=True)
    os._exit(code)
