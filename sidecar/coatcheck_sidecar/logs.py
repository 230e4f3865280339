"""Log lines: one JSON object a line on stderr, or text for a terminal.

The standard library's loggers, which aiohttp and asyncio use, go the same way.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any, Final, TextIO

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
QUIET: Final = ("aiosqlite", "asyncio", "aiohttp.access")
"""Loggers of which only warnings are of use; aiosqlite would log states and arguments."""

MALFORMED: Final = "aiohttp.http_exceptions"
"""Errors whose text cites the request's own bytes, a header with its credentials among them."""

RESERVED: Final = frozenset({"event", "level", "time"})
"""Keys of a line itself; a field of the same name gets a trailing underscore."""


@contextmanager
def _without_rich() -> Iterator[None]:
    """Structlog imports rich where it is installed: 65 ms, and a service never draws with it."""
    is_ours = "rich" not in sys.modules
    if is_ours:
        sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if is_ours:
            del sys.modules["rich"]


@cache
def load() -> ModuleType:
    """Import structlog: 20 ms, left to the first line. A start that goes well writes it late."""
    with _without_rich():
        import structlog
    return structlog


class _Lines:
    """Where lines go. Unless a program configures them, they tell of trouble alone."""

    def __init__(self) -> None:
        self.configure(level="warning", format="auto", stream=None)

    def configure(self, *, level: str, format: str, stream: TextIO | None) -> None:
        self._level = level
        self._format = format
        self._stream = stream
        self._logger: Any = None

    def write(self, level: str, event: str, /, **fields: object) -> None:
        if self._logger is None:
            self._logger = self._make()
        self._logger.log(LEVELS[level], event, **fields)

    def _make(self) -> Any:
        structlog = load()
        out = sys.stderr if self._stream is None else self._stream
        is_terminal = out.isatty()
        is_text = self._format == "text" or (self._format == "auto" and is_terminal)
        render: Any = structlog.processors.JSONRenderer(default=str)
        if is_text:
            render = structlog.dev.ConsoleRenderer(colors=is_terminal)
        logger = structlog.wrap_logger(
            structlog.WriteLogger(out),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
                structlog.processors.format_exc_info if not is_text else _same,
                render,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(LEVELS[self._level]),
        )
        return logger.bind()


_LINES: Final = _Lines()


def configure(*, level: str, format: str, stream: TextIO | None = None) -> None:
    """Send everything to `stream` (stderr if absent). `format` is `json`, `text` or `auto`."""
    _LINES.configure(level=level, format=format, stream=stream)
    root = logging.getLogger()
    root.handlers = [_FromStandard()]
    root.setLevel(LEVELS[level])
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def is_written(level: str) -> bool:
    """Lines of this level go anywhere."""
    return LEVELS[level] >= logging.getLogger().level


def write(level: str, event: str, /, **fields: object) -> None:
    """One line. Never raises: a log that is full or gone stops nothing."""
    if not is_written(level):
        return
    try:
        shown = {f"{key}_" if key in RESERVED else key: value for key, value in fields.items()}
        _LINES.write(level, event, **shown)
    except (OSError, ValueError):
        return


def _same(_logger: Any, _method: str, line: Any) -> Any:
    return line


class _FromStandard(logging.Handler):
    """Hands lines of the standard library's loggers on."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line, named by its logger."""
        fields: dict[str, object] = {"logger": record.name}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and type(error).__module__ == MALFORMED:
            fields["error"] = type(error).__name__
        elif error is not None:
            fields["exc_info"] = record.exc_info
        level = record.levelname.lower()
        write(level if level in LEVELS else "info", record.getMessage(), **fields)
