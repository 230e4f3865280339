import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from coatcheck_sidecar import logs


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root = logging.getLogger()
    before = (root.handlers, root.level)
    logs.configure(level="info", format="json", stream=stream)
    yield stream
    root.handlers, root.level = before
    structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_one_object_with_what_is_bound(out: io.StringIO) -> None:
    with logs.bound(run="r1", step=3, epoch=2):
        logs.write("info", "shipped", bytes=10, name=b"\xff", error=ValueError("no"))
    logs.write("warning", "two\nlines")
    first, second = lines(out)
    assert first.pop("time").endswith("Z")
    assert first == {
        "event": "shipped", "level": "info", "run": "r1", "step": 3, "epoch": 2,
        "bytes": 10, "name": "b'\\xff'", "error": "no",
    }  # fmt: skip
    assert second["event"] == "two\nlines"
    assert "run" not in second


def test_what_is_below_the_level_is_not_written(out: io.StringIO) -> None:
    logs.write("debug", "quiet")
    logs.write("critical", "loud")
    assert [line["event"] for line in lines(out)] == ["loud"]


def test_the_standard_librarys_loggers_go_the_same_way(out: io.StringIO) -> None:
    logging.getLogger("aiohttp.server").error("failed: %s", "x")
    logging.getLogger("asyncio").info("Using selector")
    try:
        raise KeyError("k")
    except KeyError:
        logging.getLogger("other").exception("broke")
    first, second = lines(out)
    assert (first["event"], first["level"], first["logger"]) == (
        "failed: x", "error", "aiohttp.server",
    )  # fmt: skip
    assert "KeyError: 'k'" in second["exception"]


def test_text_is_for_people() -> None:
    stream = io.StringIO()
    logs.configure(level="info", format="text", stream=stream)
    logs.write("info", "claimed", run="r1")
    structlog.reset_defaults()
    assert "claimed" in stream.getvalue()
    assert "run=r1" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_a_stream_that_is_gone_stops_nothing(out: io.StringIO) -> None:
    out.close()
    logs.write("error", "nobody hears")


def test_rich_is_not_imported_and_can_be_later() -> None:
    code = "import sys, coatcheck_sidecar.logs; print('rich' in sys.modules); import rich.table"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "False\n"
