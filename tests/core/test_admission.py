"""Which pods are changed, by which patch, and what is said of those that are not."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.admission import (
    OVERRIDES,
    BadReview,
    Review,
    Verdict,
    answer,
    decide,
    parse,
)
from coatcheck_sidecar.core.inject import inject
from coatcheck_sidecar.core.inject_choice import Choice
from coatcheck_sidecar.core.inject_edits import apply
from tests.deploy.reviews import Json, patched, pod, review, wanted

CHOICE = Choice(
    store="s3://bucket/prefix", image="registry.example/coatcheck:0.1.0", version="0.1.0"
)


def answered(document: Json, *, denies: bool = True) -> Json:
    found = parse(document)
    said = answer(found, decide(found, CHOICE, denies=denies))
    assert (said["apiVersion"], said["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response: Json = said["response"]
    assert response["uid"] == document["request"]["uid"]
    json.dumps(said, allow_nan=False)
    return response


def sidecar_of(pod: Json) -> Json:
    (found,) = [one for one in pod["spec"]["initContainers"] if one["name"] == "coatcheck"]
    env = {each["name"]: each.get("value") for each in found["env"]}
    return {**found, "env": env}


def test_an_annotated_pod_gets_what_inject_says() -> None:
    template = pod(annotations=wanted())
    response = answered(review(template))
    assert response["allowed"] is True
    made = patched(template, response)
    assert made == apply(template, inject(template, CHOICE).edits) != template
    assert sidecar_of(made)["env"]["COATCHECK_STORE"] == "s3://bucket/prefix"
    assert sidecar_of(made)["image"] == "registry.example/coatcheck:0.1.0"


def test_a_pod_that_has_its_sidecar_stays_as_it_is() -> None:
    template = pod(annotations=wanted())
    made = patched(template, answered(review(template)))
    again = answered(review(made))
    assert "patch" not in again
    assert "warnings" not in again


@pytest.mark.parametrize(
    "annotations", [None, {}, {"coatcheck.dev/inject": "false"}, {"coatcheck.dev/store": "s3://x"}]
)
def test_what_is_not_annotated_is_not_changed(annotations: Json | None) -> None:
    assert answered(review(pod(annotations=annotations))) == {"uid": "705ab4f5", "allowed": True}


@pytest.mark.parametrize("said", ["True", "yes", "1", ""])
def test_an_unclear_wish_changes_nothing_and_is_told(said: str) -> None:
    response = answered(review(pod(annotations={"coatcheck.dev/inject": said})))
    assert response["allowed"] is True
    assert "patch" not in response
    assert 'only "true" adds the sidecar' in response["warnings"][0]


@pytest.mark.parametrize(
    "changes",
    [
        {"operation": "UPDATE"},
        {"operation": "DELETE", "object": None},
        {"subResource": "ephemeralcontainers"},
        {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}},
        {"kind": None},
    ],
)
def test_only_pods_that_are_being_made_are_changed(changes: Json) -> None:
    response = answered(review(pod(annotations=wanted()), **changes))
    assert response == {"uid": "705ab4f5", "allowed": True}


def test_a_pod_may_say_for_itself() -> None:
    annotations = wanted(store="s3://other/p", grace_s="90", image="i:2", mode="observe")
    template = pod(annotations=annotations | {"coatcheck.dev/containers": "agent"})
    made = sidecar_of(patched(template, answered(review(template))))
    assert made["image"] == "i:2"
    assert made["env"]["COATCHECK_STORE"] == "s3://other/p"
    assert made["env"]["COATCHECK_GRACE_S"] == "90"


@pytest.mark.parametrize(
    ("annotations", "why"),
    [
        (wanted(grace_s="soon"), "coatcheck.dev/grace-s is 'soon', no whole number"),
        (wanted(stor="s3://x"), "there is no annotation coatcheck.dev/stor; a pod may say"),
    ],
)
def test_a_slip_in_an_annotation_is_refused_or_told(annotations: Json, why: str) -> None:
    template = pod(annotations=annotations)
    denied = answered(review(template), denies=True)
    assert denied["allowed"] is False
    assert denied["status"]["code"] == 403
    assert why in denied["status"]["message"]
    told = answered(review(template), denies=False)
    assert told["allowed"] is True
    assert "patch" not in told
    assert why in told["warnings"][0]


def test_what_inject_refuses_is_denied_with_its_reason() -> None:
    template = pod(annotations=wanted(), os={"name": "windows"})
    found = parse(review(template))
    verdict = decide(found, CHOICE, denies=True)
    assert verdict.is_denied
    assert not verdict.patch
    assert "indows" in verdict.refused


def test_findings_are_told_and_cut_to_what_the_api_server_takes() -> None:
    verdict = Verdict(warnings=tuple(f"{number} " + "x" * 999 for number in range(20)))
    response = answer(Review("u", None), verdict)["response"]
    assert len(response["warnings"]) == 10
    assert max(map(len, response["warnings"])) == 250


def test_findings_of_inject_are_told() -> None:
    own = {"preStop": {"exec": {"command": ["/bin/flush"]}}}
    container = {"name": "agent", "image": "a:1", "lifecycle": own}
    response = answered(review(pod(annotations=wanted(), containers=[container])))
    assert response["allowed"] is True
    assert "patch" in response
    assert any(text.startswith("coatcheck: ") for text in response["warnings"])


def test_every_override_is_a_field_of_the_choice() -> None:
    for field, read in OVERRIDES.values():
        assert field in Choice.__dataclass_fields__
        assert callable(read)


def without(path: str) -> Json:
    document = review(pod(annotations=wanted()))
    *above, last = path.split(".")
    place: Any = document
    for step in above:
        place = place[step]
    del place[last]
    return document


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (None, "no JSON object"),
        ([], "no JSON object"),
        ({}, "not admission.k8s.io/v1 AdmissionReview"),
        ({**review(None), "apiVersion": "admission.k8s.io/v1beta1"}, "admission.k8s.io/v1beta1"),
        ({**review(None), "request": None}, "request is missing"),
        (without("request.uid"), "request.uid is missing"),
        (review(None), "request.object is no pod"),
        (without("request.object.spec"), "request.object is no pod"),
        (review({"spec": {}, "metadata": []}), "request.object.metadata is no map"),
        (
            review({"spec": {}, "metadata": {"annotations": ["x"]}}),
            "request.object.metadata.annotations is no map",
        ),
    ],
)
def test_a_bad_review_gets_a_clear_answer(document: object, why: str) -> None:
    if (
        isinstance(document, dict)
        and isinstance(document.get("request"), dict)
        and why.endswith("metadata is no map")
    ):
        document["request"]["object"]["metadata"] = ["x"]
    with pytest.raises(BadReview, match=why.replace(".", r"\.")):
        parse(document)


def test_a_pod_without_metadata_is_let_pass() -> None:
    found = parse(review({"spec": {"containers": []}}))
    assert (found.name, found.annotations) == ("", {})
    assert decide(found, CHOICE, denies=True) == Verdict()


def test_a_pod_is_told_by_its_name_or_its_beginning() -> None:
    assert parse(review(pod())).name == "invoice-agent-6d4f-"
    named = pod()
    named["metadata"]["name"] = "a"
    assert parse(review(named)).name == "a"
    assert Review("u", None).name == ""


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


PARTS = ("containers", "initContainers", "volumes", "securityContext", "os", "nodeSelector")


@given(st.dictionaries(st.sampled_from(PARTS), ANYTHING))
def test_a_pod_of_whatever_shape_is_denied_by_name(spec: dict[str, object]) -> None:
    """None of it has a container with a name."""
    found = parse(review({"metadata": {"annotations": wanted()}, "spec": spec}))
    verdict = decide(found, CHOICE, denies=True)
    assert verdict.is_denied
    assert verdict.refused.startswith("coatcheck: ")


@given(ANYTHING)
def test_whatever_comes_is_answered_or_refused_by_name(document: object) -> None:
    for whole in (document, review(None, object=document), review(None, kind=document)):
        try:
            found = parse(copy.deepcopy(whole))
        except BadReview:
            continue
        assert decide(found, CHOICE, denies=True).patch == ()
