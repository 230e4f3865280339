"""What the commands share: the store, waiting for answers, printing."""

import asyncio
import dataclasses
import getpass
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import click
import msgpack

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.outside import TIMEOUT_S, Outside
from coatcheck_sidecar.engine.restore import Damaged
from coatcheck_sidecar.engine.settings import Settings
from coatcheck_sidecar.ports import StoreError, StoreUnfit
from coatcheck_sidecar.stores.encrypted import with_keys
from coatcheck_sidecar.stores.url import open_store

EX_REFUSED: Final = 1
EX_DATAERR: Final = 65
EX_UNAVAILABLE: Final = 69
EX_CONFIG: Final = 78
HOME: Final = Path("~/.local/state/coatcheck")
"""Where `coatcheck run` keeps its data."""

Answer = TypeVar("Answer")
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def store_option(command: Decorated) -> Decorated:
    """`--store`, from the environment, or that of `coatcheck run`."""
    return click.option(
        "--store",
        envvar="COATCHECK_STORE",
        show_envvar=True,
        metavar="URL",
        help="s3://, gs://bucket/prefix, az://container/prefix or file:///path.  "
        "[default: that of `coatcheck run`]",
    )(command)


def json_option(command: Decorated) -> Decorated:
    """`--json`."""
    return click.option("--json", "is_json", is_flag=True, help="Print JSON.")(command)


def command_options(command: Decorated) -> Decorated:
    """What every command for a run takes: who, why, how long."""
    for option in (
        click.option("--timeout", "timeout_s", default=TIMEOUT_S, show_default=True,
                     help="Seconds to wait for the run's owner."),
        click.option("--by", default=_me, help="Who decides.  [default: you]"),
        click.option("--why", default="", help="For the record."),
    ):  # fmt: skip
        command = option(command)
    return command


def _me() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def outside(
    store: str | None,
    work: Callable[[Outside], Awaitable[Answer]],
    *,
    may_create: bool = False,
) -> Answer:
    """Do the work on a store; what goes wrong is one line and an exit status.

    Without `may_create` a directory must be there: a slip in its path should not make a new one.
    """
    url = store or _default_store()
    path = Path(unquote(urlsplit(url).path))
    if url.startswith("file:///") and not may_create and not path.is_dir():
        raise _ended(f"store {url}: there is no such folder", EX_UNAVAILABLE)

    async def whole() -> Answer:
        clock = SystemClock()
        opened = with_keys(open_store(url, clock=clock), _keys(), clock=clock)
        try:
            return await work(Outside(opened, clock, settings=_settings()))
        finally:
            await opened.close()

    try:
        return asyncio.run(whole())
    except Refusal as error:
        raise _ended(error.message, EX_REFUSED) from error
    except Damaged as error:
        raise _ended(f"run {error.head.run}: {error}", EX_DATAERR) from error
    except (StoreError, OSError) as error:
        raise _ended(str(error), EX_UNAVAILABLE) from error
    except StoreUnfit as error:
        raise _ended(str(error), EX_CONFIG) from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _default_store() -> str:
    path = HOME.expanduser() / "store"
    if not path.is_dir():
        raise click.UsageError("which store? Give --store URL, or set COATCHECK_STORE")
    return path.as_uri()


def _settings() -> Settings:
    """Those of the sidecars that a command must know, where the environment has them."""
    pause_s = os.environ.get("COATCHECK_PAUSE_MAX_S", "")
    try:
        return Settings(pause_max_s=float(pause_s)) if pause_s else Settings()
    except ValueError:
        raise click.UsageError(f"COATCHECK_PAUSE_MAX_S is {pause_s!r}, not seconds") from None


def _keys() -> Path | None:
    """The key ring, where the sidecars' setting for it is set here."""
    path = os.environ.get("COATCHECK_ENCRYPTION_KEYS", "")
    return Path(path).expanduser() if path else None


def _ended(message: str, status: int) -> click.exceptions.Exit:
    click.echo(f"Error: {message}", err=True)
    return click.exceptions.Exit(status)


# Values


def parse_value(text: str | None) -> bytes:
    """JSON from the command line as the SDK reads it: msgpack. `-` is standard input."""
    if text is None:
        return _packed(None)
    source = sys.stdin.read() if text == "-" else text
    try:
        return _packed(json.loads(source))
    except (ValueError, RecursionError, OverflowError) as error:
        mend = f"; for a string write '\"{source}\"'" if source.isidentifier() else ""
        raise click.BadParameter(f"is not JSON: {error}{mend}") from error


def _packed(value: object) -> bytes:
    data: bytes = msgpack.packb(value)
    return data


def unpacked(data: bytes | None) -> Any:
    """A value of the SDK for people: plain if it is msgpack, else its length."""
    if data is None:
        return None
    try:
        return msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError):
        return f"{len(data)} bytes"


def plain(value: Any) -> Any:
    """Anything as what JSON knows."""
    match value:
        case Enum():
            return value.value
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return f"{len(value)} bytes"
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        case _:
            return str(value)


# Printing


def print_json(value: Any) -> None:
    """One document."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    empty: str,
    is_aside: bool = False,
) -> None:
    """A table for people, or a sentence where there is nothing. Control characters don't pass.

    `is_aside` takes standard error, where JSON has the standard output.
    """
    if not rows:
        click.echo(empty, err=is_aside)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(columns))
    for row in rows:
        table.add_row(*(Text(_visible(cell)) for cell in row))
    console = Console(highlight=False, stderr=is_aside)
    if not console.is_terminal:
        console.width = _width([columns, *rows])
    console.print(table)


def _width(rows: Sequence[Sequence[object]]) -> int:
    """Where no terminal cuts lines, nothing is cut."""
    columns = zip(*rows, strict=True)
    return max(80, sum(3 + max(len(_visible(cell)) for cell in column) for column in columns))


def _visible(cell: object) -> str:
    text = "" if cell is None else str(cell)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def span(seconds: float | None) -> str:
    """`95 s`, `3 min`, `2 h` or `4 d`."""
    if seconds is None:
        return ""
    for unit_s, unit in ((172_800, "d"), (7_200, "h"), (120, "min")):
        if seconds >= unit_s:
            return f"{seconds / {'d': 86_400, 'h': 3_600, 'min': 60}[unit]:.0f} {unit}"
    return f"{seconds:.0f} s"


def when(at_ms: int) -> str:
    """A moment of the store's clock, in UTC."""
    from datetime import UTC, datetime

    if not at_ms:
        return ""
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ")
