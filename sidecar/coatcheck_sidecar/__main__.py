"""The sidecar's one page: settings in, parts wired, signals, and out in good order."""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from coatcheck_sidecar import logs
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.config import EX_USAGE, Config, release, to_engine
from coatcheck_sidecar.engine.bindings import Bindings
from coatcheck_sidecar.engine.bypass import BypassSampler
from coatcheck_sidecar.engine.sidecar import Sidecar
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.events import Events
from coatcheck_sidecar.ports import Clock, JournalDead, Store, StoreError, StoreUnfit
from coatcheck_sidecar.servers.admin import HttpServer, admin_server
from coatcheck_sidecar.servers.control import ControlServer
from coatcheck_sidecar.servers.hooks import Hooks
from coatcheck_sidecar.servers.routes import Routes, read_secret, reserve
from coatcheck_sidecar.servers.view import EngineView, is_unfenced
from coatcheck_sidecar.sockets import read_bypass
from coatcheck_sidecar.stores.encrypted import with_keys
from coatcheck_sidecar.stores.journal_folder import FolderInUse
from coatcheck_sidecar.stores.probe import probe
from coatcheck_sidecar.stores.spool import Spool
from coatcheck_sidecar.stores.sqlite import JournalSettings, SqliteJournal
from coatcheck_sidecar.stores.sqlite_file import JournalFromFuture
from coatcheck_sidecar.stores.url import open_store
from coatcheck_sidecar.tracing import tracing

if TYPE_CHECKING:
    from coatcheck_sidecar.engine.watch import Watch
    from coatcheck_sidecar.servers.proxy import Listener

EX_FAILED: Final = 1
EX_CONFIG: Final = 78
"""EX_CONFIG of sysexits.h: the store that was configured can't be a fence."""
PROBE_WAIT_S: Final = 5.0
"""A store that does not answer so long holds up no start: the probe goes on beside it."""
PROBE_RETRY_S: Final = 5.0
GARBAGE_OBJECTS: Final = 20_000
"""New containers before the youngest are looked through; by default 700, 4 % of a busy sidecar."""
POD_UID_FILE: Final = "pod_uid"


@dataclass(frozen=True, slots=True)
class Parts:
    """A sidecar at work."""

    sidecar: Sidecar
    local: "Listener"
    admin: HttpServer
    unfit: "asyncio.Future[StoreUnfit]"
    """Done when the store turns out to be none that fences."""
    watch: "Watch | None" = None
    """What mode `observe` sees."""


def _pod_uid(config: Config, clock: Clock) -> str:
    """The pod's own, or one that outlives restarts of the container as the data folder does."""
    if config.pod_uid:
        return config.pod_uid
    path = config.data / POD_UID_FILE
    if not path.exists():
        config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(clock.random_bytes(16).hex())
    return path.read_text().strip()


async def _probe(store: Store, clock: Clock, *, unfit: "asyncio.Future[StoreUnfit]") -> None:
    while True:
        try:
            await probe(store, clock=clock)
        except StoreUnfit as error:
            logs.write("critical", "store_unfit", error=str(error))
            unfit.set_result(error)
        except StoreError as error:
            logs.write("warning", "store_away", error=str(error))
            await clock.sleep(PROBE_RETRY_S)
            continue
        return


async def build(
    config: Config, events: Events, *, stack: AsyncExitStack
) -> tuple[Sidecar, EngineView, Store]:
    """The engine on its journal and store; `stack` closes them in order."""
    clock = SystemClock()
    store = with_keys(
        open_store(config.store, clock=clock),
        config.encryption_keys,
        clock=clock,
        on_trouble=lambda why: logs.write("error", "keys_unread", error=why),
    )
    stack.push_async_callback(store.close)
    limits = JournalSettings(bytes_max=config.journal_bytes_max)
    journal = await SqliteJournal.open(config.data, clock=clock, settings=limits)
    stack.push_async_callback(journal.close)
    spool = Spool(config.data / "spool", bytes_max=config.spool_bytes_max)
    sidecar = Sidecar(
        f"{_pod_uid(config, clock)}.{clock.random_bytes(4).hex()}",
        store=store,
        journal=journal,
        spool=spool,
        clock=clock,
        settings=to_engine(config),
        observer=events,
    )
    sidecar.heart.address = config.address
    stack.push_async_callback(sidecar.close)
    events.place = sidecar.place
    unfenced = is_unfenced(config.store, config.data)
    view = EngineView(sidecar, journal=journal, spool=spool, is_unfenced=unfenced)
    if unfenced:
        logs.write("warning", "unfenced", store=store.url, why="it lies in the data folder")
    return sidecar, view, store


def _sampler(config: Config, sidecar: Sidecar, *, view: EngineView) -> BypassSampler | None:
    """Looks for traffic past the proxy, where there is anything to go through it."""
    if config.mode == "off" or not (config.tools or config.forward or config.mode == "observe"):
        return None
    doors = sidecar.doors
    look = partial(read_bypass, config.bypass_ok)
    sampler = BypassSampler(look, clock=doors.clock, observer=doors.observer)
    view.bypass = lambda: sampler.connections
    return sampler


def _watch(sidecar: Sidecar, sampler: BypassSampler) -> "Watch":
    """Let all calls pass, and note them."""
    from coatcheck_sidecar.engine.watch import Watch  # only for mode `observe`

    watch = Watch(sidecar.doors.clock, owned=lambda: sidecar.keepers, bypass=lambda: sampler.most)
    sampler.on_sample = watch.look
    sidecar.make_calls = watch.calls
    return watch


