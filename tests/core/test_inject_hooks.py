from typing import Any

import pytest

from coatcheck_sidecar.core import inject_hooks
from coatcheck_sidecar.core.drain import latch
from coatcheck_sidecar.core.inject_hooks import (
    barrier,
    barrier_cap_s,
    described,
    hook,
    is_barrier,
    slept_s,
)
from coatcheck_sidecar.servers.hooks import HEADER


def command(*words: Any) -> dict[str, Any]:
    return {"exec": {"command": list(words)}}


@pytest.mark.parametrize(
    ("pre_stop", "seconds"),
    [
        (command("sleep", "10"), 10),
        (command("/bin/sleep", "2.5"), 2.5),
        (command("/usr/bin/sleep", 7), 7),
        (command("sh", "-c", "sleep 15"), 15),
        (command("/bin/sh", "-c", " exec sleep 1m ; "), 60),
        (command("/bin/bash", "-c", "/bin/sleep 5s"), 5),
        (command("dash", "-c", "sleep 1h"), 3600),
        ({"sleep": {"seconds": 3}}, 3),
        ({"sleep": {"seconds": 0}}, 0),
        ({"sleep": {"seconds": True}}, None),
        ({"sleep": {}}, None),
        ({"sleep": None}, None),
        (command("sleep"), None),
        (command("sleep", "10", "20"), None),
        (command("sh", "-c", "sleep 5; kill 1"), None),
        (command("sh", "-c", "sleep $N"), None),
        (command("python", "-c", "sleep 5"), None),
        (command("sh", "-x", "sleep 5"), None),
        (command(["sleep"], "5"), None),
        ({"exec": {"command": "sleep 5"}}, None),
        ({"exec": None}, None),
        ({"exec": {"command": ["sleep", "1"]}, "httpGet": {}}, None),
        ({"httpGet": {"path": "/stop", "port": 80}}, None),
        ({}, None),
    ],
)
def test_what_only_sleeps(pre_stop: dict[str, Any], seconds: float | None) -> None:
    assert slept_s(pre_stop) == seconds


def test_hooks() -> None:
    assert hook("/drain", token="") == {"httpGet": {"path": "/drain", "port": 7071}}
    request = barrier(token="t" * 16, min_s=2.5)["httpGet"]
    assert request["path"] == "/drain/barrier?min_s=2.5"
    assert request["httpHeaders"] == [{"name": HEADER, "value": "t" * 16}]
    assert inject_hooks.TOKEN_HEADER == HEADER


def test_a_barrier_is_known() -> None:
    assert is_barrier(barrier(token=""))
    assert is_barrier(barrier(token="", min_s=3))
    assert not is_barrier(hook("/drain", token=""))
    assert not is_barrier({"httpGet": {"port": 80}})
    assert not is_barrier(command("curl", "/drain/barrier"))


@pytest.mark.parametrize(
    ("pre_stop", "words"),
    [
        (command("nginx", "-s", "quit"), "exec nginx -s quit"),
        ({"httpGet": {"path": "/stop", "port": 80}}, "httpGet /stop"),
        ({"tcpSocket": {"port": 80}}, "tcpSocket 80"),
        ({"exec": {}}, "exec"),
        ({"exec": None}, "exec"),
        ({}, "nothing"),
        (command("x" * 200), "exec " + "x" * 75),
    ],
)
def test_a_hook_in_a_few_words(pre_stop: dict[str, Any], words: str) -> None:
    assert described(pre_stop) == words


@pytest.mark.parametrize("grace_s", [4, 20, 60])
def test_the_cap_is_that_of_the_drain(grace_s: float) -> None:
    begun = latch(None, "x", now_s=0.0, grace_s=grace_s, margin_s=1.0)
    assert barrier_cap_s(grace_s) == begun.barrier_s
