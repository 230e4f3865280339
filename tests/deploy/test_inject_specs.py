"""The set of specs: each is injected right, or refused with the reason."""

import copy
import difflib
import functools
import json
from typing import Any

import pytest
import yaml

from coatcheck_sidecar.core.inject import inject
from coatcheck_sidecar.core.inject_choice import INJECTED
from coatcheck_sidecar.core.inject_edits import Draft, apply
from coatcheck_sidecar.core.inject_record import ANNOTATION_PATH, decode
from coatcheck_sidecar.core.inject_text import inject_text, uninject_text
from coatcheck_sidecar.core.workloads import workloads_of
from coatcheck_sidecar.core.yaml_edit import same
from coatcheck_sidecar.core.yaml_nodes import NotYaml, parse
from tests.deploy.specs import CASES, FOLDER, INJECTABLE, choice_for, meant, text_of


@functools.cache
def injected(name: str) -> str:
    return inject_text(text_of(name), choice_for(name), select=meant).text


def templates(text: str) -> list[Any]:
    """Those that are meant, as plain objects; what the text was before is left out."""
    found = []
    for document in parse(text.removeprefix("\ufeff")):
        for workload in workloads_of(document.value):
            if meant(workload):
                draft = Draft(copy.deepcopy(workload.template))
                if (said := draft.at(ANNOTATION_PATH)) is not None:
                    draft.replace(ANNOTATION_PATH, decode(said).without_text().encode())
                found.append(draft.document)
    return found


def test_each_spec_has_its_case() -> None:
    assert sorted(CASES) == sorted(path.name for path in FOLDER.iterdir())
    assert len(CASES) >= 30


@pytest.mark.parametrize("name", sorted(CASES))
def test_what_is_said_of_it(name: str) -> None:
    case, text = CASES[name], text_of(name)
    if not case.is_yaml:
        with pytest.raises(NotYaml):
            inject_text(text, choice_for(name), select=meant)
        return
    done = inject_text(text, choice_for(name), select=meant)
    assert len(done.told) == case.workloads
    assert {f.code for one in done.told for f in one.findings} == case.findings
    refused = {one.refused.code for one in done.told if one.refused}
    assert refused == ({case.refused} if case.refused else set())
    assert done.is_refused == bool(case.refused)
    if case.refused:
        assert done.text == text


@pytest.mark.parametrize("name", INJECTABLE)
def test_the_text_says_what_the_edits_of_the_objects_make(name: str) -> None:
    before, after = text_of(name), injected(name)
    made = []
    for template in templates(before):
        done = inject(template, choice_for(name))
        assert apply(template, done.edits) == done.template
        made.append(done.template)
    assert same(templates(after), made)
    # All else, the other documents too, says what it said.
    olds, news = parse(before.removeprefix("\ufeff")), parse(after.removeprefix("\ufeff"))
    assert len(olds) == len(news)
    for old, new in zip(olds, news, strict=True):
        whole: Any = copy.deepcopy(new.value)
        for workload in workloads_of(old.value):
            if workload.path:
                whole = Draft(whole)
                whole.replace(workload.path, dict(workload.template))
                whole = whole.document
            else:
                whole = old.value
        assert same(whole, old.value)


@pytest.mark.parametrize("name", INJECTABLE)
def test_twice_is_once(name: str) -> None:
    once = injected(name)
    again = inject_text(once, choice_for(name), select=meant)
    assert again.text == once
    for template in templates(once):
        assert inject(template, choice_for(name)).edits == ()


@pytest.mark.parametrize("name", INJECTABLE)
def test_uninject_gives_back_every_byte(name: str) -> None:
    done = uninject_text(injected(name), select=meant)
    assert done.text.encode() == (FOLDER / name).read_bytes()
    assert not any(one.findings for one in done.told)


UNTOUCHED = ("crlf.yaml", "deployment.yaml", "istio-native.yaml")
MARKS = (
    *(
        '"',
        "[",
        "]",
        "{",
        "}",
        "*env",
        "*mounts",
        "*labels",
        "null",
        "~",
    ),  # flows, aliases, emptiness
    *("preStop", "exec", "command", "- sh", "- -c", "sleep"),  # hooks that slept
    *("excludeInboundPorts", "terminationGracePeriodSeconds", "tidy up"),
)


@pytest.mark.parametrize("name", INJECTABLE)
def test_lines_stay_and_in_their_order(name: str) -> None:
    """What goes is a line into which something was put, a hook that slept, an emptiness."""
    old, new = text_of(name).splitlines(), injected(name).splitlines()
    changed = difflib.unified_diff(old, new, n=0, lineterm="")
    gone = [line[1:] for line in changed if line.startswith("-") and not line.startswith("---")]
    assert all(any(mark in line for mark in MARKS) for line in gone), gone
    if name in UNTOUCHED:
        assert gone == []


@pytest.mark.parametrize("name", INJECTABLE)
def test_comments_stay(name: str) -> None:
    after = injected(name)
    for line in text_of(name).splitlines():
        comment = line[line.find("#") :] if "#" in line else ""
        if comment and comment != "# seconds":  # of the hook that was replaced
            assert comment in after


@pytest.mark.parametrize("name", ["crlf.yaml"])
def test_line_ends_are_of_one_kind(name: str) -> None:
    assert injected(name).count("\n") == injected(name).count("\r\n")


def test_an_alias_to_what_changes_is_written_out() -> None:
    after = injected("anchors.yaml")
    left, right = templates(after)[0]["spec"]["containers"]
    assert [one["name"] for one in right["env"]] == ["MODEL", "DEBUG"]
    assert [one["name"] for one in left["env"]][:2] == ["MODEL", "DEBUG"]
    assert "COATCHECK_SOCKET" in str(left)
    assert "coatcheck" not in str(right)
    assert "image: *image" in after


def test_json_stays_json() -> None:
    made = json.loads(injected("list.json"))
    planner = made["items"][0]["spec"]["template"]
    assert planner["spec"]["initContainers"][0]["name"] == "coatcheck"
    assert INJECTED in planner["metadata"]["annotations"]


NEWER = {"pod-resources.yaml": "1.37", "hook-sleeps-long.yaml": "1.33"}
"""The first version looked at that knows what these specs ask for."""


def plain(value: Any) -> Any:
    """As the API server keeps it: without what is null."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if inner is not None}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
@pytest.mark.parametrize("name", INJECTABLE)
def test_what_comes_of_it_is_valid(name: str, version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    if version < NEWER.get(name, ""):
        pytest.skip(f"asks for what Kubernetes {version} doesn't have")
    for document in parse(injected(name).removeprefix("\ufeff")):
        value = plain(document.value) or {}
        value.pop("x-base", None)
        if value and not value["apiVersion"].startswith(("argoproj.io", "keda.sh")):
            for one in value.get("items", [value]):
                validate.validate(one, version, strict=True)


def test_validation_can_fail() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    broken = yaml.safe_load(injected("pod.yaml"))
    broken["spec"]["containers"][-1]["startupProbes"] = {}
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, "1.33", strict=True)
