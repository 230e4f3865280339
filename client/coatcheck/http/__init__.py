"""Requests to the sidecar's proxy that say which run, step and call they are of.

The URL of `run.proxy_url(tool)` names the run already; a request that names its step too is refused
once that step is over, in place of being counted as one of the next. A library's module is imported
by whoever uses that library: `coatcheck.http.httpx`, `.httpx2`, `.requests`, `.aiohttp`.
"""

import functools
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from coatcheck._tool import HERE

RUN: Final = "Coatcheck-Run"
STEP: Final = "Coatcheck-Step"
KEY: Final = "Coatcheck-Key"
HEADERS: Final = (RUN, STEP, KEY)
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "QUERY"})
"""RFC 9110, section 9.2.1, and the QUERY draft: a read goes without the key of a tool's one act."""

Params = ParamSpec("Params")
Value = TypeVar("Value")


def headers_for(url: str, *, method: str = "POST") -> dict[str, str]:
    """What a request says that is made here; nothing if it doesn't go to this run's proxy.

    Within a `step.tool` that has a key of its own (`key=`), a request that isn't a read has it too.
    A request's own `Coatcheck-Key` header comes before it: a tool that makes two different requests
    must give each one.
    """
    here = HERE.get()
    if here is None or here.session.proxy is None or not url.startswith(here.session.proxy + "/"):
        return {}
    said = {RUN: here.session.run}
    if here.step is not None:
        said[STEP] = str(here.step)
    if here.is_named and here.key is not None and method.upper() not in SAFE:
        said[KEY] = here.key
    return said


def carried(function: Callable[Params, Value]) -> Callable[Params, Value]:
    """`function`, to be called by another thread as if here: `pool.submit(carried(ask), 1)`.

    Tasks and `asyncio.to_thread` need no help: they take the context along by themselves.
    """
    here = HERE.get()

    @functools.wraps(function)
    def call(*args: Params.args, **kwargs: Params.kwargs) -> Value:
        token = HERE.set(here)
        try:
            return function(*args, **kwargs)
        finally:
            HERE.reset(token)

    return call
