"""From a store's URL to the store. A library is imported only for the kind that needs it."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from coatcheck_sidecar.ports import Clock, Store

QUERY_KEYS: Final = {
    "az": ("account", "endpoint"),
    "file": (),
    "gs": (),
    "memory": (),
    "s3": ("endpoint", "region", "style"),
}
"""What may follow the question mark, by scheme."""

_USER: Final = re.compile(r"(?<=//)[^/@]*@")
"""User and password, of the URL itself or of an endpoint in its query."""


def open_store(url: str, *, clock: Clock, environ: Mapping[str, str] | None = None) -> Store:
    """Open `file:///path`, a bucket's URL (`s3`, `gs`, `az`) or `memory://`.

    Contacts nothing but a local disk; `memory://` is new and empty, for tests. Raises `ValueError`
    that names the URL and the mend, `StoreUnfit` for a directory that can't fence, `OSError` for
    one that can't be made. `environ` is the process's own if absent.
    """
    try:
        parts = urlsplit(url)
        query = _query(parts)
        return _open(parts, query, clock=clock, environ=os.environ if environ is None else environ)
    except ValueError as error:
        raise ValueError(f"store {_without_secrets(url)}: {error}") from error


def _open(
    parts: SplitResult, query: Mapping[str, str], *, clock: Clock, environ: Mapping[str, str]
) -> Store:
    match parts.scheme:
        case "file":
            from coatcheck_sidecar.stores.directory import DirectoryStore

            return DirectoryStore(_directory(parts), clock=clock)
        case "s3":
            from coatcheck_sidecar.stores.objects import Limits
            from coatcheck_sidecar.stores.s3 import open_s3

            return open_s3(parts, query, environ=environ, clock=clock, limits=Limits())
        case "az":
            from coatcheck_sidecar.stores.azure import open_azure
            from coatcheck_sidecar.stores.objects import Limits

            return open_azure(parts, query, environ=environ, clock=clock, limits=Limits())
        case "gs":
            from coatcheck_sidecar.stores.gcs import open_gcs
            from coatcheck_sidecar.stores.objects import Limits

            return open_gcs(parts, environ=environ, clock=clock, limits=Limits())
        case _:
            from coatcheck_sidecar.stores.memory import MemoryStore

            return MemoryStore(now_ms=clock.wall_ms)


def _query(parts: SplitResult) -> dict[str, str]:
    if parts.scheme not in QUERY_KEYS:
        mend = f"; did you mean file://{parts.path}?" if parts.path.startswith("/") else ""
        schemes = ", ".join(f"{scheme}://" for scheme in QUERY_KEYS)
        raise ValueError(f"it must begin with one of {schemes}{mend if not parts.scheme else ''}")
    if "@" in parts.netloc:
        raise ValueError("it holds credentials; set them in the environment instead")
    if parts.fragment:
        raise ValueError("it ends in a fragment (#), which means nothing here")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(query) - set(QUERY_KEYS[parts.scheme]))
    if unknown:
        known = ", ".join(QUERY_KEYS[parts.scheme]) or "none"
        raise ValueError(f"unknown setting {', '.join(unknown)} after the ?; known: {known}")
    return query


def _directory(parts: SplitResult) -> Path:
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"{parts.netloc!r} is taken for a host; write three slashes: file:///path")
    path = Path(unquote(parts.path))
    if not path.is_absolute() or path == Path("/"):
        raise ValueError("it needs the absolute path of a folder: file:///path")
    return path


def _without_secrets(url: str) -> str:
    """Error messages are logged; whoever put a password into the URL should not find it there."""
    return _USER.sub("", url)
