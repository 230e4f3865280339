"""`coatcheck queue` on real stores, and as a process of its own that a scaler asks."""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from coatcheck_sidecar.cli.group import cli
from tests.cli.running import WAIT_S, environ
from tests.servers import LOOPBACK, free_ports


def ask(folder: Path, *args: str, status: int = 0) -> Result:
    env = {"COATCHECK_STORE": folder.as_uri(), "COLUMNS": "200"}
    result = CliRunner().invoke(cli, args, env=env)
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    store.mkdir()
    for number in range(3):
        ask(store, "submit", f"m{number}", "--queue", "mail")
    ask(store, "submit", "t0", "--queue", "train")
    return store


def test_a_table_a_number_and_json(folder: Path) -> None:
    assert ask(folder, "queue", "--count").stdout == "4\n"
    assert ask(folder, "queue", "mail", "--count").stdout == "3\n"
    assert ask(folder, "queue", "nobody", "--count").stdout == "0\n"
    told = json.loads(ask(folder, "queue", "--json").stdout)
    assert [(one["queue"], one["ready"]) for one in told["queues"]] == [("mail", 3), ("train", 1)]
    assert "WANTED" in ask(folder, "queue").stdout
    cut = ask(folder, "queue", "mail", "--count", "--limit", "2")
    assert (cut.stdout, "there are more" in cut.stderr) == ("2\n", True)


def test_what_can_not_be_meant(folder: Path) -> None:
    assert "letters, digits" in ask(folder, "queue", "a/b", status=2).stderr
    assert "host:port" in ask(folder, "queue", "--serve", "7072x", status=2).stderr
    both = ask(folder, "queue", "mail", "--serve", ":7072", status=2)
    assert "answers for every queue" in both.stderr


@contextmanager
def served(store: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "coatcheck", "queue", "--serve", f"{LOOPBACK}:{port}"]
    with subprocess.Popen(
        [*command, "--store", store], env=environ(), text=True, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == f"listening on {LOOPBACK}:{port}\n"
            yield process, f"http://{LOOPBACK}:{port}"
        finally:
            process.kill()


def get(url: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=WAIT_S) as answer:
        return json.load(answer)


def test_it_serves_until_sigterm(folder: Path) -> None:
    with served(folder.as_uri()) as (process, url):
        assert get(f"{url}/v1/queue")["wanted"] == 4
        assert get(f"{url}/v1/queues/mail")["wanted"] == 3
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{url}/v1/runs")
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0


def test_a_store_that_is_away_is_no_number() -> None:
    (port,) = free_ports(1)
    url = f"s3://bucket/prefix?endpoint=http://{LOOPBACK}:{port}"
    with served(url) as (_, base), pytest.raises(urllib.error.HTTPError, match="503"):
        get(f"{base}/v1/queues/mail")
