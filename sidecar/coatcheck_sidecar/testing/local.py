"""A sidecar in a thread of the test's own process."""

import asyncio
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgpack

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.command import Command
from coatcheck_sidecar.core.model import Call
from coatcheck_sidecar.core.ownership import RunSummary
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.settings import Settings
from coatcheck_sidecar.engine.sidecar import Sidecar
from coatcheck_sidecar.servers.control import ControlServer
from coatcheck_sidecar.stores.memory import MemoryStore
from coatcheck_sidecar.stores.memory_journal import MemoryJournal
from coatcheck_sidecar.stores.spool import Spool

Value = TypeVar("Value")

SETTINGS: Final = Settings(
    heartbeat_s=0.05, ship_interval_s=0.0, pause_max_s=0.0, claim_poll_s=0.05, margin_s=0.1
)
"""Everything near, so that a test doesn't wait; no process of a test sleeps before a send."""
ANSWER_S: Final = 30.0
"""What the sidecar's thread may take for one question: a test that hangs says so."""
SPOOL_BYTES_MAX: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Doubt:
    """A call of which nobody knows whether it took place."""

    run: str
    call: int
    tool: str
    step: int
    key: str
    """The idempotency key that the tool got (`coatcheck.current_key()`)."""
    arguments: str
    """A short line of them: values of what the tool's `key` and `show` name, else names."""


class _Silent:
    def note(self, _event: str, /, **_fields: object) -> None:
        """Tests look at runs, not at metrics."""


class LocalSidecar:
    """A sidecar at work in a thread of its own. Methods may be called by any other thread."""

    def __init__(self, folder: Path, *, make_server: Callable[[Sidecar, Path], ControlServer]):
        self.socket = folder / "agent.sock"
        """What `COATCHECK_SOCKET` names."""
        self._folder = folder
        self._make_server = make_server
        self._started: Future[None] = Future()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name="coatcheck", daemon=True)

    def start(self) -> None:
        """Return once agents can connect."""
        self._thread.start()
        self._started.result(ANSWER_S)

    def close(self) -> None:
        """Hang up on everybody, and forget all runs."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(ANSWER_S)

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        clock = SystemClock()
        store, journal = MemoryStore(now_ms=clock.wall_ms), MemoryJournal()
        engine = Sidecar(
            "test.1",
            store=store,
            journal=journal,
            spool=Spool(self._folder / "spool", bytes_max=SPOOL_BYTES_MAX),
            clock=clock,
            settings=SETTINGS,
            observer=_Silent(),
        )
        self._outside = Outside(store, clock, settings=SETTINGS)
        self.server = self._make_server(engine, self.socket)
        try:
            await engine.start()
            await self.server.start()
            self._started.set_result(None)
            await self._stop.wait()
        except BaseException as error:
            self._started.set_exception(error)
            raise
        finally:
            await self.server.close()
            await engine.close()
            await journal.close()

    def ask(self, question: Coroutine[Any, Any, Value]) -> Value:
        """Await something in the sidecar's thread."""
        return asyncio.run_coroutine_threadsafe(question, self._loop).result(ANSWER_S)

    def runs(self) -> list[RunSummary]:
        """All runs by name, with `status`, `step`, `reason` and more."""
        lines = self.ask(self._outside.list_runs(is_all=True))
        return [line.summary for line in lines]

    def doubts(self, run: str | None = None) -> list[Doubt]:
        """Calls in doubt of a run, or of all; raises `Refusal` if there is no such run."""
        found = self.ask(self._outside.doubts(run))
        return [_doubt(doubt.run, doubt.call) for doubt in found]

    def resolve(self, run: str, call: int, *, applied: bool, value: Any = None) -> None:
        """Decide a call in doubt. Raises `ValueError` if it is none."""
        verdict, packed = ("applied", msgpack.packb(value)) if applied else ("not_applied", None)
        self._command(run, "resolve", call=call, verdict=verdict, value=packed, force=True)

    def signal(  # noqa: PLR0917 - in the order in which one says it
        self, run: str, name: str, value: Any = None
    ) -> None:
        """Send what `run.wait_for(name)` returns. Raises `ValueError` if the run is over."""
        self._command(run, "signal", name=name, value=msgpack.packb(value))

    def retry(self, run: str) -> None:
        """Let a held run go on. Raises `ValueError` if it is not held, or in doubt."""
        self._command(run, "retry")

    def _command(self, run: str, what: str, **fields: Any) -> None:
        id_ = SystemClock().random_bytes(8).hex()
        command = Command(id=id_, run=run, what=what, by="test", **fields)
        try:
            refused = self.ask(self._outside.command(command)).refused
        except Refusal as error:
            refused = error.message
        if refused:
            raise ValueError(f"{what} of run {run}: {refused}")


def _doubt(run: str, call: Call) -> Doubt:
    return Doubt(run, call.number, call.tool, call.step, call.upstream_key, call.summary)


@contextmanager
def sidecar(
    *, make_server: Callable[[Sidecar, Path], ControlServer] = ControlServer
) -> Iterator[LocalSidecar]:
    """A sidecar for the length of the block; `COATCHECK_SOCKET` names it meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix="coatcheck-"))  # short: a socket's path has 107 bytes
    former = os.environ.get("COATCHECK_SOCKET")
    made = LocalSidecar(folder, make_server=make_server)
    try:
        made.start()
        os.environ["COATCHECK_SOCKET"] = str(made.socket)
        yield made
    finally:
        if former is None:
            os.environ.pop("COATCHECK_SOCKET", None)
        else:
            os.environ["COATCHECK_SOCKET"] = former
        made.close()
        shutil.rmtree(folder, ignore_errors=True)
