import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from coatcheck_sidecar.cli.group import cli
from coatcheck_sidecar.cli.observe import summary
from coatcheck_sidecar.core.model import Effect
from coatcheck_sidecar.core.observe import Came, Observations, Seen
from tests.cli.test_processes import coatcheck, environ

CHARGE = Seen(
    run="invoice-1",
    step=3,
    tool="pay",
    pattern="POST /charges",
    by_method=Effect.ONCE,
    declared=Effect.ONCE,
    fingerprint=b"f",
)


def report() -> dict[str, Any]:
    seen = Observations(began_s=0.0)
    seen.sent(CHARGE, at_s=10.0, has_checkpoint=False)
    found = Seen(**asdict(CHARGE) | {"tool": "web", "pattern": "POST /search"})
    seen.came(seen.sent(found, at_s=10.0, has_checkpoint=False), Came(status=200, length=99))
    report: dict[str, Any] = asdict(seen.report(at_s=20.0, bypass={"192.0.2.9": 3}))
    return report


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/v1/observe" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def observe(*args: str) -> Result:
    env = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    return CliRunner().invoke(cli, ["observe", *args], env=env)


def test_the_report_is_shown_to_people_and_as_json() -> None:
    with answering(200, json.dumps(report()).encode()) as url:
        shown = observe("--url", f"{url}/{'0' * 32}")
        told = observe("--url", url, "--json")
    assert shown.exit_code == 0, shown.output
    for part in (
        "would lose 1 step under way (1 of runs without any checkpoint), double 1 call and",
        "buy 0 completions again",
        "in 50% of the time or more",
        "invoice-1",
        "never",
        "POST /charges",
        "doubled",
        "read ?",
        "named as what asks: search",
        "192.0.2.9",
    ):
        assert part in shown.output
    assert json.loads(told.output) == json.loads(json.dumps(report()))


def test_nothing_seen_is_said_in_sentences() -> None:
    empty = asdict(Observations(began_s=0.0).report(at_s=0.0, bypass={}))
    with answering(200, json.dumps(empty).encode()) as url:
        shown = observe("--url", url)
    assert "no call was seen" in shown.output
    assert "nothing was seen to bypass the proxy" in shown.output
    assert "0 steps" in summary(empty)


@pytest.mark.parametrize(
    ("status", "body", "part", "code"),
    [
        (409, b'{"detail": "set mode to observe"}', "set mode to observe", 1),
        (404, b"no", "404", 1),
        (500, b"[]", "500", 1),
        (200, b"no json", "Error", 69),
    ],
)
def test_other_answers(status: int, body: bytes, part: str, code: int) -> None:
    with answering(status, body) as url:
        shown = observe("--url", url)
    assert (shown.exit_code, part in shown.output) == (code, True), shown.output


def test_no_answer_and_no_url() -> None:
    assert observe("--url", "http://127.0.0.1:9").exit_code == 69
    assert "must be such as" in observe("--url", "127.0.0.1:9").output


AGENT = """
import asyncio, os, subprocess, sys
import coatcheck

def charge(invoice: int) -> int:
    return invoice

async def main():
    async with coatcheck.open_run("r", schema=1) as run:
        async for step in run.steps():
            for _ in range(2):
                await step.tool(charge, effect="once")(7)
            told = subprocess.run(
                [sys.executable, "-m", "coatcheck", "observe", "--json"], check=True,
                capture_output=True,
            )
            print(told.stdout.decode(), flush=True)
            await run.finish(None)

asyncio.run(main())
"""


def test_a_first_day_ends_in_a_report(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(AGENT)
    env = environ(COATCHECK_MODE="observe", COATCHECK_DATA=str(tmp_path / "data"))
    ran = coatcheck("run", "--", sys.executable, str(tmp_path / "agent.py"), env=env)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["never_saved"], told["doubled"], told["tools"][0]["again"]) == (1, 2, 1)
    assert "A deploy now would lose 0 steps" in ran.stderr
    assert "charge" in ran.stderr
