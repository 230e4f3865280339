import copy

import pytest

from coatcheck_sidecar.core.doctor import examine
from coatcheck_sidecar.core.inject import inject
from coatcheck_sidecar.core.inject_choice import ANNOTATION
from tests.core.doctoring import AGENT, CHOICE, agent, codes, severity, sidecar, well


def test_what_inject_makes_is_well() -> None:
    assert codes() == []
    assert [one.code for one in examine(well())] == ["needs-1.29"]


def test_a_plain_sidecar_is_well_but_for_being_one() -> None:
    choice = CHOICE.__class__(
        store="s3://bucket/prefix", image="coatcheck:1", version="1", is_plain=True
    )
    assert codes(template=inject(copy.deepcopy(AGENT), choice).template) == ["plain"]


def test_an_init_container_that_must_end_first() -> None:
    def change(template: object) -> None:
        del sidecar(template)["restartPolicy"]  # type: ignore[arg-type]

    assert codes(change) == ["init-without-restart"]
    assert severity("init-without-restart", change) == "error"


def test_without_a_startup_probe() -> None:
    assert codes(lambda t: sidecar(t).pop("startupProbe")) == ["startup-unprobed"]


def test_a_pod_that_was_promised_a_sidecar() -> None:
    template = copy.deepcopy(AGENT)
    assert codes(template=template) == ["no-sidecar"]
    template["metadata"]["annotations"][ANNOTATION] = "true"
    assert codes(template=template) == ["annotated-without-sidecar"]
    (there,) = examine(template)
    (made,) = examine(template, is_pod=True)
    assert (there.severity, made.severity) == ("warning", "error")


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("hostNetwork", True, "host-network"),
        ("nodeSelector", {"kubernetes.io/os": "windows"}, "windows"),
        ("containers", [], "no-containers"),
        ("volumes", "none", "not-a-template"),
    ],
)
def test_where_it_cannot_work(field: str, value: object, code: str) -> None:
    assert codes(lambda t: t["spec"].update({field: value})) == [code]


def test_the_worst_comes_first() -> None:
    found = codes(
        lambda t: sidecar(t).pop("startupProbe"),
        lambda t: agent(t).pop("lifecycle"),
        lambda t: sidecar(t).pop("lifecycle"),
    )
    assert found == ["drain-hook-missing", "barrier-missing", "startup-unprobed"]
