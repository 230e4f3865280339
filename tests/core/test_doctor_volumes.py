import pytest

from tests.core.doctoring import Change, Template, agent, codes, say, severity, sidecar, volume


def data(**empty_dir: object) -> Change:
    return lambda t: volume(t, "coatcheck-data").update(emptyDir=empty_dir)


def test_the_data_folder_and_its_limit() -> None:
    assert codes(data(sizeLimit="2Gi")) == []
    assert codes(data()) == ["data-unlimited"]
    assert codes(lambda t: volume(t, "coatcheck-data").update(emptyDir=None)) == ["data-unlimited"]
    lower = [say("COATCHECK_DATA_BYTES_MAX", "0"), data(sizeLimit="1Gi")]
    assert codes(*lower) == ["data-limit-low"]
    assert codes(*lower, say("COATCHECK_SPOOL_BYTES_MAX", "104857600")) == []
    assert codes(data(sizeLimit="1500Mi")) == ["data-limit-disagrees"]
    assert codes(data(sizeLimit="plenty")) == []


def test_memory_is_no_disk() -> None:
    assert codes(data(sizeLimit="2Gi", medium="Memory")) == ["data-in-memory"]


def test_a_data_folder_on_no_volume_or_on_another() -> None:
    def unmounted(template: Template) -> None:
        sidecar(template)["volumeMounts"].pop()

    assert codes(unmounted) == ["data-unmounted"]
    claim = {"name": "coatcheck-data", "persistentVolumeClaim": {"claimName": "x"}}

    def claimed(template: Template) -> None:
        found = volume(template, "coatcheck-data")
        found.clear()
        found.update(claim)

    assert codes(claimed) == []


@pytest.mark.parametrize(
    ("store", "found"),
    [
        ("s3://bucket/prefix", []),
        ("file:///var/lib/coatcheck/store", ["unfenced"]),
        ("file:///somewhere", ["unfenced"]),
        (None, ["unfenced"]),
    ],
)
def test_stores(store: str | None, found: list[str]) -> None:
    assert codes(say("COATCHECK_STORE", store)) == found


def test_a_store_on_a_volume_of_its_own_may_be_one() -> None:
    def claimed(template: Template) -> None:
        spec = template["spec"]
        spec["volumes"].append({"name": "s", "persistentVolumeClaim": {"claimName": "x"}})
        sidecar(template)["volumeMounts"].append({"name": "s", "mountPath": "/store"})

    assert codes(claimed, say("COATCHECK_STORE", "file:///store/runs")) == []


def mounts(template: Template, at: str, sub_path: str = "") -> None:
    (mount,) = agent(template)["volumeMounts"]
    mount["mountPath"] = at
    if sub_path:
        mount["subPath"] = sub_path


def test_the_socket_is_one_file_for_both() -> None:
    assert codes(lambda t: mounts(t, "/elsewhere")) == ["socket-not-shared"]
    moved = say("COATCHECK_SOCKET", "/elsewhere/agent.sock", of=agent)
    assert codes(lambda t: mounts(t, "/elsewhere"), moved) == []
    assert codes(lambda t: mounts(t, "/run/coatcheck", "x")) == ["socket-not-shared"]
    assert codes(lambda t: agent(t).pop("volumeMounts")) == ["socket-not-shared"]
    assert codes(say("COATCHECK_SOCKET", "/tmp/agent.sock")) == ["socket-unmounted"]


def context(template: Template, **fields: object) -> None:
    template["spec"]["securityContext"] = fields


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"runAsUser": 1000}, ["socket-group"]),
        ({"runAsUser": 1000, "fsGroup": 2000}, []),
        ({"runAsUser": 1000, "runAsGroup": 65532}, []),
        ({"runAsUser": 0}, []),
        ({"runAsUser": 65532}, []),
        ({}, ["socket-group"]),
    ],
)
def test_who_may_open_the_socket(fields: dict[str, object], found: list[str]) -> None:
    assert codes(lambda t: context(t, **fields)) == found


def test_what_the_images_user_is_no_template_says() -> None:
    assert severity("socket-group", lambda t: context(t)) == "warning"
    assert severity("socket-group", lambda t: context(t, runAsUser=1000)) == "error"


def test_uids_that_are_allowed() -> None:
    assert codes(say("COATCHECK_ALLOWED_UIDS", "1000,1001")) == []
    assert codes(say("COATCHECK_ALLOWED_UIDS", "1001")) == ["uid-not-allowed"]


@pytest.mark.parametrize("name", ["DATA", "SOCKET", "STORE", "JOURNAL_BYTES_MAX"])
def test_what_comes_from_elsewhere_is_not_judged(name: str) -> None:
    def change(template: Template) -> None:
        sidecar(template)["env"].append({"name": f"COATCHECK_{name}", "valueFrom": {"x": 1}})
        volume(template, "coatcheck-data")["emptyDir"]["sizeLimit"] = "1Ki"

    others: dict[str, list[str]] = {"DATA": [], "JOURNAL_BYTES_MAX": []}
    kept = ["data-limit-low", "data-limit-disagrees"]
    assert codes(change) == others.get(name, kept)


def test_where_an_agent_looks_may_come_from_elsewhere() -> None:
    def change(template: Template) -> None:
        agent(template)["env"] = [{"name": "COATCHECK_SOCKET", "valueFrom": {"x": 1}}]
        mounts(template, "/elsewhere")

    assert codes(change) == []
