import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.inject import LISTS, inject, is_injected, uninject
from coatcheck_sidecar.core.inject_choice import INJECTED, Choice, Refused
from coatcheck_sidecar.core.inject_edits import apply
from coatcheck_sidecar.core.inject_pod import is_guaranteed, read_pod
from coatcheck_sidecar.core.inject_record import Noted


def choice(**options: Any) -> Choice:
    return Choice(**{"store": "s3://b/p", "image": "coatcheck:1", "version": "1", **options})


def template(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": list(containers) or [{"name": "agent"}], **spec}}


def spec_of(*containers: dict[str, Any], options: Any = None, **spec: Any) -> dict[str, Any]:
    done = inject(template(*containers, **spec), choice(**(options or {})))
    found: dict[str, Any] = done.template["spec"]
    return found


def test_what_an_agent_gets() -> None:
    spec = spec_of()
    (agent,) = spec["containers"]
    assert agent["env"][0] == {"name": "COATCHECK_SOCKET", "value": "/run/coatcheck/agent.sock"}
    assert agent["volumeMounts"] == [{"name": "coatcheck-run", "mountPath": "/run/coatcheck"}]
    assert agent["lifecycle"]["preStop"]["httpGet"] == {"path": "/drain/barrier", "port": 7071}
    assert spec["securityContext"] == {"supplementalGroups": [65532]}
    assert [one["name"] for one in spec["initContainers"]] == ["coatcheck"]


def test_the_grace_is_written_twice() -> None:
    for spec, grace in (
        (spec_of(), None),
        (spec_of(terminationGracePeriodSeconds=45), 45),
        (spec_of(options={"grace_s": 90}), 90),
        (spec_of(terminationGracePeriodSeconds=45, options={"grace_s": 90}), 90),
        (spec_of(terminationGracePeriodSeconds=None, options={"grace_s": 90}), 90),
    ):
        env = {one["name"]: one.get("value") for one in spec["initContainers"][0]["env"]}
        assert env["COATCHECK_GRACE_S"] == str(grace or 30)
        assert spec.get("terminationGracePeriodSeconds") == grace


@pytest.mark.parametrize("grace_s", [-1, 0, 1])
def test_no_grace_is_refused(grace_s: int) -> None:
    with pytest.raises(Refused, match="nothing can be shipped"):
        inject(template(terminationGracePeriodSeconds=grace_s), choice())


def test_a_guaranteed_pod_stays_one() -> None:
    resources = {"limits": {"cpu": "2", "memory": "1Gi"}}
    for options in ({}, {"is_plain": True}):
        done = inject(template({"name": "a", "resources": resources}), choice(**options))
        assert is_guaranteed(read_pod(Noted(done.template)))


def test_plain_is_the_last_container() -> None:
    spec = spec_of({"name": "a"}, options={"is_plain": True})
    assert [one["name"] for one in spec["containers"]] == ["a", "coatcheck"]
    assert "initContainers" not in spec


@pytest.mark.parametrize(
    ("said", "after"),
    [
        (None, ["7071"]), ("", ["7071"]), ("80", ["80", "7071"]), ("80, 90,", ["80", "90", "7071"]),
        ("7071", ["7071"]), ("7000-8000", ["7000-8000"]), ("80-90", ["80-90", "7071"]),
        ("a-b", ["a-b", "7071"]), (80, ["80", "7071"]),
    ],
)  # fmt: skip
def test_ports_that_a_mesh_leaves_alone(said: Any, after: list[str]) -> None:
    annotation = next(iter(LISTS))
    before = template()
    if said is not None:
        before["metadata"] = {"annotations": {annotation: said}}
    made = inject(before, choice()).template
    assert made["metadata"]["annotations"][annotation].split(",") == after
    assert uninject(made).template == before


def test_what_is_taken() -> None:
    for refused in (
        template({"name": "a"}, {"name": "coatcheck"}),
        template(volumes=[{"name": "coatcheck-data"}]),
        template({"name": "a", "ports": [{"containerPort": 7070}]}),
        template({"name": "a", "volumeMounts": [{"name": "x", "mountPath": "/run/coatcheck/"}]}),
        template(initContainers=[{"name": "coatcheck"}]),
    ):
        with pytest.raises(Refused) as caught:
            inject(refused, choice())
        assert caught.value.code == "taken"
    inject(template({"name": "a", "ports": [{"containerPort": 8080}]}), choice())
    inject(template({"name": "a", "volumeMounts": [{"mountPath": "/run"}]}), choice())


HOOKLESS: tuple[Any, ...] = (None, {})


def hooked(pre_stop: Any) -> dict[str, Any]:
    return template({"name": "a", "lifecycle": {"preStop": pre_stop, "postStart": {"x": 1}}})


def test_hooks() -> None:
    slept = inject(hooked({"exec": {"command": ["sleep", "7"]}}), choice())
    made = slept.template["spec"]["containers"][0]["lifecycle"]
    assert made["preStop"]["httpGet"]["path"] == "/drain/barrier?min_s=7"
    assert made["postStart"] == {"x": 1}
    assert [one.code for one in slept.findings] == ["hook-sleeps"]
    own = inject(hooked({"exec": {"command": ["bye"]}}), choice())
    assert own.template["spec"]["containers"][0]["lifecycle"] == {
        "preStop": {"exec": {"command": ["bye"]}},
        "postStart": {"x": 1},
    }
    assert [one.code for one in own.findings] == ["hook-kept"]
    long = inject(hooked({"sleep": {"seconds": 29}}), choice())
    assert [one.code for one in long.findings] == ["hook-sleeps", "sleep-long"]
    by_hand = inject(hooked({"httpGet": {"path": "/drain/barrier", "port": 7071}}), choice())
    assert by_hand.findings == ()
    for nothing in HOOKLESS:
        made = inject(hooked(nothing), choice()).template["spec"]["containers"][0]
        assert "/drain/barrier" in str(made["lifecycle"]["preStop"])


def test_what_an_agent_has_is_its_own() -> None:
    env = [
        {"name": "COATCHECK_SOCKET", "value": "/tmp/x"},
        {"name": "COATCHECK_MODE", "value": "enforce"},
    ]
    before = template({"name": "a", "env": env})
    done = inject(before, choice())
    assert done.template["spec"]["containers"][0]["env"] == env
    assert [one.code for one in done.findings] == ["environment-kept"]
    assert uninject(done.template).template == before


def test_groups_that_are_there_stay() -> None:
    before = template(securityContext={"supplementalGroups": [65532]})
    done = inject(before, choice())
    assert done.template["spec"]["securityContext"] == {"supplementalGroups": [65532]}
    assert uninject(done.template).template == before


def test_a_new_choice_takes_the_place_of_the_old_one() -> None:
    before = template({"name": "a", "lifecycle": {"preStop": {"sleep": {"seconds": 2}}}})
    first = inject(before, choice()).template
    second = inject(first, choice(image="coatcheck:2", version="2", config_map="tools"))
    assert second.edits
    assert second.template["spec"]["initContainers"][0]["image"] == "coatcheck:2"
    assert len(second.template["spec"]["initContainers"]) == 1
    assert apply(first, second.edits) == second.template
    assert uninject(second.template).template == before


def test_what_was_not_injected_can_not_be_taken_out() -> None:
    with pytest.raises(Refused) as caught:
        uninject(template())
    assert caught.value.code == "not-injected"
    assert not is_injected(template())
    assert is_injected(inject(template(), choice()).template)


NAMES = st.sampled_from(["istio-init", "istio-proxy", "migrate", "fetch"])
HOOKS = st.sampled_from(
    [{"exec": {"command": ["sleep", "3"]}}, {"sleep": {"seconds": 1}}, {"httpGet": {"port": 1}}, {}]
)
CONTAINER = st.fixed_dictionaries(
    {},
    optional={
        "env": st.sampled_from([None, [], [{"name": "A"}], [{"name": "COATCHECK_MODE"}]]),
        "volumeMounts": st.sampled_from([None, [], [{"name": "x", "mountPath": "/x"}]]),
        "lifecycle": st.sampled_from([None, {}]) | st.fixed_dictionaries({"preStop": HOOKS}),
        "resources": st.sampled_from([None, {}, {"limits": {"cpu": 1, "memory": 2}}]),
    },
)
SPEC: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "volumes": st.sampled_from([None, [], [{"name": "x"}]]),
        "initContainers": st.none() | st.lists(NAMES.map(lambda name: {"name": name}), max_size=3),
        "securityContext": st.sampled_from(
            [
                None,
                {},
                {"fsGroup": 1},
                {"supplementalGroups": []},
                {"supplementalGroups": [1, 65532]},
            ]
        ),
        "terminationGracePeriodSeconds": st.sampled_from([None, 2, 30, 900]),
        "restartPolicy": st.sampled_from(["Always"]),
    },
)
METADATA: st.SearchStrategy[Any] = st.sampled_from(
    [None, {}, {"annotations": None}, {"annotations": {}}, {"labels": {"a": "b"}}]
) | st.sampled_from(sorted(LISTS)).map(lambda name: {"annotations": {name: "80"}})
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "is_plain": st.booleans(),
        "grace_s": st.sampled_from([30, 60]),
        "hook_token": st.just("t" * 16),
        "config_map": st.just("tools"),
        "mode": st.just("observe"),
    },
)


@given(st.lists(CONTAINER, min_size=1, max_size=2), SPEC, METADATA, OPTIONS, OPTIONS)
def test_twice_is_once_and_out_again_is_as_before(
    containers: list[Any], spec: Any, metadata: Any, options: Any, others: Any
) -> None:
    named = [{"name": f"agent-{place}", **one} for place, one in enumerate(containers)]
    before = copy.deepcopy({"metadata": metadata, **template(*named, **spec)})
    kept = copy.deepcopy(before)
    one = choice(containers=tuple(agent["name"] for agent in named), **options)
    done = inject(before, one)
    assert before == kept
    assert apply(before, done.edits) == done.template
    again = inject(done.template, one)
    assert (again.edits, again.findings, again.template) == ((), done.findings, done.template)
    other = inject(done.template, choice(containers=(named[0]["name"],), **others))
    for made in (done, other):
        assert INJECTED in made.template["metadata"]["annotations"]
        out = uninject(made.template)
        assert (out.template, out.findings) == (before, ())
        assert apply(made.template, out.edits) == before
