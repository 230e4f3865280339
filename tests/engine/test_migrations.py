"""States of an older schema are lifted by the agent that takes the run, at each opening."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import coatcheck
from coatcheck import sync
from coatcheck.errors import SchemaMismatch
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.ownership import Accepts
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.restore import read_head
from tests.engine.harness import Pod, Yard

Lifts = dict[int, Callable[[Any], Any]]
LIFTS: Lifts = {
    1: lambda state: {"log": state, "lifted": [1]},
    2: lambda state: {**state, "lifted": [*state["lifted"], 2]},
}


@pytest.fixture(autouse=True)
def socket(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_SOCKET", str(pod.path))


async def begun(run: str = "r1") -> None:
    """A run with a checkpoint of schema 1."""
    async with coatcheck.open_run(run, schema=1) as opened:
        await opened.commit(["one"], durability="remote")


async def schema_of(yard: Yard, run: str = "r1") -> int:
    found = await read_head(yard.store, run)
    assert found is not None
    return found[0].state_schema


async def test_an_older_state_is_lifted_step_by_step_and_committed_as_new(yard: Yard) -> None:
    await begun()
    async with coatcheck.open_run("r1", schema=3, migrate=LIFTS) as run:
        assert run.state == {"log": ["one"], "lifted": [1, 2]}
    assert await schema_of(yard) == 1  # nothing was committed: it is lifted again
    async with coatcheck.open_run("r1", schema=3, migrate=LIFTS) as run:
        assert run.state["lifted"] == [1, 2]
        await run.commit(run.state, durability="remote")
    assert await schema_of(yard) == 3
    async with coatcheck.open_run("r1", schema=3, migrate=LIFTS) as run:
        assert run.state["lifted"] == [1, 2]


async def test_without_asyncio_too() -> None:
    await begun()

    def work() -> Any:
        with sync.open_run("r1", schema=3, migrate=LIFTS) as run:
            return run.state

    assert (await asyncio.to_thread(work))["lifted"] == [1, 2]


async def test_a_queue_gives_a_run_to_whoever_lifts_it(yard: Yard, pod: Pod) -> None:
    await begun()

    async def taken(**options: Any) -> Any:
        async for run in coatcheck.claim_runs(**options):
            async with run:
                return run.state

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await taken(schema=3)
    assert pod.notes.of("not_accepted")
    async with asyncio.timeout(5):
        assert (await taken(schema=3, migrate=LIFTS))["lifted"] == [1, 2]


async def test_a_new_run_and_one_without_a_checkpoint_have_nothing_to_lift() -> None:
    for _ in range(2):
        async with coatcheck.open_run("r1", schema=3, migrate=LIFTS) as run:
            assert run.state is None


async def test_nobody_lifts_downwards_or_what_is_too_old(yard: Yard) -> None:
    async with coatcheck.open_run("r1", schema=3) as run:
        await run.commit({}, durability="remote")
    with pytest.raises(SchemaMismatch, match="has schema 3, this agent takes 2: deploy"):
        await coatcheck.open_run("r1", schema=2, wait_s=0).__aenter__()
    await begun("r2")
    only_last: Lifts = {2: LIFTS[2]}
    with pytest.raises(
        SchemaMismatch,
        match="has schema 1, this agent takes 2 to 3: deploy one that takes it or lifts it",
    ):
        await coatcheck.open_run("r2", schema=3, migrate=only_last, wait_s=0).__aenter__()


@pytest.mark.parametrize("lifts", [{1: LIFTS[1]}, {0: LIFTS[1], 2: LIFTS[2]}, {3: LIFTS[1]}])
async def test_a_gap_is_a_mistake_before_anything_is_asked(lifts: Lifts) -> None:
    with pytest.raises(ValueError, match=r"migrate takes .* up to 2, without gaps"):
        coatcheck.open_run("r1", schema=3, migrate=lifts)


async def test_a_migration_that_fails_is_the_agents_failure(yard: Yard, pod: Pod) -> None:
    await begun()

    def broken(_state: Any) -> Any:
        raise KeyError("customer")

    with pytest.raises(KeyError, match="customer"):
        await coatcheck.open_run("r1", schema=2, migrate={1: broken}).__aenter__()
    (note,) = pod.notes.of("crashed")
    assert note["error"] == "KeyError: 'customer'"
    assert await schema_of(yard) == 1


async def test_preflight_knows_of_migrations(yard: Yard) -> None:
    await begun()
    upkeep = Outside(yard.store, SystemClock()).upkeep
    assert len((await upkeep.preflight(Accepts(3), queue=None)).passed) == 1
    assert (await upkeep.preflight(Accepts(3, "", 1), queue=None)).passed == []
    assert len((await upkeep.preflight(Accepts(3, "", 2), queue=None)).passed) == 1
