import copy

from coatcheck_sidecar.core.doctor_pod import Subject, subject_of
from coatcheck_sidecar.core.inject_edits import Draft
from coatcheck_sidecar.core.inject_pod import read_pod
from tests.core.doctoring import AGENT, Template, agent, sidecar, well


def subject(template: Template) -> Subject:
    found = subject_of(read_pod(Draft(template)))
    assert found is not None
    return found


def agents(template: Template) -> list[str]:
    return [one["name"] for one in subject(template).agents]


def test_a_sidecar_by_its_name_or_by_what_it_does() -> None:
    template = well()
    sidecar(template)["name"] = "other"
    assert subject(template).sidecar["name"] == "other"
    assert subject_of(read_pod(Draft(copy.deepcopy(AGENT)))) is None


def test_agents_are_those_who_use_the_socket_or_may_be_meant_to() -> None:
    template = well()
    template["spec"]["containers"].append({"name": "log", "image": "l"})
    assert agents(template) == ["agent"]
    for part in ("env", "volumeMounts"):
        agent(template).pop(part)
    assert agents(template) == ["agent", "log"]
    template["metadata"]["annotations"]["coatcheck.dev/containers"] = "log"
    assert agents(template) == ["log"]


def test_settings_that_are_written_and_others() -> None:
    template = well()
    assert subject(template).told("MODE") == "enforce"
    assert subject(template).told("LEASE_S", "30") == "30"
    sidecar(template)["env"].append({"name": "COATCHECK_LEASE_S", "valueFrom": {"x": 1}})
    assert subject(template).told("LEASE_S", "30") is None
    assert subject(template).number("LEASE_S", 30) is None
    mount = {"name": "c", "mountPath": "/etc/coatcheck", "readOnly": True}
    for more in ({"args": ["sidecar", "--lease-s", "5"]}, {"volumeMounts": [mount]}):
        template = well()
        sidecar(template).update(more)
        assert subject(template).told("LEASE_S", "30") is None
        assert subject(template).told("MODE") == "enforce"


def test_where_a_path_lies() -> None:
    template = well()
    found = subject(template)
    volume, below = found.lies(found.sidecar, "/run/coatcheck/agent.sock") or ({}, "")
    assert (volume["name"], below) == ("coatcheck-run", "agent.sock")
    assert found.lies(found.sidecar, "/run/coatchecks") is None
    sidecar(template)["volumeMounts"].append({"name": "root", "mountPath": "/", "subPath": "a/b"})
    found = subject(template)
    volume, below = found.lies(found.sidecar, "/x/y") or ({}, "")
    assert (volume, below) == ({"name": "root"}, "a/b/x/y")
