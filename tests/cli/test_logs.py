import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from coatcheck_sidecar import logs


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root = logging.getLogger()
    before = (root.handlers, root.level)
    logs.configure(level="info", format="json", stream=stream)
    yield stream
    logs.configure(level="warning", format="auto")
    root.handlers, root.level = before


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_one_object_with_its_fields(out: io.StringIO) -> None:
    logs.write("info", "shipped", run="r1", bytes=10, name=b"\xff", error=ValueError("no"))
    logs.write("warning", "two\nlines")
    first, second = lines(out)
    assert first.pop("time").endswith("Z")
    assert first == {
        "event": "shipped", "level": "info", "run": "r1",
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


def test_text_is_for_people(out: io.StringIO) -> None:
    logs.configure(level="info", format="text", stream=out)
    logs.write("info", "claimed", run="r1")
    assert "claimed" in out.getvalue()
    assert "run=r1" in out.getvalue()
    assert not out.getvalue().startswith("{")


def test_a_stream_that_is_gone_stops_nothing(out: io.StringIO) -> None:
    out.close()
    logs.write("error", "nobody hears")


def test_the_library_comes_with_the_first_line_and_without_rich() -> None:
    code = """
import sys
from coatcheck_sidecar import logs
print(*{"rich", "structlog"} & set(sys.modules))
logs.configure(level="info", format="json")
logs.write("debug", "unheard")
print(*{"rich", "structlog"} & set(sys.modules))
logs.write("info", "heard")
print(*{"rich", "structlog"} & set(sys.modules))
import rich.table
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "\n\nstructlog\n"
    assert json.loads(ran.stderr)["event"] == "heard"
