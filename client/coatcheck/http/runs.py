"""What a run does by way of its sidecar's loopback port: blobs."""

import os
from typing import Any, Protocol

from coatcheck import _ops
from coatcheck._session import Session
from coatcheck._tool import Call, ToolOptions


class _Open(Protocol):
    """An open run, as far as it matters here."""

    _perform: Any
    _session: Session

    @property
    def step_number(self) -> int:
        """The step under way."""

    def proxy_url(self, tool: str) -> str:
        """Where a tool is."""


class HasBlobs:
    """Big values beside a run's state. With asyncio each of these is to be awaited."""

    def put_blob(self: _Open, source: bytes | str | os.PathLike[str]) -> Any:
        """Keep a big value, bytes or what is in the file of this path: its name, a str.

        It is in the store when this returns, and kept until the run is over, or it is dropped. A
        state holds its name. Raises `TooLarge`, `Draining`, `StoreUnavailable`.
        """
        return _perform(self, "put", source)

    def get_blob(self: _Open, name: str, to: str | os.PathLike[str] | None = None) -> Any:
        """The bytes of a blob; with `to`, into that file. Raises `NotFound`, `Damaged`."""
        return _perform(self, "get", name, to=to)

    def drop_blob(self: _Open, name: str) -> Any:
        """A blob is of no use to the run any more."""
        return _perform(self, "drop", name)


def _perform(run: _Open, what: str, *args: Any, **options: Any) -> Any:
    from coatcheck.http import blobs  # http.client takes ten times as long to import as all of this

    tool: ToolOptions = {"name": f"{what}_blob", "effect": "read"}
    given = (run.proxy_url("~blobs"), *args)
    call = Call(run.step_number, tool, getattr(blobs, what), given, options)
    return run._perform(_ops.call_tool(run._session, call))
