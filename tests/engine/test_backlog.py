"""What a sidecar tells of runs that wait, its own or not; and of how their last owner went."""

from dataclasses import replace

from coatcheck_sidecar.core.drain import left_by
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.engine import backlog
from coatcheck_sidecar.engine.backlog import Backlog, Queued
from tests.engine.harness import FAST, Link, Pod, Yard, until


def link(yard: Yard) -> Link:
    assert isinstance(yard.store, Link)
    return yard.store


async def look(pod: Pod) -> Backlog:
    seen = Backlog(pod.sidecar.doors)
    await seen.look()
    return seen


async def test_runs_that_nobody_owns_are_counted_by_their_markers(yard: Yard) -> None:
    pod = await yard.pod()
    for run, reason in (("r1", "left"), ("r2", "left"), ("r3", "held")):
        agent = await pod.agent(run)
        await agent.ask("release", {"reason": reason, "error": "look at this"})
    seen = (await look(pod)).seen
    assert seen["ready", "default"].runs == 2
    assert seen["held", "default"].runs == 1
    assert 0 <= seen["held", "default"].oldest_s < 30
    assert seen["parked", "default"] == Queued(0, 0.0)
    (held,) = pod.notes.of("held")
    assert (held["run"], held["why"]) == ("r3", "held")


async def test_nothing_is_told_while_the_store_is_away(yard: Yard) -> None:
    pod = await yard.pod()
    seen = await look(pod)
    assert seen.seen
    link(yard).is_away = True
    await seen.look()
    assert not seen.seen
    assert pod.notes.of("look_failed")


async def test_a_queue_too_many_is_counted_with_others(yard: Yard) -> None:
    pod = await yard.pod()
    for number in range(backlog.QUEUES_MAX + 5):
        await link(yard).put(f"ready/q{number:03}/r/1", b"-")
    seen = (await look(pod)).seen
    assert len(seen) == backlog.QUEUES_MAX + 1
    assert sum(queued.runs for queued in seen.values()) == backlog.QUEUES_MAX + 5


async def test_each_way_of_a_crash_is_counted(yard: Yard) -> None:
    pod = await yard.pod()
    first = await pod.agent("r1")
    await first.drop()
    await until(lambda: pod.sidecar.keepers["r1"].agent is None)
    second = await pod.agent("r1")
    await second.ask("release", {"reason": "error", "error": "KeyError"})
    assert [note["how"] for note in pod.notes.of("crashed")] == ["agent", "error"]


async def test_the_next_owner_tells_how_the_last_drain_went(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, grace_s=0.6))
    for run in ("r1", "r2"):
        await pod.agent(run)
    pod.sidecar.drain.signalled()
    await until(lambda: pod.sidecar.drain.is_released.is_set())
    assert (await yard.log()).state.reason == "draining, cut, no hook"
    heir = await yard.pod()
    await heir.agent("r1")
    (told,) = heir.notes.of("inherited")
    waited_s = told.pop("waited_s")
    assert isinstance(waited_s, float)
    assert 0 <= waited_s < 10
    assert told == {"run": "r1", "hook": "missed", "stop": "cut", "epoch": 1, "step": 1}
    (claimed,) = heir.notes.of("claimed")
    assert (claimed["epoch"], claimed["step"]) == (2, 1)
    assert {note["step"] for note in pod.notes.of("let_go")} == {1}
    assert (await yard.log("r2")).state.status is Status.READY


def test_other_reasons_are_no_drain() -> None:
    assert left_by("draining") == ("seen", "boundary")
    assert left_by("drainingly") is None
    assert left_by("left") is None


async def test_a_stray_object_is_no_run(yard: Yard) -> None:
    pod = await yard.pod()
    await link(yard).put("held/note.txt", b"-")
    assert (await look(pod)).seen["held", "default"].runs == 0
    assert ("held", "note.txt") not in (await look(pod)).seen
