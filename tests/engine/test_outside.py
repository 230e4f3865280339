import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgpack
import pytest

from coatcheck.wire import ErrorCode
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.command import Command, decide_command, decode_command
from coatcheck_sidecar.core.doubt import Rules
from coatcheck_sidecar.core.model import Body, CallClass, Status
from coatcheck_sidecar.core.ownership import Heartbeat, encode_heartbeat, summary_of
from coatcheck_sidecar.core.patch_delta import NewState
from coatcheck_sidecar.core.record import (
    Birth,
    CallOutcome,
    Checkpoint,
    Claimed,
    Created,
    Dispatched,
    Event,
    Held,
    Intent,
    Parked,
    Released,
)
from coatcheck_sidecar.core.runlog import RunLog
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine import outside as outside_module
from coatcheck_sidecar.engine.budget import Budget
from coatcheck_sidecar.engine.lane import Lane
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.restore import read_head, read_run
from coatcheck_sidecar.engine.settings import Settings
from coatcheck_sidecar.engine.shipper import Doors, Shipper, marker_name
from coatcheck_sidecar.ports import Store, StoreError
from coatcheck_sidecar.stores.directory import DirectoryStore
from coatcheck_sidecar.stores.memory import MemoryStore

BIG = b"b" * 10_000
OWNER = "pod1.s1"
SENT_MS = 1_000
BIRTH = Birth(key="k", step=2, tool="charge", call_class=CallClass.ONCE, fingerprint=b"f")
RULES = Rules(pause_max_s=10, key_margin_s=60)


