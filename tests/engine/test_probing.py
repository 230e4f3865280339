"""Calls whose upstream can be asked whether they took place."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coatcheck_sidecar.core import call
from coatcheck_sidecar.core.tool import HttpProbe, UpstreamKey
from coatcheck_sidecar.engine import errand, probing
from tests.engine.harness import Yard
from tests.engine.proxying import Behaviour, Far, Near, answer, near, reset, tool_of

PROBE = HttpProbe(path="/sent?ref={key}&n={business}", applied_when="/items/0")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "RETRY_DELAY_S", 0.01)
    monkeypatch.setattr(errand, "PROBE_RETRY_S", 0.05)
    monkeypatch.setattr(probing, "ANSWER_BYTES_MAX", 1_000)


async def sent_to(
    yard: Yard, far: Far, *script: Behaviour, probe: HttpProbe = PROBE, **more: Any
) -> Near:
    """A pod whose agent may send one mail, by what the upstream does."""
    tools = tool_of(far, **{"probe": probe, "probe_settle_s": 0.0, "patience_s": 0.3, **more})
    at = await near(yard, tools)
    await at.agent()
    far.script = list(script)
    return at


def found(**value: Any) -> Behaviour:
    return answer(200, json.dumps(value).encode())


async def test_what_the_upstream_found_is_the_answer(yard: Yard, far: Far) -> None:
    probe = replace(PROBE, result="/items/0/message")
    key = UpstreamKey(header="X-Ref", prefix="cc/")
    at = await sent_to(
        yard, far, reset, found(items=[{"message": {"id": 7}}]), probe=probe, upstream_key=key,
        key="/invoice",
    )  # fmt: skip
    got = await at.ask("mail/send", json={"invoice": "a b"})
    assert (got.status, got.json, got.decision) == (200, {"id": 7}, "replayed")
    ref = far.seen[0].headers["x-ref"]
    assert ref.startswith("cc/")
    assert far.seen[1].path == f"/base/sent?ref={ref.replace('/', '%2F')}&n=a%20b"
    assert len(far.seen) == 2


@pytest.mark.parametrize("said", [found(items=[]), found(other=1), answer(404)])
async def test_a_no_lets_it_be_sent_again(yard: Yard, far: Far, said: Behaviour) -> None:
    at = await sent_to(yard, far, reset, said)
    got = await at.ask("mail/send", json={})
    assert (got.status, got.json, got.decision) == (200, {"n": 3}, "sent")
    assert far.seen[0].headers["idempotency-key"] == far.seen[2].headers["idempotency-key"]


@pytest.mark.parametrize("settle_s", [None, 60.0])
async def test_a_no_that_comes_too_soon_proves_nothing(
    yard: Yard, far: Far, settle_s: float | None
) -> None:
    at = await sent_to(yard, far, reset, found(items=[]), probe_settle_s=settle_s)
    got = await at.ask("mail/send", json={})
    assert (got.status, got.json["reason"]) == (424, "probe_not_settled")
    assert len(far.seen) == 2


@pytest.mark.parametrize(
    "said",
    [
        answer(500),
        answer(200, b"no json"),
        answer(200, b"[" + b"1," * 1_000 + b"1]"),
        reset,
    ],
)
async def test_no_answer_is_asked_for_again_and_then_held(
    yard: Yard, far: Far, said: Behaviour
) -> None:
    at = await sent_to(yard, far, reset, *[said] * 50)
    got = await at.ask("mail/send", json={})
    assert (got.status, got.json["reason"], got.decision) == (424, "probe_unanswered", "held")
    assert (got.json["call"] > 0, got.json["first_sent_ms"] > 0) == (True, True)
    assert len(far.seen) > 2
    assert at.pod.notes.of("probe_failed")
    far.script = [found(items=[{"id": 8}])]
    later = await at.ask("mail/send", json={})
    assert (later.status, later.json) == (200, {"id": 8})
    assert [seen.path for seen in far.seen].count("/base/send") == 1


@pytest.mark.parametrize("kind", ["env", "file"])
async def test_credentials_come_from_where_the_settings_say(
    yard: Yard, far: Far, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    monkeypatch.setenv("MAIL_TOKEN", "Bearer planted")
    (tmp_path / "token").write_text("Bearer planted\n")
    reference = {"env": "env:MAIL_TOKEN", "file": f"file:{tmp_path}/token"}[kind]
    probe = replace(PROBE, credentials=reference, header="X-Auth")
    at = await sent_to(yard, far, reset, found(items=[1]), probe=probe)
    assert (await at.ask("mail/send", json={})).json == 1
    assert far.seen[-1].headers["x-auth"] == "Bearer planted"
    assert "planted" not in repr(at.pod.notes.all)


@pytest.mark.parametrize("reference", ["env:NOT_THERE", "file:/not/there"])
async def test_credentials_that_are_not_there(yard: Yard, far: Far, reference: str) -> None:
    probe = replace(PROBE, credentials=reference)
    at = await sent_to(yard, far, reset, probe=probe)
    got = await at.ask("mail/send", json={})
    assert (got.status, got.json["reason"]) == (424, "probe_unanswered")
    assert len(far.seen) == 1


async def test_a_result_that_is_not_there_is_an_empty_answer(yard: Yard, far: Far) -> None:
    at = await sent_to(yard, far, reset, found(items=[1]), probe=replace(PROBE, result="/none"))
    got = await at.ask("mail/send", json={})
    assert (got.status, got.body, got.decision) == (204, b"", "replayed")