def _import_the_rest() -> None:
    """What no agent waits for: it takes as long to import as all before.

    In a thread, so that agents get their answers meanwhile.
    """
    logs.load()
    import_module("aiohttp.web")
    import_module("coatcheck_sidecar.metrics")
    import_module("coatcheck_sidecar.listening")


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Parts]:
    """A sidecar that takes agents, until the block ends; what is unshipped stays in the journal.

    Raises `ValueError` or `StoreUnfit` for the store, `OSError`, `JournalDead`, `FolderInUse` or
    `JournalFromFuture` for the rest.
    """
    async with AsyncExitStack() as stack:
        events = Events()
        sidecar, view, store = await build(config, events, stack=stack)
        tasks = TaskSet(
            lambda name, error: logs.write("error", "task_failed", name=name, error=repr(error))
        )
        stack.push_async_callback(tasks.close)
        unfit: asyncio.Future[StoreUnfit] = asyncio.get_running_loop().create_future()
        probing = tasks.start(_probe(store, sidecar.doors.clock, unfit=unfit), name="probe")
        await asyncio.wait([probing], timeout=PROBE_WAIT_S)
        if unfit.done():
            raise unfit.result()
        sidecar.mode = config.mode
        sampler = _sampler(config, sidecar, view=view)
        watch = _watch(sidecar, sampler) if sampler and config.mode == "observe" else None
        await sidecar.start()
        reserved = reserve(config.listen.host, config.listen.port)
        stack.callback(reserved.close)
        bindings = Bindings(read_secret(config.data, sidecar.doors.clock))
        sidecar.on_let_go = bindings.unbind
        address = config.listen._replace(port=reserved.getsockname()[1])
        routes = Routes(bindings, f"http://{address}", tools=config.tools.values())
        control = ControlServer(
            sidecar,
            config.socket,
            allowed_uids=frozenset(config.allowed_uids),
            routes=routes,
        )
        await control.start()
        stack.push_async_callback(control.close)
        await asyncio.to_thread(_import_the_rest)
        if traced := await asyncio.to_thread(tracing, sidecar.doors.clock, version=release()):
            events.on_call, flush = traced
            stack.push_async_callback(asyncio.to_thread, flush)
        from coatcheck_sidecar.listening import listen_for_agents

        if sampler is not None:
            tasks.start(sampler.run(), name="bypass")
        hooks = Hooks(sidecar.drain, token=config.hook_token)
        admin = await _listen_for_the_cluster(config, events, view=view, hooks=hooks)
        stack.push_async_callback(admin.close)
        local = await listen_for_agents(
            config,
            sidecar,
            store=store,
            bindings=bindings,
            routes=routes,
            reserved=reserved,
            watch=watch,
            stack=stack,
        )
        logs.write("info", "started", owner=sidecar.me, store=store.url, socket=str(config.socket))
        yield Parts(sidecar, local, admin, unfit, watch)


async def _listen_for_the_cluster(
    config: Config, events: Events, *, view: EngineView, hooks: Hooks
) -> HttpServer:
    """Health, metrics and hooks, on the pod's own address. Raises `OSError`."""
    metrics = events.metrics()
    metrics.watch(view.figures)
    host, port = config.admin_listen
    admin = admin_server(view, metrics.render, hooks=hooks, host=host, port=port)
    await admin.start()
    return admin


def _spare_the_collector() -> None:
    """What was imported stays: it is not looked through again, and what follows less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)


async def _interrupted(signals: "asyncio.Queue[int]") -> None:
    """Somebody at a keyboard won't wait. A kubelet that was restarted just says SIGTERM again."""
    while await signals.get() != signal.SIGINT:
        pass


async def serve(config: Config) -> int:
    """Run until SIGTERM or SIGINT, then drain; the exit status. A SIGINT more cuts the drain."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    async with running(config) as parts, asyncio.TaskGroup() as group:
        _spare_the_collector()
        stop = group.create_task(signals.get())
        parts.unfit.add_done_callback(lambda _: stop.cancel())
        await asyncio.wait([stop])
        if parts.watch is not None:  # now, before the drain saves what would be lost
            parts.watch.tell(parts.sidecar.doors.observer)
        if parts.unfit.done():  # nobody's SIGTERM, so no hook was missed
            parts.sidecar.drain.begin("unfit")
        else:
            parts.sidecar.drain.signalled()
        drain = group.create_task(parts.sidecar.drain.finish())
        again = group.create_task(_interrupted(signals))
        await asyncio.wait([drain, again], return_when=asyncio.FIRST_COMPLETED)
        drain.cancel()
        again.cancel()
        return EX_CONFIG if parts.unfit.done() else 0


def guarded(config: Config, work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Do the work under uvloop, with logs as configured; what keeps it from starting is logged."""
    import uvloop

    logs.configure(level=config.log_level, format=config.log_format)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work())
    except StoreUnfit as error:
        status, why = EX_CONFIG, str(error)
    except ValueError as error:
        status, why = EX_USAGE, str(error)
    except (OSError, JournalDead, FolderInUse, JournalFromFuture) as error:
        status, why = EX_FAILED, str(error)
    logs.write("critical", "start_failed", error=why)
    return status


def main(config: Config) -> int:
    """Run the sidecar with these settings; the exit status."""
    return guarded(config, lambda: serve(config))


if __name__ == "__main__":
    from coatcheck_sidecar.cli.main import main as command_line

    command_line(["sidecar"])