@pytest.fixture(params=["memory", "directory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    clock = SystemClock()
    made: Store = MemoryStore(now_ms=clock.wall_ms)
    if request.param == "directory":
        made = DirectoryStore(tmp_path / "store", clock=clock)
    yield made
    await made.close()


@pytest.fixture
def outside(store: Store, monkeypatch: pytest.MonkeyPatch) -> Outside:
    monkeypatch.setattr(outside_module, "POLL_S", 0.005)
    return Outside(store, SystemClock())


class Silent:
    def note(self, event: str, /, **fields: object) -> None:
        pass


def doors(store: Store) -> Doors:
    clock, settings, silent = SystemClock(), Settings(), Silent()
    budget = Budget(clock, settings=settings, observer=silent)
    return Doors(store, clock, settings, silent, asyncio.Semaphore(16), Lane(16), budget)


async def ship(store: Store, log: RunLog, *events: Event) -> RunLog:
    for event in events:
        if isinstance(event, Claimed):
            log.claim(event, at_ms=SENT_MS)
        else:
            log.append(event, at_ms=SENT_MS)
    await Shipper(log, doors(store)).ship_all()
    return log


async def owned(store: Store, run: str = "r1", *, owner: str = OWNER, queue: str = "q") -> RunLog:
    """A run with a checkpoint, as its owner has it."""
    log = await ship(store, RunLog(RunState(run)), Created(queue=queue), Claimed(owner=owner))
    state = b"state of " + run.encode()
    draft = log.draft(NewState(state))
    step = Checkpoint(step=1, step_high=1, delta=Body(draft.delta))
    log.commit(step, draft.state, at_ms=SENT_MS)
    return await ship(store, log)


DOUBT = (
    Intent(call=4, birth=BIRTH),
    Dispatched(call=4, attempt=1),
    CallOutcome(call=4, attempt=1, what="in_doubt", reason="lost"),
)


async def beat(store: Store, *logs: RunLog, owner: str = OWNER) -> None:
    runs = tuple(
        summary_of(log.snapshot(nonce=b"", random=b"").head, in_doubt=len(log.state.in_doubt))
        for log in logs
    )
    data = encode_heartbeat(Heartbeat(owner, 1, runs=runs))
    await store.put(f"owners/{owner}/heartbeat", data)


async def names(store: Store, prefix: str) -> list[str]:
    return [entry.name for entry in await store.list(prefix)]


def cancel(run: str = "r1", id: str = "c1") -> Command:
    return Command(id=id, run=run, what="cancel", by="ann", why="typo")


def resolve(verdict: str = "applied", *, call: int = 4, force: bool = False) -> Command:
    value = msgpack.packb({"id": "ch_1"})
    return Command(
        id="c1", run="r1", what="resolve", by="ann", call=call, verdict=verdict, force=force,
        value=value,
    )  # fmt: skip


# Reading


async def test_a_listing_is_made_of_heartbeats_and_markers(store: Store, outside: Outside) -> None:
    first = await ship(store, await owned(store), *DOUBT)
    await beat(store, first)
    await ship(store, await owned(store, "r2"), Released(reason="draining"))
    await ship(store, await owned(store, "r3"), Held(reason="crash_loop"))
    await ship(store, await owned(store, "r4"), Parked(name="approval"))
    await owned(store, "unseen")
    lines = await outside.list_runs()
    assert [(line.summary.run, line.summary.status) for line in lines] == [
        ("r1", "owned"), ("r2", "ready"), ("r3", "held"), ("r4", "parked"),
    ]  # fmt: skip
    assert lines[0].owner == OWNER
    assert lines[0].summary.in_doubt == 1
    assert lines[0].silent_s is not None
    assert lines[0].silent_s < 10
    assert [line.summary.run for line in await outside.list_runs(limit=2)] == ["r1", "r2"]


async def test_what_is_newer_wins_and_damage_hides_nothing_else(
    store: Store, outside: Outside
) -> None:
    log = await owned(store)
    await beat(store, log, owner="dead.s0")
    await ship(store, log, Released(reason="draining"))
    await store.put("owners/broken.s1/heartbeat", b"junk")
    await store.put("ready/q/junk/1", b"junk")
    assert [line.summary.status for line in await outside.list_runs()] == ["ready"]
    await ship(store, log, Claimed(owner="pod2.s1"))
    await beat(store, log, owner="pod2.s1")
    (line,) = await outside.list_runs()
    assert (line.summary.status, line.owner) == ("owned", "pod2.s1")


async def test_all_reads_heads_past_any_number_of_objects(
    store: Store, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside_module, "PAGE", 3)
    for run in ("a", "a-b", "a.b", "b", "c"):
        await owned(store, run)
        for number in range(5):
            await store.put(f"runs/{run}/o/1-{number}-x", b"x")
    await store.put("runs/broken/head", b"junk")
    lines = await outside.list_runs(is_all=True)
    assert [line.summary.run for line in lines] == ["a", "a-b", "a.b", "b", "c"]
    assert {line.summary.step for line in lines} == {1}
    assert len(await outside.list_runs(is_all=True, limit=2)) == 2


async def test_a_run_is_shown_whole(store: Store, outside: Outside) -> None:
    await owned(store)
    shown = await outside.show("r1")
    assert shown.log.checkpoint_bytes == b"state of r1"
    with pytest.raises(Refusal, match="there is no run r9"):
        await outside.show("r9")
    with pytest.raises(Refusal, match="no run's name"):
        await outside.show("../x")


async def test_doubts_of_one_run_and_of_all(store: Store, outside: Outside) -> None:
    log = await ship(store, await owned(store), *DOUBT)
    await beat(store, log)
    second = await ship(store, await owned(store, "r2"), *DOUBT)
    await ship(store, second, Held(reason="in_doubt: calls [4]"))
    (doubt,) = await outside.doubts("r1")
    assert (doubt.call.number, doubt.call.tool, doubt.call.reason) == (4, "charge", "lost")
    assert [(d.run, d.queue) for d in await outside.doubts()] == [("r1", "q"), ("r2", "q")]


# Submitting


async def test_a_submitted_run_is_ready_and_its_marker_was_first(
    store: Store, outside: Outside
) -> None:
    created = Created(queue="mail", input=Body(BIG), schema=3, code_version="v2", pinned=True)
    assert await outside.submit(created, run="new")
    head, _ = (await read_head(store, "new")) or pytest.fail("no head")
    assert (head.status, head.epoch, head.queue, head.state_schema) == (
        Status.READY, 0, "mail", 3,
    )  # fmt: skip
    assert await names(store, "ready/") == ["ready/mail/new/0"]
    assert (await outside.show("new")).log.state.created.input is not None
    assert not await outside.submit(created, run="new")
    with pytest.raises(Refusal, match="another input") as caught:
        await outside.submit(Created(queue="mail", input=Body(b"\x01")), run="new")
    assert caught.value.code is ErrorCode.CONFLICT


async def test_many_who_submit_at_once_make_one_run(store: Store) -> None:
    created = Created(input=Body(b"\x01"))
    all_at_once = [Outside(store, SystemClock()).submit(created, run="new") for _ in range(8)]
    assert sorted(await asyncio.gather(*all_at_once)) == [False] * 7 + [True]


# Commands for runs that nobody owns


async def test_an_unowned_run_is_appended_to_under_a_new_epoch(
    store: Store, outside: Outside
) -> None:
    log = await ship(store, await owned(store), Parked(name="approval"))
    assert await names(store, "parked/") == ["parked/q/r1/1"]
    signal = Command(id="c1", run="r1", what="signal", by="a", name="approval", value=BIG)
    done = await outside.command(signal)
    assert (done.refused, done.status) == ("", Status.READY)
    found = await outside.show("r1")
    assert (found.head.epoch, found.head.status) == (2, Status.READY)
    assert [s.value.data for s in found.log.state.signals.values()] == [BIG]
    assert found.log.checkpoint_bytes == b"state of r1"
    assert await names(store, "parked/") == []
    assert await names(store, "ready/") == ["ready/q/r1/2"]
    with pytest.raises(Refusal, match="newer owner"):
        await ship(store, log, Claimed(owner=OWNER))


async def test_a_command_is_carried_out_once(store: Store, outside: Outside) -> None:
    await ship(store, await owned(store), Held(reason="crash_loop"))
    retry = Command(id="c1", run="r1", what="retry", by="ann")
    assert (await outside.command(retry)).refused == ""
    again = await outside.command(retry)
    assert (again.refused, again.status) == ("", Status.READY)
    assert (await outside.show("r1")).head.epoch == 2


async def test_a_refused_command_leaves_an_unowned_run_as_it_is(
    store: Store, outside: Outside
) -> None:
    await ship(store, await owned(store), *DOUBT, Held(reason="in_doubt: calls [4]"))
    done = await outside.command(resolve(call=99))
    assert (done.refused, done.status) == ("call 99: no_such_call", Status.HELD)
    assert (await outside.show("r1")).head.epoch == 1
    assert await names(store, "held/") == ["held/q/r1/1"]


async def test_resolving_the_last_doubt_makes_a_held_run_ready(
    store: Store, outside: Outside
) -> None:
    await ship(store, await owned(store), *DOUBT, Held(reason="in_doubt: calls [4]"))
    assert (await outside.command(resolve())).status is Status.READY
    call = (await outside.show("r1")).log.state.calls[4]
    assert call.outcome is not None
    assert msgpack.unpackb(call.outcome.body.data or b"") == {"id": "ch_1"}
    assert await names(store, "held/") == []


async def test_a_cancelled_run_leaves_no_marker(store: Store, outside: Outside) -> None:
    await ship(store, await owned(store), Released(reason="left"))
    assert (await outside.command(cancel())).status is Status.CANCELLED
    assert await names(store, "ready/") == []
    late = await outside.command(cancel(id="c2"))
    assert late.refused == "run r1 is cancelled"


async def test_commands_of_many_at_once_are_all_carried_out(store: Store) -> None:
    await ship(store, await owned(store), Parked(name="x"))
    signals = [
        Command(id=f"c{n}", run="r1", what="signal", by="a", name="y", value=b"\x01")
        for n in range(8)
    ]
    dones = await asyncio.gather(*(Outside(store, SystemClock()).command(c) for c in signals))
    assert {done.refused for done in dones} == {""}
    found = await read_run(store, "r1", bytes_max=1000)
    assert found is not None
    assert len(found.log.state.signals) == 8
    assert set(found.head.commands) == {command.id for command in signals}
    assert await names(store, "parked/") == [marker_name(found.head)]


# Commands for owned runs


async def obey(store: Store, log: RunLog, owner: str) -> None:
    """What an owner does at a heartbeat."""
    while True:
        for name in await names(store, f"owners/{owner}/in/r1-"):
            stored = await store.get(name)
            if stored is not None:
                command = decode_command(name, stored.data)
                events = decide_command(log.state, command, now_ms=10**6, rules=RULES)
                await ship(store, log, *events)
                await store.delete(name)
                return
        await asyncio.sleep(0.002)


async def placed(store: Store) -> None:
    for _ in range(1_000):
        if await names(store, f"owners/{OWNER}/in/"):
            return
        await asyncio.sleep(0.002)
    pytest.fail("no command was put into the inbox")


async def test_an_owned_run_is_left_to_its_owner(store: Store, outside: Outside) -> None:
    log = await ship(store, await owned(store), *DOUBT)
    done, _ = await asyncio.gather(outside.command(resolve()), obey(store, log, OWNER))
    assert (done.refused, done.status) == ("", Status.OWNED)
    assert (await outside.show("r1")).head.epoch == 1
    assert await names(store, f"owners/{OWNER}/in/") == []


async def test_an_owners_refusal_comes_back(store: Store, outside: Outside) -> None:
    log = await owned(store)
    done, _ = await asyncio.gather(outside.command(resolve()), obey(store, log, OWNER))
    assert done.refused == "call 4: no_such_call"


async def test_a_command_follows_its_run_to_the_next_owner(store: Store, outside: Outside) -> None:
    log = await owned(store)

    async def take_over() -> None:
        await placed(store)
        await ship(store, log, Claimed(owner="pod2.s1", cause="takeover"))
        await obey(store, log, "pod2.s1")

    done, _ = await asyncio.gather(outside.command(cancel()), take_over())
    assert done.status is Status.CANCELLED
    assert await names(store, f"owners/{OWNER}/in/") == []


async def test_a_command_goes_on_by_itself_when_the_owner_lets_go(
    store: Store, outside: Outside
) -> None:
    log = await owned(store)

    async def let_go() -> None:
        await placed(store)
        await ship(store, log, Released(reason="draining"))

    done, _ = await asyncio.gather(outside.command(cancel()), let_go())
    assert done.status is Status.CANCELLED
    assert (await outside.show("r1")).head.epoch == 2
    assert await names(store, "owners/") == []
    assert await names(store, "ready/") == []


async def test_an_owner_that_is_silent_keeps_the_command(store: Store, outside: Outside) -> None:
    await owned(store)
    with pytest.raises(Refusal, match=f"lies with {OWNER}"):
        await outside.command(cancel(), timeout_s=0.05)
    assert await names(store, f"owners/{OWNER}/in/") == [f"owners/{OWNER}/in/r1-c1"]


class Away(MemoryStore):
    """Answers reads, and no write."""

    is_away = False

    async def swap(self, name: str, data: bytes, *, expected: str | None) -> str:
        if self.is_away:
            raise StoreError("the link is down")
        return await super().swap(name, data, expected=expected)


async def test_a_store_that_does_not_answer_is_named_in_the_end() -> None:
    clock = SystemClock()
    store = Away(now_ms=clock.wall_ms)
    await ship(store, await owned(store), Released(reason="left"))
    store.is_away = True
    with pytest.raises(Refusal, match="the link is down"):
        await Outside(store, clock).command(cancel(), timeout_s=0.5)
    store.is_away = False
    assert (await Outside(store, clock).command(cancel())).status is Status.CANCELLED


async def test_there_must_be_a_run(outside: Outside) -> None:
    with pytest.raises(Refusal, match="there is no run r1"):
        await outside.command(cancel())
