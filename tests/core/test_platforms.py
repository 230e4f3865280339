"""Which place it is, and what it documents."""

import signal

import pytest

from coatcheck_sidecar.core.platforms import PLATFORMS, detect

PID = 7


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "laptop"),
        ({"HOME": "/"}, "laptop"),
        ({"K_SERVICE": "agents"}, "cloud-run"),
        ({"CLOUD_RUN_JOB": "nightly"}, "cloud-run"),
        ({"CLOUD_RUN_WORKER_POOL": "agents"}, "cloud-run"),
        ({"FLY_APP_NAME": "agents", "FLY_MACHINE_ID": "3d8d"}, "fly"),
        ({"ECS_CONTAINER_METADATA_URI_V4": "http://169.254.170.2/v4/1"}, "ecs"),
        ({"INVOCATION_ID": "0123"}, "systemd"),
        ({"INVOCATION_ID": "0123", "SYSTEMD_EXEC_PID": "7"}, "systemd"),
        ({"INVOCATION_ID": "0123", "SYSTEMD_EXEC_PID": "1234"}, "laptop"),
        ({"INVOCATION_ID": "0123", "FLY_MACHINE_ID": "3d8d"}, "fly"),
        ({"K_SERVICE": ""}, "laptop"),
    ],
)
def test_a_place_is_known_by_its_variables(environ: dict[str, str], name: str) -> None:
    assert detect(environ, pid=PID) == name


def test_what_each_place_documents() -> None:
    figures = {name: (p.stop, p.grace_s, p.grace_s_max) for name, p in PLATFORMS.items()}
    unbounded = float("inf")
    assert figures == {
        "agentcore": (signal.SIGTERM, 15, 15),
        "cloud-run": (signal.SIGTERM, 10, 10),
        "fly": (signal.SIGINT, 5, 300),
        "ecs": (signal.SIGTERM, 30, 120),
        "systemd": (signal.SIGTERM, 90, unbounded),
        "laptop": (signal.SIGINT, 30, unbounded),
    }
