"""The loopback listener, wired: routes of tools, the run API, the forward proxy.

Apart from `__main__`, since it imports aiohttp, and no agent waits for that.
"""

import socket
from contextlib import AsyncExitStack

from coatcheck_sidecar.config import Config, release
from coatcheck_sidecar.core.mcp import STDIO_TOOL
from coatcheck_sidecar.engine.accounts import Accounts
from coatcheck_sidecar.engine.bindings import Bindings
from coatcheck_sidecar.engine.exchange import Exchange
from coatcheck_sidecar.engine.late import Late
from coatcheck_sidecar.engine.mcp_upstream import aware
from coatcheck_sidecar.engine.outside import Outside
from coatcheck_sidecar.engine.passing import Passing
from coatcheck_sidecar.engine.sidecar import Sidecar
from coatcheck_sidecar.engine.undo_request import UndoRequests
from coatcheck_sidecar.engine.wanted import Performs
from coatcheck_sidecar.engine.watch import Watch
from coatcheck_sidecar.ports import Store
from coatcheck_sidecar.servers.blobs import BlobRoute
from coatcheck_sidecar.servers.bodies import Bodies
from coatcheck_sidecar.servers.forward import ForwardProxy
from coatcheck_sidecar.servers.mcp import McpProxy
from coatcheck_sidecar.servers.proxy import Listener, Proxy
from coatcheck_sidecar.servers.routes import Routes
from coatcheck_sidecar.servers.runapi import RunApi
from coatcheck_sidecar.upstreams.http import HttpUpstreams


async def listen_for_agents(
    config: Config,
    sidecar: Sidecar,
    *,
    store: Store,
    bindings: Bindings,
    routes: Routes,
    reserved: socket.socket,
    watch: Watch | None,
    stack: AsyncExitStack,
) -> Listener:
    """Answer on the port that was reserved; `stack` closes it. Raises `OSError`."""
    clock, observer = sidecar.doors.clock, sidecar.doors.observer
    upstreams = HttpUpstreams(clock)
    stack.push_async_callback(upstreams.close)
    upstream_of = aware(upstreams.of, clock=clock)
    exchange: Performs
    outside = Outside(store, clock, settings=sidecar.settings)
    tell_late = sidecar.on_late_outcome = Late(outside, tasks=sidecar.tasks).tell
    if config.mode == "enforce":
        accounts = Accounts(observer, config.prices)
        kept = exchange = Exchange(upstream_of, clock=clock, observer=observer, accounts=accounts)
        stack.push_async_callback(kept.close)
        kept.on_late = tell_late
        sidecar.undoing.requests = UndoRequests(kept, config.tools)
    else:
        exchange = Passing(upstream_of, watch=watch)
    bodies = Bodies(config.data / "spool-http", clock=clock)
    bodies.clear()
    api = RunApi(
        sidecar,
        outside=outside,
        version=release(),
        report=watch.told if watch else None,
        routes=routes,
        is_for_agents=not config.allowed_uids,
    )
    api.start()
    stack.push_async_callback(api.close)
    tools = {STDIO_TOOL.name: STDIO_TOOL, **config.tools}
    proxy = Proxy(tools, bindings=bindings, exchange=exchange, bodies=bodies, local=api.handle)
    proxy.busy = api.agents.busy
    mcp = McpProxy(exchange, upstream_of, observer=observer)
    stack.push_async_callback(mcp.close)
    proxy.mcp, proxy.blobs = mcp.handle, BlobRoute(bytes_max=config.blob_bytes_max).answer
    proxy.names_all = config.mode == "observe"
    if config.forward is not None:
        forward = ForwardProxy(
            config.forward,
            tools=config.tools.values(),
            bindings=bindings,
            serve=proxy.serve,
            busy=api.agents.busy,
            observer=observer,
        )
        proxy.forward = forward.handle
    listener = Listener(proxy, reserved)
    stack.push_async_callback(listener.close)
    await listener.start()
    return listener
