"""What agents' authors test with, tested on agents that are right and on some that are wrong."""

import asyncio
import os

import pytest

import coatcheck
from coatcheck import sync
from coatcheck_sidecar import testing
from coatcheck_sidecar.testing import Applied, Doubt, Effects, kill_everywhere

INVOICES = ("4711", "4712")


async def correct(effects: Effects) -> None:
    """Charges two invoices, one a step, and remembers which."""

    @coatcheck.tool(effect="once")
    async def charge(invoice: str) -> str:
        effects.add("charge", invoice)
        return f"charged {invoice}"

    async with coatcheck.open_run(schema=1) as run:
        done = run.state or []
        async for step in run.steps():
            said = await step.tool(charge, show=["/invoice"])(INVOICES[len(done)])
            done = [*done, said]
            if len(done) < len(INVOICES):
                await step.commit(done)
            else:
                await run.finish(done, state=done)


def correct_without_asyncio(effects: Effects) -> None:
    def charge(invoice: str) -> str:
        effects.add("charge", invoice)
        return invoice

    def look(invoice: str) -> str | None:
        return invoice if effects.count("charge", invoice) else None

    with sync.open_run(schema=1) as run:
        for step in run.steps():
            probed = step.tool(charge, effect="once", probe=look, probe_settle_s=0.0)
            run.finish(probed("4711"))


async def wrong(effects: Effects) -> None:
    """Charges beside the tool: nobody knows of it but the world."""
    async with coatcheck.open_run(schema=1) as run:
        async for _ in run.steps():
            effects.add("charge", "4711")
            await run.finish()


def look(doubt: Doubt, effects: Effects) -> Applied | testing.NotApplied:
    """What an operator does, who looks into the upstream's books."""
    assert doubt.tool == "charge"
    invoice = next(name for name in INVOICES if name in doubt.arguments)
    if effects.count("charge", invoice):
        return Applied(f"charged {invoice}")
    return testing.NOT_APPLIED


def test_a_correct_agent_doubles_nothing_wherever_it_is_killed() -> None:
    report = kill_everywhere(correct, resolve=look)
    assert report.is_safe, report
    assert report.finished == len(report.points)
    assert report.effects == {("charge", "4711"): 1, ("charge", "4712"): 1}
    for point in (
        "before open", "after open", "before call charge of step 1", "after call charge of step 2",
        "before outcome result", "after commit of step 1", "before finish of step 2",
        "after finish of step 2", "before effect charge 4711", "after effect charge 4712",
    ):  # fmt: skip
        assert point in report.points
    doubted = report.doubts["after effect charge 4712"]
    assert [(d.tool, d.step, d.run) for d in doubted] == [("charge", 2, "test-run")]


def test_an_agent_without_asyncio_whose_tool_can_be_asked() -> None:
    report = kill_everywhere(correct_without_asyncio, run="another")
    assert report.is_safe, report
    assert not report.doubts
    assert "after effect charge 4711" in report.points


def test_an_effect_beside_the_tools_is_reported_as_doubled() -> None:
    report = kill_everywhere(wrong)
    assert not report.is_safe
    assert {(m.name, m.counted, m.expected) for m in report.doubled} == {("charge", 2, 1)}
    assert {m.point for m in report.doubled} == {
        "before finish of step 1",
        "after effect charge 4711",
    }
    assert "doubled: charge 4711: 2 for 1, killed before finish of step 1" in str(report)


def test_without_a_resolver_a_doubt_ends_the_run() -> None:
    report = kill_everywhere(correct)
    assert "held" in report.unfinished["after effect charge 4711"]
    assert not report.doubled


async def test_a_run_that_waits_gets_its_signal() -> None:
    """Called where a loop runs: the agent has one of its own."""

    async def agent(effects: Effects) -> None:
        async with coatcheck.open_run(schema=1) as run:
            async for _ in run.steps():
                await run.finish(await run.wait_for("approval"))

    assert kill_everywhere(agent, signals={"approval": True}).is_safe
    with pytest.raises(RuntimeError, match="waits for the signal 'approval'"):
        kill_everywhere(agent)


def test_an_agent_that_never_finishes_is_refused_with_its_error() -> None:
    def broken(effects: Effects) -> None:
        raise ValueError("no model today")

    def stuck(effects: Effects) -> None:
        while True:
            os.read(os.pipe()[0], 1)

    with pytest.raises(RuntimeError, match="no model today"):
        kill_everywhere(broken)
    with pytest.raises(RuntimeError, match=r"stuck for 0\.05 s"):
        kill_everywhere(stuck, life_s=0.05)
    with pytest.raises(RuntimeError, match="never opened run"):
        kill_everywhere(lambda effects: None)


# The sidecar by itself


async def test_doubts_are_listed_and_resolved() -> None:
    async def charge() -> str:
        raise OSError("cut")

    with testing.sidecar() as s:
        assert os.environ["COATCHECK_SOCKET"] == str(s.socket)
        with pytest.raises(coatcheck.InDoubt):
            async with coatcheck.open_run("r1", schema=1) as run:
                await run.step.tool(charge, effect="once")()
        assert [(line.run, line.status) for line in s.runs()] == [("r1", "held")]
        (doubt,) = s.doubts("r1")
        assert s.doubts() == [doubt]
        s.resolve("r1", doubt.call, applied=True, value="charged")
        assert s.doubts("r1") == []
        with pytest.raises(ValueError, match="not_in_doubt"):
            s.resolve("r1", doubt.call, applied=True)
        async with coatcheck.open_run("r1", schema=1) as run:
            assert await run.step.tool(charge, effect="once")() == "charged"
            await run.finish()
    assert "COATCHECK_SOCKET" not in os.environ


def test_signals_and_retries_without_asyncio() -> None:
    with testing.sidecar() as s:
        with sync.open_run("r1", schema=1) as run:
            run.wait_for("approval")
        assert s.runs()[0].status == "parked"
        with pytest.raises(ValueError, match="not held"):
            s.retry("r1")
        s.signal("r1", "approval", {"by": "ann"})
        with sync.open_run("r1", schema=1) as run:
            run.finish(run.wait_for("approval"))
        assert sync.result("r1").result == {"by": "ann"}


async def test_a_signal_for_a_run_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_SOCKET", "/before")
    with testing.sidecar() as s:
        async with coatcheck.open_run("r1", schema=1) as run:
            await asyncio.to_thread(s.signal, "r1", "stop", 1)
            assert await run.wait_for("stop") == 1
            await run.finish()
    assert os.environ["COATCHECK_SOCKET"] == "/before"
