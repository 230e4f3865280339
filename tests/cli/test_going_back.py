"""`rewind`, `gc`, and what `show` and `verify` tell of checkpoints, on a real directory store."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.delta import encode_delta
from coatcheck_sidecar.core.model import Body
from coatcheck_sidecar.core.record import Checkpoint, Released
from coatcheck_sidecar.engine.blobs import Blobs
from coatcheck_sidecar.stores.directory import DirectoryStore
from tests.cli.test_commands import Ask, ask, folder, read, ship, told
from tests.engine.harness import FAST, Pod, Wire, yard
from tests.engine.test_damage import noise

__all__ = ["ask", "folder"]
STATES = [b"one", b"two", b"three"]


def run_of_three(folder: Path, run: str = "r1") -> None:
    """Released, with three checkpoints: the first by release `a`."""
    events = [
        Checkpoint(
            step=step, step_high=step, code_version="a" if step == 1 else "b", length=len(state),
            delta=Body(encode_delta(STATES[step - 2] if step > 1 else b"", state)),
        )
        for step, state in enumerate(STATES, start=1)
    ]  # fmt: skip
    ship(folder, run, *events, Released(reason="left"))


def live(folder: Path, work: Callable[[Pod, Wire], Awaitable[None]]) -> None:
    """With a sidecar on the store: `work(pod, agent)`."""

    async def go() -> None:
        async with yard(DirectoryStore(folder, clock=SystemClock())) as made:
            pod = await made.pod(settings=FAST)
            agent = await pod.agent("live")
            await work(pod, agent)
            await agent.release()

    asyncio.run(go())


def test_a_run_is_set_back_by_place_or_by_code_version(ask: Ask, folder: Path) -> None:
    run_of_three(folder)
    shown = told(ask("show", "r1", "--json"))
    assert [(line["step"], line["code_version"]) for line in shown["kept"]] == [
        (1, "a"), (2, "b"), (3, "b"),
    ]  # fmt: skip
    assert "CHECKPOINT" in ask("show", "r1").output
    done = told(ask("rewind", "r1", "--code-version", "a", "--json"))
    assert done == {"run": "r1", "refused": "", "status": "ready"}
    restored = read(folder, "r1")
    assert (restored.log.state.step, restored.log.checkpoint_bytes) == (1, STATES[0])
    run_of_three(folder, "r2")
    to = str(told(ask("show", "r2", "--json"))["kept"][1]["seq"])
    assert "r2: done; it is ready" in ask("rewind", "r2", "--to", to, "--why", "bad").output
    restored = read(folder, "r2")
    assert (restored.log.state.step, restored.log.checkpoint_bytes) == (2, STATES[1])


def test_what_can_not_be_done_is_said(ask: Ask, folder: Path) -> None:
    run_of_three(folder)
    refused = ask("rewind", "r1", "--to", "999", status=1)
    assert "r1: refused: no checkpoint at 999 is kept of run r1; there are: 3 (step 1)" in (
        refused.stderr
    )
    told_of = told(ask("rewind", "r1", "--code-version", "z", "--json", status=1))
    assert "no checkpoint of code version 'z'" in told_of["refused"]
    for wrong in ((), ("--to", "3", "--code-version", "a"), ("--to", "3", "--rebuild")):
        said = ask("rewind", "r1", *wrong, status=2).stderr
        assert "one of --to, --code-version and --rebuild" in said
    assert "no run r9" in ask("rewind", "r9", "--to", "3", status=1).stderr
    assert "name a run, or say --all" in ask("gc", status=2).stderr
    assert "is whole" in ask("rewind", "r1", "--rebuild", status=1).stderr


def test_a_damaged_head_is_rebuilt_and_put_aside(ask: Ask, folder: Path) -> None:
    async def sealed(pod: Pod, agent: Wire) -> None:
        await agent.commit(noise(1, 60_000), level="remote")

    live(folder, sealed)
    head = folder / "runs/live/head"
    spoilt = head.read_bytes()[:-1]
    head.write_bytes(spoilt)
    shown = ask("rewind", "live", "--rebuild").output
    assert "live: held at step 1" in shown
    name = f"runs/live/damaged-head-{hashlib.sha256(spoilt).hexdigest()[:16]}"
    assert name in shown
    assert (folder / name).read_bytes() == spoilt
    assert "done; it is ready" in ask("retry", "live").output
    head.write_bytes(b"")
    assert told(ask("rewind", "live", "--rebuild", "--json"))["step"] == 1


def test_gc_counts_first_and_deletes_then(ask: Ask, folder: Path) -> None:
    async def sealed(pod: Pod, agent: Wire) -> None:
        for number in range(9):
            state = noise(number, 60_000)
            await agent.commit(state, level="remote")

    live(folder, sealed)
    objects = folder / "runs/live/o"
    before = len(list(objects.iterdir()))
    assert "0 objects, 0 bytes would be deleted" in ask("gc", "--all", "--dry-run").output
    (dry,) = told(ask("gc", "--all", "--dry-run", "--grace-s", "0", "--json"))
    assert (dry["run"], dry["objects"]) == ("live", before)
    assert dry["deleted"] > 3
    assert len(list(objects.iterdir())) == before
    assert f"{dry['deleted']} objects" in ask("gc", "live", "--grace-s", "0").output
    assert len(list(objects.iterdir())) == before - dry["deleted"]
    assert "whole" in ask("verify", "live").output


def test_blobs_are_shown_and_verified(ask: Ask, folder: Path) -> None:
    data = b"big" * 1_000
    name = hashlib.sha256(data).hexdigest()

    async def blob(pod: Pod, _agent: Wire) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield data

        keeper = pod.sidecar.keepers["live"]
        await Blobs(keeper, bytes_max=1 << 20).put(name, pieces(), offset=0, length=len(data))

    live(folder, blob)
    assert told(ask("show", "live", "--json"))["blobs"] == [{"name": name, "length": len(data)}]
    assert name in ask("show", "live").output
    (verdict,) = told(ask("verify", "live", "--json"))
    assert (verdict["objects"], verdict["unnamed"]) == (2, 0)
    (part,) = (folder / "runs/live/o").iterdir()
    part.write_bytes(part.read_bytes()[:-1])
    damaged = ask("verify", "live", status=65)
    assert "part: runs/live/o/" in damaged.stderr
    assert "live: when it is opened, it goes on from its checkpoint of step 0" in damaged.stderr
