from typing import Any

import pytest

from coatcheck_sidecar.core.inject_choice import Choice, Severity
from coatcheck_sidecar.core.inject_edits import Draft
from coatcheck_sidecar.core.inject_findings import (
    environment_kept,
    hook_kept,
    hook_slept,
    of_pod,
    sleep_long,
)
from coatcheck_sidecar.core.inject_pod import read_pod


@pytest.mark.parametrize(
    ("spec", "options", "codes"),
    [
        ({}, {}, []),
        ({}, {"store": "file:///var/lib/coatcheck/store"}, ["store-in-pod"]),
        ({}, {"is_plain": True}, ["plain"]),
        ({"terminationGracePeriodSeconds": 601}, {}, ["grace-long"]),
        ({"terminationGracePeriodSeconds": 9}, {}, ["grace-short"]),
        ({"containers": [{"name": "istio-proxy"}]}, {}, ["mesh-stops-first"]),
        ({"containers": [{"name": "linkerd-proxy"}]}, {}, ["mesh-stops-first"]),
        ({"hostPID": True, "shareProcessNamespace": True}, {}, ["processes-shared"] * 2),
        ({"resources": {"limits": {"cpu": 1}}}, {}, ["pod-resources"]),
    ],
)
def test_what_is_told_of_a_pod(
    spec: dict[str, Any], options: dict[str, Any], codes: list[str]
) -> None:
    pod = read_pod(Draft({"spec": {"containers": [{"name": "a"}], **spec}}))
    choice = Choice(**{"store": "s3://b/p", "image": "i", "version": "1", **options})
    found = list(of_pod(pod, choice, grace_s=pod.grace_s))
    assert [finding.code for finding in found] == codes
    for finding in found:
        assert finding.severity is Severity.WARNING
        assert all((finding.what, finding.why, finding.mend))


def test_what_is_told_of_containers() -> None:
    assert "`sleep 5` became the barrier" in hook_slept("a", 5).what
    assert "its SIGTERM isn't held back" in hook_kept("a", "exec x").why
    assert "after 25 s" in sleep_long("a", 28, grace_s=30).why
    assert "--grace-s" in sleep_long("a", 28, grace_s=30).mend
    assert "COATCHECK_MODE (off)" in environment_kept("a", "COATCHECK_MODE", value="off").what
