"""The count that scalers go by, over a real engine's markers, heartbeats and heads."""

from typing import Any

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.layout import head_name
from coatcheck_sidecar.core.model import Status
from coatcheck_sidecar.core.ownership import RunSummary, encode_summary
from coatcheck_sidecar.core.record import Created
from coatcheck_sidecar.core.waiting import Waiting
from coatcheck_sidecar.engine import lookout
from coatcheck_sidecar.engine.lookout import Lookout
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.ports import Listed, Store, StoreError
from tests.engine.harness import Pod, Yard, link, until
from tests.engine.http_agent import Agent, Http, serving


async def seen(yard: Yard, queue: str = "default") -> Waiting:
    (found,) = (await Lookout(yard.store, SystemClock()).look(queue)).queues
    return found


async def test_a_run_is_counted_wherever_it_goes(yard: Yard) -> None:
    outside = Outside(yard.store, SystemClock())
    assert await seen(yard) == Waiting(queue="default")
    await outside.submit(Created(queue="default"), run="r1")
    assert await seen(yard) == Waiting(queue="default", ready=1)
    pod = await yard.pod()
    agent = await pod.agent(None)
    assert (await seen(yard)).wanted == 1  # by its marker, until a heartbeat names it
    await until(lambda: yard_has_dropped(yard))
    assert await seen(yard) == Waiting(queue="default", owned=1)
    with pytest.raises(Exception, match="parked"):
        await agent.ask("wait", {"name": "go", "step": 1})
    await until(lambda: is_parked(yard))
    await agent.drop()
    await pod.sidecar.heart.stop()
    await pod.die()
    parked = await seen(yard)
    assert (parked.parked, parked.wanted) == (1, 0)
    order = Command(id="c1", run="r1", what="signal", by="ann", name="go", value=b"\xc3")
    await outside.command(order)
    assert await seen(yard) == Waiting(queue="default", ready=1)


async def yard_has_dropped(yard: Yard) -> bool:
    return not await yard.store.list("ready/")


async def is_parked(yard: Yard) -> bool:
    return bool(await yard.store.list("parked/"))


async def test_runs_of_a_pod_that_died_are_wanted_until_somebody_has_them(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = await yard.pod("dead.s1")
    await dead.agent("r1")
    await dead.agent("r2")
    await until(lambda: names_two(yard))
    await dead.die()
    last_words = await yard.store.get("owners/dead.s1/heartbeat")
    assert last_words is not None
    assert (await seen(yard)).owned == 2
    monkeypatch.setattr(lookout, "SILENT_S", -1.0)  # of old the heartbeat proves nothing
    assert (await seen(yard)).owned == 2
    head = await yard.store.get(head_name("r2"))
    assert head is not None
    await yard.store.put(head_name("r2"), b"junk")
    assert (await seen(yard)) == Waiting(queue="default", owned=1, held=1)
    await yard.store.put(head_name("r2"), head.data)
    pod = await yard.pod("alive.s1")
    for run in ("r1", "r2"):
        agent = await pod.agent(run, wait_s=3.0)
        await agent.finish()
    await yard.store.put("owners/dead.s1/heartbeat", last_words.data)  # if it was buried
    assert (await seen(yard)).wanted == 0


async def names_two(yard: Yard) -> bool:
    (found,) = (await Lookout(yard.store, SystemClock()).look("default")).queues
    return found.owned == 2


def marker(run: str, *, due_ms: int = 0, status: Status = Status.READY) -> tuple[str, bytes]:
    summary = RunSummary(run=run, epoch=1, status=status.value, not_before_ms=due_ms)
    return f"{status.value}/default/{run}/1", encode_summary(summary)


async def test_markers_are_read_once_and_what_is_due_later_is_told_apart(yard: Yard) -> None:
    now_ms = SystemClock().wall_ms()
    await yard.store.put(*marker("r1", due_ms=now_ms + 60_000))
    await yard.store.put(*marker("r2"))
    await yard.store.put("ready/default/r3/1", b"junk")
    await yard.store.put("ready/default/r4", b"no marker")
    await yard.store.put(*marker("r5", status=Status.COMPENSATING))
    store = Counting(yard.store)
    lookout = Lookout(store, SystemClock())
    for _ in range(2):
        (found,) = (await lookout.look()).queues
        assert found == Waiting(queue="default", ready=2, later=1, undoing=1)
    assert store.gets == 4  # of `ready/`, once each
    await yard.store.delete("ready/default/r1/1")
    assert (await lookout.look()).wanted == 3


class Counting:
    """Another store's eyes; it has no hands."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.gets = 0

    def __getattr__(self, name: str) -> Any:
        if name == "get":
            self.gets += 1
        assert name in ("get", "list"), f"a look used {name}"
        return getattr(self.store, name)


async def test_a_listing_is_bounded_and_says_so(yard: Yard) -> None:
    for number in range(5):
        await yard.store.put(*marker(f"r{number}"))
    lookout = Lookout(yard.store, SystemClock())
    cut = await lookout.look(limit=3)
    assert (cut.wanted, cut.is_cut) == (3, True)
    whole = await lookout.look(limit=5)
    assert (whole.wanted, whole.is_cut) == (5, False)


async def test_a_run_that_is_let_go_of_in_the_middle_of_a_look_is_seen(yard: Yard) -> None:
    """Released between the listing of markers and that of heartbeats."""

    class Late:
        def __init__(self, store: Store) -> None:
            self.store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self.store, name)

        async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Listed]:
            if prefix == "owners/":
                await self.store.put(*marker("r1"))
            return await self.store.list(prefix, after=after, limit=limit)

    assert (await Lookout(Late(yard.store), SystemClock()).look()).wanted == 1


async def test_the_run_api_tells_of_all_queues_and_of_one(pod: Pod, yard: Yard) -> None:
    async with serving(pod, yard) as http:
        assert await http.get("/v1/queue") == {"wanted": 0, "queues": [], "is_cut": False}
        await Agent.open(http, "r1", queue="mail")
        await until(lambda: is_told(http))
        told = await http.get("/v1/queues/mail")
        assert (told["wanted"], told["owned"], told["is_cut"]) == (1, 1, False)
        other = await http.get("/v1/queues/other")
        assert (other["queue"], other["wanted"]) == ("other", 0)
        await Agent.ask(await Agent.open(http, "r2", queue="mail"), "release")


async def is_told(http: Http) -> bool:
    return bool((await http.get("/v1/queue"))["wanted"] == 1)


async def test_while_the_store_is_away_there_is_no_number(yard: Yard) -> None:
    link(yard).is_away = True
    with pytest.raises(StoreError):
        await Lookout(yard.store, SystemClock()).look()
