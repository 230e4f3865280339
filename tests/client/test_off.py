"""COATCHECK_MODE=off: no sidecar, nothing kept, and everything goes straight through."""

from pathlib import Path

import pytest

import coatcheck
from coatcheck import sync
from tests.client.fake import LIMITS, AwaitClose, Expect, Fake, Line, Ok

UPSTREAM = {"COATCHECK_UPSTREAM_MAIL": "https://mail.internal"}
SAID = {"protocol": 1, "mode": "off", "limits": LIMITS, "env": UPSTREAM}
OFF: list[Line] = [Expect("hello"), Ok(SAID)]


@pytest.fixture
def is_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no socket at `path`."""
    monkeypatch.setenv("COATCHECK_MODE", "off")


def charge(invoice: str) -> list[str]:
    return [invoice, coatcheck.current_key()]


@pytest.mark.usefixtures("is_off")
async def test_a_run_goes_on_in_memory() -> None:
    keys = []
    async with coatcheck.open_run("r", schema=1, input={"n": 1}) as run:
        assert (run.input, run.state, run.status) == ({"n": 1}, None, "owned")
        async for step in run.steps():
            invoice, key = await step.tool(charge, effect="once")("i")
            keys.append(key)
            await step.commit({"text": "x" * 50_000, "invoice": invoice})
            if step.number == 3:
                await run.finish("done")
        assert (run.result, run.is_finished) == ("done", True)
    assert len(set(keys)) == 3


@pytest.mark.usefixtures("is_off")
def test_a_run_without_asyncio_likewise() -> None:
    with sync.open_run("r", schema=1) as run:
        for step in run.steps():
            step.tool(charge)("i")
            run.finish(step.number)
    assert run.result == 1


@pytest.mark.usefixtures("is_off")
def test_what_only_a_sidecar_can_do_is_refused() -> None:
    with sync.open_run("r", schema=1) as run, pytest.raises(coatcheck.NotFound, match="is off"):
        run.wait_for("approval")
    with pytest.raises(coatcheck.NotFound, match="needs a sidecar"):
        sync.result("r")
    with pytest.raises(coatcheck.NotFound, match="open needs a sidecar"):
        next(iter(sync.claim_runs(schema=1)))


@pytest.mark.usefixtures("is_off")
def test_the_upstream_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_UPSTREAM_OPEN_AI", "https://api.openai.com/v1")
    with sync.open_run("r", schema=1) as run:
        assert run.proxy_url("open-ai") == "https://api.openai.com/v1"
        with pytest.raises(coatcheck.Unavailable, match="set COATCHECK_UPSTREAM_MAIL"):
            run.proxy_url("mail")


def test_a_sidecar_may_say_so(path: Path) -> None:
    with Fake(path, [*OFF, AwaitClose()]), sync.open_run("r", schema=1) as run:
        assert run.proxy_url("mail") == "https://mail.internal"
        run.commit({"n": 1})
        assert run.step_number == 2


async def test_a_sidecar_may_say_so_to_asyncio(path: Path) -> None:
    with Fake(path, [*OFF, AwaitClose()]):
        async with coatcheck.open_run("r", schema=1) as run:
            await run.commit({"n": 1})
            assert run.step_number == 2
